"""Draw a run's accuracy and calibration over budgets, each against full tokens.

    python -m experiments.curves --run=runs/pope --out=docs/pocket_curves

Prints the table and what it says in short; writes ``<out>.png``, ``.svg``, ``.pdf`` and ``.csv``.
No model is loaded. Exit codes: 0 complete, 1 usage, 2 refused.
"""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Iterator
from typing import Any

from absl import flags

import calibration
from experiments import catalogue
from experiments.harness import program, terminal
from experiments.reporting import curves, figures, runs

_POINTS, _ECE = "{:+.1f} [{:+.1f}, {:+.1f}]", "{:+.3f} [{:+.3f}, {:+.3f}]"


def start() -> None:
    """Define the flags, report and exit with the code."""
    for library in ("jax", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)
    run = flags.DEFINE_string("run", "runs/pope", "run folder with finished settings")
    out = flags.DEFINE_string("out", None, "figure, without suffix (default: <run>/curves)")
    program.run(lambda: _main(run.value, out.value))


def _main(run: str, out: str | None) -> None:
    """Report what the flags name."""
    report(pathlib.Path(run), pathlib.Path(out or pathlib.Path(run) / "curves"))


def report(run: pathlib.Path, out: pathlib.Path) -> None:
    """Print the table and the summary, then write the files.

    Args:
        run: the run folder.
        out: of the figure, without suffix.

    Raises:
        InputError: the folder has no comparable settings, or matplotlib is not installed.
    """
    found = curves.of(runs.load(run, catalogue.get))
    print(f"{found.heading}; 95 % intervals by resampling pictures, Δ paired with full tokens\n")
    print("\n".join(_table(found)))
    print("\n" + "\n".join([*_extremes(found), *_alphas(found)]))
    files = figures.budget_curves(found, out)
    print("\n" + "\n".join(terminal.inert(str(file)) for file in files))


def _table(found: curves.Curves) -> Iterator[str]:
    """Yield one line per point, full tokens first."""
    width = max(len(point.method) for point in found.points)
    heading = f"{'method':{width}}  {'K':>4}  {'seeds':>5}  {'acc %':>5}  {'ECE':>5}"
    yield f"{heading}  {'Δ acc, points':>21}  {'Δ ECE':>24}"
    accuracy, ece = found.values("accuracy").value, found.values("ece").value
    for i, point in enumerate(found.points):
        seeds = "" if None in point.seeds else len(point.seeds)
        line = f"{point.method:{width}}  {point.budget:4}  {seeds:>5}  {100 * accuracy[i]:5.1f}"
        line += f"  {ece[i]:5.3f}"
        if i:
            line += f"  {_points(found.difference('accuracy', i, 0)):>21}"
            line += f"  {_plain(found.difference('ece', i, 0)):>24}"
        yield line


def _points(change: calibration.Interval) -> str:
    """Spell a difference of accuracies in points."""
    return _POINTS.format(*(100 * float(x) for x in (change.value, change.low, change.high)))


def _plain(change: calibration.Interval) -> str:
    """Spell a difference of ECEs."""
    return _ECE.format(float(change.value), float(change.low), float(change.high))


def _extremes(found: curves.Curves) -> Iterator[str]:
    """Yield, per budget, what the worst method loses and what lies between it and the best."""
    accuracy = found.values("accuracy").value
    yield "accuracy in points (best and worst are picked on the same rows: their gap is flattered)"
    for budget in sorted({point.budget for point in found.points[1:]}):
        points = [i for i, p in enumerate(found.points) if i and p.budget == budget]
        worst, best = min(points, key=accuracy.__getitem__), max(points, key=accuracy.__getitem__)
        loss = _points(found.difference("accuracy", worst, 0))
        line = f"  K={budget}: worst is {found.points[worst].method}, {loss} from full tokens"
        if worst != best:
            gap = _points(found.difference("accuracy", best, worst))
            line += f"; best is {found.points[best].method}, {gap} from the worst"
        yield line


def _alphas(found: curves.Curves) -> Iterator[str]:
    """Yield, per budget, how ECE moves as alpha falls and all else stays."""
    groups: dict[tuple[Any, ...], list[tuple[float, int]]] = {}
    for index, point in enumerate(found.points):
        if "alpha" in point.hyperparameters:
            rest = {**point.hyperparameters, "alpha": None}
            key = (point.budget, point.pruner, *rest.items())
            groups.setdefault(key, []).append((point.hyperparameters["alpha"], index))
    pairs = [(key, sorted(group)) for key, group in groups.items() if len(group) > 1]
    if pairs:
        yield "ECE as alpha falls (the paper's finding for SCOPE: ECE falls too)"
    ece = found.values("ece").value
    for (budget, *_), group in sorted(pairs, key=lambda pair: pair[0][0]):
        (low, lowest), (high, highest) = group[0], group[-1]
        ends = f"{ece[highest]:.3f} (alpha={high:g}) → {ece[lowest]:.3f} (alpha={low:g})"
        change = found.difference("ece", lowest, highest)
        verdict = "it falls" if change.high < 0 else "it rises" if change.low > 0 else "undecided"
        name = " ".join(w for w in found.points[lowest].method.split() if "alpha=" not in w)
        yield f"  K={budget}, {name}: {ends}, {_plain(change)}, {verdict}"


if __name__ == "__main__":
    start()
