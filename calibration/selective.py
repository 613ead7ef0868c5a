"""Selective prediction: how the error grows as less confident answers are kept.

Rows are ranked by a margin (log-odds), never by a float32 probability, which ties the
saturated rows. Rows of equal margin are taken in expectation over their random order.
Weights are counts: a row of weight 2 is two rows.

Axis legend: E examples, in order of descending margin once ranked.
"""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp

from .rows import float_dtype, row_weights

_SHIFT = 6  # terms summed before the series of ψ: error below 1e-10
_SERIES = (1 / 24, -7 / 960, 31 / 8064, -127 / 30720)  # ψ(x+½) − ln x in x⁻², x⁻⁴, …


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ranking:
    """Rows in order of descending margin, sorted once for any number of weights.

    Attributes:
        order: int32[E], row at each rank.
        first: int32[E], rank where the tie group of each rank starts.
        last: int32[E], rank where it ends.
        invalid: bool[E], rank's margin is NaN.
    """

    order: jax.Array
    first: jax.Array
    last: jax.Array
    invalid: jax.Array


def rank_by_margin(margin: jax.Array) -> Ranking:
    """Sort rows by descending margin and mark the groups of equal margin.

    Args:
        margin: float[E], larger is more confident; ±∞ are allowed.

    Returns:
        Ranking.

    Raises:
        AssertionError: if margin is not [E].
    """
    chex.assert_rank(margin, 1)
    order = jnp.argsort(-margin, stable=True).astype(jnp.int32)
    ranked = -margin[order]
    first = jnp.searchsorted(ranked, ranked, side="left")
    last = jnp.searchsorted(ranked, ranked, side="right") - 1
    return Ranking(order, first, last, jnp.isnan(ranked))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cumulated:
    """Counts and errors among the most confident rows; all that a risk is made of.

    Attributes:
        first: int32[E], rank where the tie group of each rank starts.
        last: int32[E], rank where it ends.
        count: float[E+1], Σ w of the ranks before each, and of all.
        errors: float[E+1], Σ w (1 − a) likewise; NaN after an impossible row.
    """

    first: jax.Array
    last: jax.Array
    count: jax.Array
    errors: jax.Array


def cumulate(ranking: Ranking, correct: jax.Array, weights: jax.Array) -> Cumulated:
    """Cumulate the weights and errors of rows that are in ranked order.

    Args:
        ranking: Ranking of the E rows.
        correct: float[E], 0 or 1, at each rank.
        weights: float or int[E], counts, at each rank.

    Returns:
        Cumulated.

    Raises:
        AssertionError: if the shapes differ.
    """
    chex.assert_equal_shape([ranking.order, correct, weights])
    weights = row_weights(weights, correct)
    possible = ((correct == 0) | (correct == 1)) & ~ranking.invalid
    error = jnp.where(possible, weights * (1 - correct), jnp.nan)
    error = jnp.where(weights != 0, error, 0)
    sums = jnp.cumsum(jnp.stack([weights, error]), axis=1)
    count, errors = jnp.pad(sums, ((0, 0), (1, 0)))
    return Cumulated(ranking.first, ranking.last, count, errors)


def _rank_and_cumulate(
    margin: jax.Array, correct: jax.Array, weights: jax.Array | None
) -> Cumulated:
    """Rank the rows by margin and cumulate them."""
    chex.assert_equal_shape([margin, correct])
    correct = jnp.asarray(correct, float_dtype(margin))
    weights = row_weights(weights, correct)
    ranking = rank_by_margin(margin)
    return cumulate(ranking, correct[ranking.order], weights[ranking.order])


def _harmonic_gap(start: jax.Array, size: jax.Array) -> jax.Array:
    """Sum 1/(start+1) + … + 1/(start+size) without cancellation: H(m+s) − H(m).

    The digamma series after a shift of six terms; fractional sizes interpolate.
    """
    gap = jnp.zeros_like(start)
    for j in range(1, _SHIFT + 1):
        gap += size / ((start + j) * (start + size + j))
    low = start + (_SHIFT + 0.5)
    high = low + size
    for power, factor in enumerate(_SERIES, 1):
        gap += factor * (high ** (-2 * power) - low ** (-2 * power))
    return gap + jnp.log1p(size / low)


