"""The paper's figures, from our numbers; the paper's stand beside as hollow marks."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import calibration
from experiments.reporting import figures
from experiments.reporting.documents import Cell
from experiments.reporting.paper.evidence import SCORE, Evidence
from experiments.reporting.paper.printed import printed
from experiments.reporting.paper.settings import (
    ALPHAS,
    BUDGETS,
    GAMMAS,
    full,
    scope,
    scope_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = tuple[str, Sequence[tuple[float, Cell]]]
"""A label, and numbers over x."""
_LABELS = {"accuracy": "accuracy (%)", "ece": "expected calibration error"}
_ASIDE = 0.012  # of the axis: lines stand beside each other
_FACTORS = {"accuracy": 100.0}


def all_figures(found: Evidence, folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """Write the figures of what was run: PNG, SVG, PDF, and the numbers as CSV.

    Args:
        found: the runs of the study.
        folder: for the files.
    """
    written: list[pathlib.Path] = []
    if "pope" in found.runs:
        written += _figure2(found, folder)
        written += _figure3(found, folder)
    if "gamma/mme" in found.runs:
        written += _figure4(found, folder)
    return tuple(written)


def _figure2(found: Evidence, folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """Draw ECE and accuracy against α at three budgets."""
    panels = {metric: _over_alpha(found, metric) for metric in ("ece", "accuracy")}

    def draw() -> Figure:
        figure, axes = _figure(2)
        for place, (metric, lines) in zip(axes, panels.items(), strict=True):
            _draw_lines(place, lines, _FACTORS.get(metric, 1.0))
            place.set(xlabel="exponent α of saliency", ylabel=_LABELS[metric], xticks=ALPHAS)
        return _finish(figure, axes[0], found, "Figure 2. ECE and accuracy against α, POPE")

    return figures.save(draw, folder / "figure2", _csv(panels))


def _over_alpha(found: Evidence, metric: str) -> list[Line]:
    return [
        (f"K = {k}", [(alpha, _pope(found, metric, scope(k, alpha))) for alpha in ALPHAS])
        for k in (64, 128, 192)
    ]


def _pope(found: Evidence, metric: str, about: dict[str, Any]) -> Cell:
    """Return a number of POPE beside the paper's."""
    return found.cell("pope", metric, printed("pope", metric, about), **about)


