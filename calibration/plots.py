"""Reliability diagrams and risk-coverage curves, in matplotlib.

Not imported with the package: it needs matplotlib, which nothing else here does.

Axis legend: E examples, B bins.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from .binning import BinStats
from .intervals import wilson_interval

_INK, _PALE, _GREY = "#1b6ca8", "#9fc5e0", "#777777"


def reliability_diagram(stats: BinStats, axes: Any = None, *, level: float = 0.95) -> Any:
    """Draw accuracy against confidence per bin, with Wilson intervals and the bins' shares.

    Args:
        stats: BinStats of any binning; empty bins are left out.
        axes: matplotlib axes; None makes a figure.
        level: of the intervals, which take rows for independent.

    Returns:
        The axes.
    """
    axes = axes or plt.subplots(figsize=(4, 4), layout="constrained")[1]
    count = np.asarray(stats.count)
    filled = count > 0
    confidence, accuracy = (np.asarray(x)[filled] for x in (stats.confidence, stats.accuracy))
    ends = wilson_interval(stats.sum_correct, stats.count, level)
    low, high = (np.asarray(end)[filled] for end in ends)
    edges = np.asarray(stats.edges)
    share = count / count.sum()
    axes.bar(edges[:-1], share, np.diff(edges), align="edge", color=_PALE, label="share of rows")
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1)
    bars = [np.maximum(accuracy - low, 0), np.maximum(high - accuracy, 0)]
    axes.errorbar(confidence, accuracy, bars, fmt="o", color=_INK, label="accuracy", capsize=2)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="upper left", frameon=False)
    return axes


def risk_coverage_plot(coverage: Any, risk: Any, axes: Any = None, *, color: str = _INK) -> Any:
    """Draw the error rate of the most confident rows over their share.

    Args:
        coverage: float[E] from `risk_coverage_curve`.
        risk: float[E] from `risk_coverage_curve`.
        axes: matplotlib axes; None makes a figure.
        color: of the line.

    Returns:
        The axes.
    """
    axes = axes or plt.subplots(figsize=(4, 3), layout="constrained")[1]
    axes.plot(np.asarray(coverage), np.asarray(risk), color=color)
    axes.set(xlabel="coverage", ylabel="error rate of what is kept", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    return axes
