"""Figures of a run, with the numbers that were drawn beside them. Axis letter: P points."""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.harness.errors import InputError
from experiments.reporting.curves import Curves
from llava_jax import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# (metric, factor, axis label)
_PANELS = (
    ("accuracy", 100, "accuracy (%)"),
    ("ece", 1, "expected calibration error (0 to 1)"),
)
# Okabe and Ito (2008), safe for the colour-blind: black is left to full tokens, and their
# yellow is too pale for lines. 6 colours and 7 markers tell 42 methods apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
MARKERS = "osD^vPX"
_SPREAD = 0.24  # octaves over which the methods stand beside each other
_LEGEND_COLUMNS = 5
_STYLE: dict[str, Any] = {
    "svg.hashsalt": "llava-jax",  # the same ids in the same figure
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "0.9",
}


_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}
"""Formats, and what of them would differ from one day or version to the next."""


def budget_curves(curves: Curves, path: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """Draw accuracy and ECE against the budget, and write the numbers beside.

    Bars are the 95 % intervals of the points, the band that of full tokens.

    Args:
        curves: of a run.
        path: of the files, without the suffix; its folder is made.

    Returns:
        The files written, the same bytes for the same curves.

    Raises:
        InputError: matplotlib is not installed.
    """
    return save(lambda: _draw(curves), path, _csv(curves))


def require_matplotlib() -> None:
    """Raise InputError unless matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("figures need matplotlib: pip install -e '.[figures]'")


def save(draw: Callable[[], Figure], path: pathlib.Path, table: str) -> tuple[pathlib.Path, ...]:
    """Write a figure, and the numbers that were drawn beside it.

    Args:
        draw: makes the figure, in this module's style.
        path: of the files, without the suffix; its folder is made.
        table: the numbers, as CSV.

    Returns:
        The files written: .png, .svg, .pdf and .csv.

    Raises:
        InputError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib import style

    path.parent.mkdir(parents=True, exist_ok=True)
    files = tuple(path.with_name(f"{path.name}.{kind}") for kind in _METADATA)
    with style.context(["default", _STYLE]):
        figure = draw()
        for file, (kind, metadata) in zip(files, _METADATA.items(), strict=True):
            with atomic.writing(file) as handle:
                figure.savefig(handle, format=kind, dpi=150, metadata=metadata)
    beside = path.with_name(f"{path.name}.csv")
    atomic.write(beside, table)
    return (*files, beside)


def _draw(curves: Curves) -> Figure:
    """Return the figure: one panel per metric, the legend below both."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), layout="constrained")
    figure.set_layout_engine("constrained", wspace=0.06)
    for axes, panel in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        _panel(axes, curves, *panel)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns = math.ceil(len(labels) / math.ceil(len(labels) / _LEGEND_COLUMNS))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    bars = "bars and band: 95 % intervals by resampling pictures, not of differences"
    figure.suptitle(f"{curves.heading}\n{bars}", fontsize=9)
    return figure


def _panel(axes: Axes, curves: Curves, metric: str, factor: float, label: str) -> None:
    """Draw one metric."""
    found = curves.values(metric)
    value, low, high = (factor * np.asarray(x) for x in (found.value, found.low, found.high))
    budgets = np.array([point.budget for point in curves.points])
    full = f"full tokens, K = {budgets[0]}"
    axes.axhspan(low[0], high[0], color="black", alpha=0.08, linewidth=0)
    axes.axhline(value[0], color="black", linewidth=1.2, linestyle="--", label=full)
    methods = curves.methods()
    for place, (method, points) in enumerate(methods.items()):
        aside = _SPREAD * ((place + 0.5) / len(methods) - 0.5)
        bars = np.maximum([value[points] - low[points], high[points] - value[points]], 0)
        axes.errorbar(
            budgets[points] * 2.0**aside,
            value[points],
            bars,
            label=method,
            color=COLOURS[place % len(COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            markersize=5,
            linewidth=1.4,
            elinewidth=0.9,
            capsize=2,
        )
    ticks = np.unique(budgets[1:])
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"visual tokens kept, K of {budgets[0]}")
    axes.set_ylabel(label)
    if metric == "ece":
        axes.set_ylim(bottom=0)


def _csv(curves: Curves) -> str:
    """Return one line per point and metric, with the paired difference from full tokens."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = ("value", "low", "high")
    changes = [f"change_{end}" for end in ends]
    writer.writerow(
        ["method", "pruner", "hyperparameters", "budget", "seeds", "metric", *ends, *changes]
    )
    found = {name: (curves.values(name), curves.changes(name)) for name in curves.samples}
    for index, point in enumerate(curves.points):
        values = " ".join(f"{name}={value}" for name, value in point.hyperparameters.items())
        seeds = " ".join(str(seed) for seed in point.seeds if seed is not None)
        for metric, intervals in found.items():
            numbers = [float(getattr(x, end)[index]) for x in intervals for end in ends]
            writer.writerow(
                [point.method, point.pruner, values, point.budget, seeds, metric]
                + ["" if math.isnan(number) else f"{number:.6f}" for number in numbers]
            )
    return text.getvalue()
