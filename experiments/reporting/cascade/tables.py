"""Tables of a cascade: rules at equal cost, the whole curve, and thresholds with a guarantee.

Axis legend: T thresholds, G pictures, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

import calibration
from experiments.reporting import evaluation
from experiments.reporting.cascade import guarantee
from experiments.reporting.cascade.curve import (
    Curve,
    Points,
    measure,
    rules,
    sums_by_picture,
)
from experiments.reporting.cascade.stages import THRESHOLDS, stops
from experiments.reporting.documents import Cell, Column, Table

NUM_FOLDS = 5
_SEED = 0  # of the folds, and of the order in which pictures are bet on
_COLUMNS = (
    Column("tokens asked", "tokens_asked", digits=1),
    Column("tokens answered", "tokens_answered", digits=1),
    Column("error rate, %", "error_rate", factor=100, digits=2),
)
_COSTS = (
    "Tokens asked: visual tokens of all stages that a question was put to, which share no work: "
    "the cost. Tokens answered: those of the stage that answered, the cost if one knew where to "
    "stop. 95 % intervals by resampling pictures."
)


def of(found: Curve, risks: Sequence[float], *, delta: float = 0.05) -> tuple[Table, Table, Table]:
    """Tabulate a cascade.

    Args:
        found: the curve.
        risks: targets of the error rate, each in (0, 1).
        delta: chance to miss a target, in (0, 1).

    Returns:
        The rules at equal cost, the guaranteed thresholds, and the curve.
    """
    return _rules(found), _guaranteed(found, risks, delta), _curve(found)


def _rules(found: Curve) -> Table:
    """Return every stage alone, with the cascade and chance at no more tokens asked."""
    change = Column("Δ error from full, points", "error_difference", 100.0, 2, signed=True)
    full = found.fixed.wrong[:, -1:]
    rows = []
    for name, points, place in rules(found):
        own = _cells(found, points.wrong - full)[place]
        rows.append(((name,), (*_rows(found, points)[place], own)))
    return Table(
        "cascade_rules",
        f"Rules that say where to stop, {_title(found)}",
        ("rule",),
        (*_COLUMNS, change),
        tuple(rows),
        f"{_COSTS} Below a stage alone stand the cascade with the highest threshold that asks no "
        "more tokens on these rows, and chance, which stops as many questions at each stage but "
        "any of them. The oracle goes on where, and only where, that makes an answer right.",
    )


def _curve(found: Curve) -> Table:
    """Return all points."""
    alone = [(f"{name} alone", "") for name in found.stages.names]
    rows = list(zip(alone, _rows(found, found.fixed), strict=True))
    rows += zip([("oracle", "")], _rows(found, found.oracle), strict=True)
    for name, points in (("cascade", found.cascade), ("chance", found.chance)):
        labels = [(name, f"{threshold:g}") for threshold in found.thresholds]
        rows += zip(labels, _rows(found, points), strict=True)
    return Table(
        "cascade_curve",
        f"Tokens against errors, {_title(found)}",
        ("rule", "threshold"),
        _COLUMNS,
        tuple(rows),
        f"{_COSTS} A question goes on while its margin is at most the threshold.",
    )


def _title(found: Curve) -> str:
    """Return the method and the run."""
    return f"{found.stages.method}. {found.stages.heading}"


def _rows(found: Curve, points: Points) -> list[tuple[Cell, ...]]:
    """Return the cells of each point."""
    columns = (points.asked, points.answered, points.wrong)
    return list(zip(*(_cells(found, samples) for samples in columns), strict=True))


def _cells(found: Curve, samples: np.ndarray) -> list[Cell]:
    """Return float[1+R, P] as values with their intervals."""
    with evaluation.on_host():
        low, high = calibration.percentile_interval(jnp.asarray(samples[1:]))
    size = {"n": len(found.stages.image), "images": found.stages.num_pictures}
    numbers = zip(samples[0].tolist(), low.tolist(), high.tolist(), strict=True)
    return [Cell(*number, **size) for number in numbers]


def _guaranteed(found: Curve, risks: Sequence[float], delta: float) -> Table:
    """Return the cheapest threshold that is certain to keep each target, if one is."""
    stages = found.stages
    stop = stops(stages.margin, THRESHOLDS)
    rows, num_pictures = np.bincount(stages.image), stages.num_pictures
    wrong = ~stages.correct[np.arange(len(stages.image)), stop]
    with evaluation.on_host():
        fold_key, order_key = jax.random.split(jax.random.key(_SEED))
        fold = np.asarray(calibration.kfold(fold_key, num_pictures, NUM_FOLDS))
        order = np.asarray(jax.random.permutation(order_key, num_pictures))
    errors = sums_by_picture(wrong, stages.image)[:, order]
    lines = []
    for risk in risks:
        chosen = guarantee.cross_validated(errors, rows[order], fold[order], risk=risk, delta=delta)
        lines.append(((f"≤ {100 * risk:g} %",), _choice(found, stop, fold, chosen)))
    return Table(
        "cascade_guarantee",
        f"Cheapest cascade with a guaranteed error rate, {_title(found)}",
        ("error rate",),
        (Column("threshold", "threshold"), Column("folds", "certain_folds", digits=0), *_COLUMNS),
        tuple(lines),
        f"With probability {1 - delta:g} over the pictures the error rate on new pictures of the "
        "same kind is at most the target: thresholds are tested from the most expensive on, until "
        "one fails (learn then test), pictures being the unit. A dash: no threshold is certain, "
        f"not even full tokens. Threshold: of all pictures. Folds: those of {NUM_FOLDS}, dealt by "
        "picture, without which a threshold is certain; the other columns are out of fold, each "
        f"picture under the threshold that was chosen without its fold. Full tokens alone ask "
        f"{stages.tokens[-1]:g}. {_COSTS}",
    )


def _choice(
    found: Curve, stop: np.ndarray, fold: np.ndarray, chosen: guarantee.Chosen
) -> tuple[Cell, ...]:
    """Return the cells of one target."""
    stages = found.stages
    certain = sum(index is not None for index in chosen.folds)
    threshold = None if chosen.index is None else float(THRESHOLDS[chosen.index])
    head = (Cell(threshold, n=len(stages.image)), Cell(certain, n=len(fold)))
    if certain < len(chosen.folds):
        return (*head, Cell(), Cell(), Cell())
    held_out = np.array(chosen.folds)[fold[stages.image]]
    own = stop[held_out, np.arange(len(stages.image))][None]
    return (*head, *_rows(found, measure(stages, own, found.counts))[0])
