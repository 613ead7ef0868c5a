"""The figure of a cascade: visual tokens against errors, under both accounts of the tokens."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

import calibration
from experiments.reporting import evaluation, figures
from experiments.reporting.cascade.curve import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = (
    ("asked", "visual tokens asked, all stages"),
    ("answered", "visual tokens of the stage that answered"),
)
_CASCADE, _CHANCE, _ORACLE = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito (2008)


def draw(found: Curve, path: pathlib.Path, table: str) -> tuple[pathlib.Path, ...]:
    """Draw a cascade beside each budget alone, chance and the oracle.

    The band and the bars are 95 % intervals of the error rate.

    Args:
        found: the curve.
        path: of the files, without the suffix.
        table: the curve's numbers, as CSV.

    Returns:
        The files written, the same bytes for the same curve.

    Raises:
        InputError: matplotlib is not installed.
    """
    return figures.save(lambda: _figure(found), path, table)


def _figure(found: Curve) -> Figure:
    """Return one panel per account, the legend below both."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), layout="constrained")
    for axes, (account, label) in zip(figure.subplots(1, 2, sharey=True), _PANELS, strict=True):
        _panel(axes, found, account)
        axes.set_xlabel(label)
    figure.axes[0].set_ylabel("error rate (%)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(
        f"{found.stages.heading}\ncascade of {found.stages.method}; "
        "bars and band: 95 % intervals by resampling pictures",
        fontsize=9,
    )
    return figure


def _panel(axes: Axes, found: Curve, account: str) -> None:
    """Draw errors against one account of the tokens."""
    alone, low, high = _percent(found.fixed.wrong)
    axes.errorbar(
        getattr(found.fixed, account)[0],
        alone,
        np.maximum([alone - low, high - alone], 0),
        label="one budget alone",
        color="black",
        marker="o",
        markersize=4,
        linestyle="none",
        elinewidth=0.9,
        capsize=2,
    )
    value, low, high = _percent(found.cascade.wrong)
    tokens = getattr(found.cascade, account)[0]
    axes.fill_between(tokens, low, high, color=_CASCADE, alpha=0.12, linewidth=0)
    axes.plot(tokens, value, color=_CASCADE, linewidth=1.6, label="cascade, by margin")
    chance, *_ = _percent(found.chance.wrong)
    axes.plot(tokens, chance, color=_CHANCE, linewidth=1.2, linestyle="--", label="by chance")
    best, *_ = _percent(found.oracle.wrong)
    axes.plot(
        *(getattr(found.oracle, account)[0], best),
        **{"color": _ORACLE, "marker": "*", "markersize": 9, "linestyle": "none"},
        label="oracle",
    )
    ticks = np.unique(found.fixed.answered[0])
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)


def _percent(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return float[1+R, P] as values with their intervals, in percent."""
    with evaluation.on_host():
        low, high = calibration.percentile_interval(jnp.asarray(samples[1:]))
    return 100 * samples[0], 100 * np.asarray(low), 100 * np.asarray(high)
