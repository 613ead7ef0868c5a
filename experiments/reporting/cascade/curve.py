"""Tokens against errors: a cascade over thresholds, beside what it must be better than.

Axis legend: E examples, m stages, T thresholds, P rules, G pictures, R resamples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from experiments.reporting.cascade.stages import THRESHOLDS, Stages, oracle, stops


def mean_over_rows(values: np.ndarray, image: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Average rows, pictures counted as often as each resample says.

    Args:
        values: float[..., E].
        image: int[E] in [0, G).
        counts: int[1+R, G].

    Returns:
        float[1+R, ...].
    """
    sums, rows = sums_by_picture(values, image), np.bincount(image)
    return np.moveaxis(sums @ counts.T / (counts @ rows), -1, 0)


def sums_by_picture(values: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Sum the rows of each picture: float[..., E] to float[..., G]."""
    order = np.argsort(image, kind="stable")
    starts = np.searchsorted(image[order], np.arange(image.max() + 1))
    return np.add.reduceat(values[..., order].astype(float), starts, axis=-1)


@dataclasses.dataclass(frozen=True)
class Points:
    """Rules that say where to stop, on the rows themselves and on every resample.

    Attributes:
        asked: float[1+R, P], tokens of all stages that were asked, per question: the cost.
        answered: float[1+R, P], tokens of the stage that answered: the cost if one knew.
        wrong: float[1+R, P], error rate.
    """

    asked: np.ndarray
    answered: np.ndarray
    wrong: np.ndarray


@dataclasses.dataclass(frozen=True)
class Curve:
    """A cascade over thresholds, and what it is compared with, on the same resamples.

    Attributes:
        stages: what each stage said.
        thresholds: float[T], falling: those at which anything changes.
        cascade: Points over the thresholds.
        chance: as many questions stop at each stage as in the cascade, but any.
        fixed: one stage for all questions; P = m.
        oracle: P = 1.
        counts: int[1+R, G], the resamples.
    """

    stages: Stages
    thresholds: np.ndarray
    cascade: Points
    chance: Points
    fixed: Points
    oracle: Points
    counts: np.ndarray


def of(stages: Stages, counts: np.ndarray) -> Curve:
    """Follow a cascade from full tokens to the cheapest budget.

    Args:
        stages: what each stage said.
        counts: int[1+R, G], from `resamples`.

    Returns:
        Curve.
    """
    stop = stops(stages.margin, THRESHOLDS)
    changes = np.any(stop[1:] != stop[:-1], axis=1)
    kept = np.concatenate([[True], changes])
    stop, number = stop[kept], len(stages.tokens)
    alone = np.repeat(np.arange(number)[:, None], len(stages.image), axis=1)
    cascade = measure(stages, stop, counts)
    fixed = measure(stages, alone, counts)
    shares = _shares(stages, stop, counts)
    chance = dataclasses.replace(cascade, wrong=np.einsum("rtm,rm->rt", shares, fixed.wrong))
    best = measure(stages, oracle(stages.correct)[None], counts)
    return Curve(
        stages,
        THRESHOLDS[kept],
        cascade,
        chance,
        dataclasses.replace(fixed, asked=fixed.answered),  # no other stage is asked
        best,
        counts,
    )


def _shares(stages: Stages, stop: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the share of the questions that stops at each stage: float[1+R, T, m]."""
    number = len(stages.tokens)
    shares = (mean_over_rows(stop == s, stages.image, counts) for s in range(number))
    return np.stack([*shares], axis=2)


def measure(stages: Stages, stop: np.ndarray, counts: np.ndarray) -> Points:
    """Measure rules int[P, E]."""
    wrong = ~stages.correct[np.arange(len(stages.image)), stop]
    values = (stages.asked[stop], stages.tokens[stop], wrong)
    return Points(*(mean_over_rows(x, stages.image, counts) for x in values))


def at_cost(found: Curve, tokens: float) -> int | None:
    """Find the highest threshold at which no more tokens are asked than these.

    Args:
        found: a Curve.
        tokens: per question, of all stages.

    Returns:
        Index of the threshold; None if even the first stage takes more.
    """
    affordable = np.flatnonzero(found.cascade.asked[0] <= tokens)
    return int(affordable[0]) if affordable.size else None


def rules(found: Curve) -> Iterator[tuple[str, Points, int]]:
    """Yield each stage alone and, at no more tokens, the cascade and chance; then the oracle.

    Args:
        found: a Curve.

    Yields:
        Name, Points, and which of them.
    """
    for index, name in enumerate(found.stages.names):
        yield f"{name} alone", found.fixed, index
        place = at_cost(found, found.stages.tokens[index])
        if index and place is not None:
            threshold = f"{found.thresholds[place]:g}"
            yield f"cascade, threshold {threshold}", found.cascade, place
            yield "chance, as many per stage", found.chance, place
    yield "oracle", found.oracle, 0