def _figure3(found: Evidence, folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """Draw the U-curve, SCOPE against random, and two reliability diagrams."""
    run = found.runs["pope"]
    n = run.full.about["budget"]
    budgets = (32, 64, 128, 192)
    curve = [(float(k), _pope(found, "ece", scope(k))) for k in budgets]
    curve.append((float(n), _pope(found, "ece", full())))
    default = [(float(k), _pope(found, "ece", scope(k, 0.0))) for k in (64, 128)]
    drawn = [(float(k), _pope(found, "ece", {"pruner": "random", "budget": k})) for k in (64, 128)]
    panels: dict[str, list[Line]] = {
        "a": [("SCOPE, α = 1", curve)],
        "b": [("SCOPE, α = 0", default), ("random, three seeds", drawn)],
    }
    whole = [("c", "all tokens", full()), ("d", "SCOPE, K = 128", scope(128))]
    diagrams = [(name, title, run.find(**about)) for name, title, about in whole]

    def draw() -> Figure:
        from calibration.plots import reliability_diagram

        figure, axes = _figure(2, 2)
        for place, lines in zip(axes[:2], panels.values(), strict=True):
            _draw_lines(place, lines, 1.0)
            _log(place, sorted({int(x) for _, line in lines for x, _ in line}))
            place.set(xlabel=f"visual tokens kept, K of {n}", ylabel=_LABELS["ece"])
            place.legend(frameon=False)
        for place, (_, title, settings) in zip(axes[2:], diagrams, strict=True):
            for setting in settings:
                reliability_diagram(setting.report.bins, place)
            place.set_title(title)
        for place, name in zip(axes, "abcd", strict=True):
            place.set_title(f"{name}  {place.get_title()}", loc="left")
            place.set_title("")
        return _finish(figure, None, found, "Figure 3. POPE")

    bins: dict[str, list[Line]] = {
        name: [(title, _bins(setting.report.bins)) for setting in settings]
        for name, title, settings in diagrams
    }
    return figures.save(draw, folder / "figure3", _csv(panels | bins))


def _figure4(found: Evidence, folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """Draw MME's score against γ."""
    panels = {f"alpha {alpha:g}": _over_gamma(found, alpha) for alpha in (1.0, 0.0)}

    def draw() -> Figure:
        figure, axes = _figure(2)
        for place, (name, lines) in zip(axes, panels.items(), strict=True):
            _draw_lines(place, lines, 1.0)
            ticks = sorted({x for _, line in lines for x, _ in line})
            place.set(xlabel="exponent γ of the gap", ylabel="MME score", xticks=ticks)
            place.set_title(name.replace("alpha", "α ="))
        return _finish(figure, axes[0], found, "Figure 4. MME, perception + cognition, against γ")

    return figures.save(draw, folder / "figure4", _csv(panels))


def _over_gamma(found: Evidence, alpha: float) -> list[Line]:
    """Return one line a budget; γ = 1 is default SCOPE where α is 1."""
    lines: list[Line] = []
    for k in BUDGETS:
        about = {gamma: {**scope_of(alpha, gamma), "budget": k} for gamma in GAMMAS}
        if alpha == 1.0:
            about[1.0] = scope(k)
        points = [
            (gamma, found.cell("gamma/mme", SCORE, **own)) for gamma, own in sorted(about.items())
        ]
        lines.append((f"K = {k}", points))
    return lines


def _figure(columns: int, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure with this many panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * columns, 3.9 * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns).flat)


def _draw_lines(axes: Axes, lines: Sequence[Line], factor: float) -> None:
    """Draw lines with their intervals; the paper's numbers as hollow marks of the same colour."""
    everywhere = [x for _, points in lines for x, _ in points]
    apart = _ASIDE * (max(everywhere) - min(everywhere))
    for place, (label, points) in enumerate(lines):
        aside = apart * (place - (len(lines) - 1) / 2)
        colour = figures.COLOURS[place % len(figures.COLOURS)]
        marker = figures.MARKERS[place % len(figures.MARKERS)]
        x = [x + aside for x, cell in points if cell.value is not None]
        cells = [cell for _, cell in points if cell.value is not None]
        value, low, high = (
            [factor * getattr(cell, end) for cell in cells] for end in ("value", "low", "high")
        )
        bars = [
            [max(v - a, 0) for v, a in zip(value, low, strict=True)],
            [max(b - v, 0) for v, b in zip(value, high, strict=True)],
        ]
        own = {"color": colour, "marker": marker, "markersize": 5, "capsize": 2}
        axes.errorbar(x, value, bars, label=label, linewidth=1.4, elinewidth=0.9, **own)
        theirs = [(x + aside, factor * cell.paper) for x, cell in points if cell.paper is not None]
        if theirs:
            axes.plot(*zip(*theirs, strict=True), marker, color=colour, fillstyle="none", ls="none")


def _log(axes: Axes, ticks: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


def _finish(figure: Figure, legend: Axes | None, found: Evidence, title: str) -> Figure:
    """Give a figure its title and, where panels share one, its legend."""
    if legend is not None:
        handles, labels = legend.get_legend_handles_labels()
        columns = min(len(labels), 4)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    bars = "bars: 95 % intervals by resampling pictures; hollow: the paper's, LLaVA-1.5-7B"
    figure.suptitle(f"{title}\n{found.heading}\n{bars}", fontsize=8)
    return figure


def _csv(panels: dict[str, list[Line]]) -> str:
    """Return one line per point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = ("value", "low", "high", "sd", "n", "images", "paper")
    writer.writerow(["panel", "line", "x", *fields])
    for panel, lines in panels.items():
        for label, points in lines:
            for x, cell in points:
                numbers = [getattr(cell, name) for name in fields]
                writer.writerow(
                    [panel, label, x, *("" if number is None else number for number in numbers)]
                )
    return text.getvalue()


def _bins(stats: calibration.BinStats) -> list[tuple[float, Cell]]:
    """Return a reliability diagram's points: accuracy over confidence, with Wilson intervals."""
    low, high = calibration.wilson_interval(stats.sum_correct, stats.count)
    columns = (stats.confidence, stats.accuracy, low, high, stats.count)
    rows = zip(*(np.asarray(column).tolist() for column in columns), strict=True)
    return [(x, Cell(y, start, end, int(n))) for x, y, start, end, n in rows if n]
