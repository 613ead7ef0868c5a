"""Diagrams as SVG that needs no script: reliability in 15 bins, and risk against coverage.

The scripts draw the same two in the same geometry. Axis letters: E examples, B bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

import calibration
from experiments.reporting import evaluation

SIDE, LEFT, TOP = 200, 46, 8
"""Side of the square that is drawn in, and where it lies."""
TICKS, STRIP = 18, 30
"""Heights below it: of the ticks, and of the counts in a reliability diagram."""
_POINTS = 120  # of a curve
_SPIKES = 0.05  # coverage below which a curve may leave its frame


def reliability(stats: calibration.BinStats, name: str) -> str:
    """Draw accuracy against confidence, with Wilson intervals, and the counts below.

    Args:
        stats: BinStats of float[B] on the host.
        name: what it says to those who cannot see it, as HTML.
    """
    with evaluation.on_host():
        ends = calibration.wilson_interval(stats.sum_correct, stats.filled)
    low, high = (np.asarray(end) for end in ends)
    floor, most = TOP + SIDE + TICKS + STRIP, float(np.max(stats.count))
    parts = [_line("even", 0, 0, 1, 1)]
    for b in np.flatnonzero(stats.count):
        start, end = float(stats.edges[b]), float(stats.edges[b + 1])
        accuracy, confidence = float(stats.accuracy[b]), float(stats.confidence[b])
        count = STRIP * float(stats.count[b]) / most
        parts += [
            _bar("bin", start, end, TOP + SIDE, SIDE * accuracy),
            _bar("count", start, end, floor, count),
            _line("whisker", confidence, low[b], confidence, high[b]),
            f'<circle class="dot" cx="{_x(confidence)}" cy="{_y(accuracy)}" r="2.6"/>',
        ]
    return _svg([_frame("confidence", "accuracy", 1.0), *parts], name, floor)


def coverage(margin: np.ndarray, correct: np.ndarray, name: str) -> str:
    """Draw the risk among the most confident answers against their share.

    Args:
        margin: float[E], larger is more confident.
        correct: bool[E].
        name: what it says to those who cannot see it, as HTML.
    """
    with evaluation.on_host():
        curve = calibration.risk_coverage_curve(jnp.asarray(margin), jnp.asarray(correct))
    share, risk = (np.asarray(end, float) for end in curve)
    most = _ceiling(float(np.max(risk[share >= _SPIKES], initial=0)))
    places = np.unique(np.linspace(0, len(share) - 1, _POINTS).round().astype(int))
    points = " ".join(f"{_x(share[i])},{_y(min(risk[i] / most, 1))}" for i in places)
    drawn = f'<polyline class="curve first" points="{points}"/>'
    return _svg([_frame("coverage", "risk", most), drawn], name, TOP + SIDE + TICKS)


def _ceiling(risk: float) -> float:
    """Return where an axis of risks ends: the next twentieth."""
    return min(max(float(np.ceil(20 * risk - 1e-9)) / 20, 0.05), 1.0)


def _svg(parts: Sequence[str], name: str, bottom: float) -> str:
    box = f"0 0 {LEFT + SIDE + 12} {bottom + 2}"
    opening = f'<svg class="diagram" viewBox="{box}" role="img" aria-label="{name}">'
    return "".join([opening, *parts, "</svg>"])


def _frame(across: str, up: str, most: float) -> str:
    """Return the square with ticks and names; the vertical axis ends at ``most``."""
    middle, below = TOP + SIDE / 2, TOP + SIDE + 12
    parts = [f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{SIDE}" height="{SIDE}"/>']
    for share in (0.0, 0.5, 1.0):
        height = TOP + SIDE * (1 - share) + 3
        parts.append(_text("tick", _x(share), below, "middle", f"{share:g}"))
        parts.append(_text("tick", LEFT - 4, height, "end", f"{share * most:.3g}"))
    parts.append(_text("axis", _x(0.75), below, "middle", across))
    turned = f' transform="rotate(-90 9 {_number(middle)})"'
    parts.append(_text("axis", 9, middle, "middle", up, turned))
    return "".join(parts)


def _text(kind: str, x: object, y: float, anchor: str, words: str, more: str = "") -> str:
    place = f'x="{x}" y="{_number(y)}" text-anchor="{anchor}"{more}'
    return f'<text class="{kind}" {place}>{words}</text>'


def _bar(kind: str, start: float, end: float, floor: float, height: float) -> str:
    place = f'x="{_x(start)}" y="{_number(floor - height)}"'
    size = f'width="{_number(SIDE * (end - start))}" height="{_number(height)}"'
    return f'<rect class="{kind}" {place} {size}/>'


def _line(kind: str, x0: float, y0: float, x1: float, y1: float) -> str:
    return f'<path class="{kind}" d="M{_x(x0)} {_y(y0)}L{_x(x1)} {_y(y1)}"/>'


def _x(share: float) -> str:
    return _number(LEFT + SIDE * share)


def _y(share: float) -> str:
    return _number(TOP + SIDE * (1 - share))


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