def ranked_aurc(rows: Cumulated) -> jax.Array:
    """Compute `aurc` of rows that are cumulated already.

    Args:
        rows: Cumulated.

    Returns:
        float[] in [0, 1].
    """
    count, errors = rows.count, rows.errors
    before, errors_before = count[rows.first], errors[rows.first]
    size = count[1:] - before
    rate = (errors[1:] - errors_before) / jnp.where(size == 0, 1, size)
    excess = errors_before - rate * before
    area = size * rate + excess * _harmonic_gap(before, size)
    group_end = rows.last == jnp.arange(size.shape[0])
    return jnp.sum(jnp.where(group_end, area, 0)) / count[-1]


def aurc(margin: jax.Array, correct: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """Average the selective risk over all coverages, with expected ties.

    AURC = (1/n) Σₖ Rₖ with Rₖ the error rate of the k most confident rows (Geifman et
    al. 2019, without their divisor). A tie group of s rows after m rows with F errors
    and mean error e adds s e + (F − e m)(H(m+s) − H(m)), H the harmonic numbers.

    Args:
        margin: float[E], larger is more confident.
        correct: bool or 0/1[E].
        weights: float or int[E], counts; None is all 1.

    Returns:
        float[] in [0, 1], lower is better; NaN if a margin that counts is NaN or no
        row counts.

    Raises:
        AssertionError: if the shapes differ.
    """
    return ranked_aurc(_rank_and_cumulate(margin, correct, weights))


def ranked_selective_accuracy(rows: Cumulated, *, coverage: float = 0.8) -> jax.Array:
    """Compute `selective_accuracy` of rows that are cumulated already.

    Args:
        rows: Cumulated.
        coverage: share of the rows to keep, in (0, 1].

    Returns:
        float[] in [0, 1].

    Raises:
        ValueError: if coverage is outside (0, 1].
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage is {coverage}; it lies in (0, 1]")
    count, errors = rows.count, rows.errors
    if not rows.first.size:
        return jnp.full((), jnp.nan, count.dtype)
    slack = max(1e-9, 4 * float(jnp.finfo(count.dtype).eps))  # 0.1 × 30 keeps 3
    kept = jnp.ceil(count[-1] * coverage - slack * count[-1])
    cut = jnp.sum(count[1:-1] < kept)  # rank of the last row kept
    start, end = rows.first[cut], rows.last[cut] + 1
    rate = (errors[end] - errors[start]) / (count[end] - count[start])
    risk = (errors[start] + rate * (kept - count[start])) / kept
    return jnp.where(jnp.isnan(errors[-1]), jnp.nan, 1 - risk)


def selective_accuracy(
    margin: jax.Array,
    correct: jax.Array,
    weights: jax.Array | None = None,
    *,
    coverage: float = 0.8,
) -> jax.Array:
    """Average correctness of the ⌈n t⌉ most confident rows, with expected ties.

    Args:
        margin: float[E], larger is more confident.
        correct: bool or 0/1[E].
        weights: float or int[E], counts; None is all 1.
        coverage: t, share of the rows to keep, in (0, 1].

    Returns:
        float[] in [0, 1]; NaN as for `aurc`.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if coverage is outside (0, 1].
    """
    rows = _rank_and_cumulate(margin, correct, weights)
    return ranked_selective_accuracy(rows, coverage=coverage)


def risk_coverage_curve(
    margin: jax.Array, correct: jax.Array, weights: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Trace the selective risk against the coverage, with expected ties.

    Args:
        margin: float[E], larger is more confident.
        correct: bool or 0/1[E].
        weights: float or int[E], counts; None is all 1.

    Returns:
        coverage: float[E] ascending to 1, and risk: float[E], the expected error rate
        of the rows kept; NaN where none is kept yet, and as for `aurc`.

    Raises:
        AssertionError: if the shapes differ.
    """
    rows = _rank_and_cumulate(margin, correct, weights)
    count, errors = rows.count, rows.errors
    start, end = rows.first, rows.last + 1
    size = count[end] - count[start]
    rate = (errors[end] - errors[start]) / jnp.where(size == 0, 1, size)
    risk = (errors[start] + rate * (count[1:] - count[start])) / count[1:]
    risk = jnp.where(jnp.isnan(errors[-1]), jnp.nan, risk)
    return count[1:] / count[-1], risk
