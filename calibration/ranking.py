"""Rows in order of confidence, and the counts and errors among the most confident.

Rows are ranked by a margin (log-odds), never by a float32 probability, which ties the
saturated rows. A ranking is made once and serves any number of weightings.

Axis legend: E examples, in order of descending margin once ranked.
"""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp

from .rows import float_dtype, row_weights

_SHIFT = 4  # terms summed before the series of ψ: error below 1e-9
_SERIES = (1 / 24, -7 / 960, 31 / 8064, -127 / 30720, 511 / 67584)  # ψ(x+½) − ln x in x⁻²


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

    @property
    def group_end(self) -> jax.Array:
        """Whether a rank is the last of its tie group: bool[E]."""
        return self.last == jnp.arange(self.last.size)

    @property
    def before(self) -> tuple[jax.Array, jax.Array]:
        """Count and errors before each rank's tie group: float[E] twice."""
        return self.count[self.first], self.errors[self.first]

    @property
    def through(self) -> tuple[jax.Array, jax.Array]:
        """Count and errors to the end of each rank's tie group: float[E] twice."""
        return self.count[self.last + 1], self.errors[self.last + 1]

    @property
    def rate(self) -> jax.Array:
        """Error rate of each rank's tie group, 0 where no row counts: float[E]."""
        (count, errors), (more, worse) = self.before, self.through
        size = more - count
        return (worse - errors) / jnp.where(size == 0, 1, size)

    @property
    def error_rate(self) -> jax.Array:
        """Error rate of all rows: float[], NaN if none counts."""
        return self.errors[-1] / self.count[-1]


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


def rank_and_cumulate(
    margin: jax.Array, correct: jax.Array, weights: jax.Array | None
) -> Cumulated:
    """Rank rows by margin and cumulate them.

    Args:
        margin: float[E], larger is more confident.
        correct: bool or 0/1[E].
        weights: float or int[E], counts; None is all 1.

    Returns:
        Cumulated.

    Raises:
        AssertionError: if the shapes differ.
    """
    chex.assert_equal_shape([margin, correct])
    correct = jnp.asarray(correct, float_dtype(margin))
    weights = row_weights(weights, correct)
    ranking = rank_by_margin(margin)
    return cumulate(ranking, correct[ranking.order], weights[ranking.order])


def harmonic_gap(start: jax.Array, size: jax.Array) -> jax.Array:
    """Sum 1/(start+1) + … + 1/(start+size) without cancellation: H(m+s) − H(m).

    The digamma series after a shift of a few terms; fractional sizes interpolate.

    Args:
        start: float[...] ≥ 0, m.
        size: float[...] ≥ 0, s.

    Returns:
        float[...].
    """
    gap = jnp.zeros_like(start)
    for j in range(1, _SHIFT + 1):
        gap += size / ((start + j) * (start + size + j))
    low = start + (_SHIFT + 0.5)
    high = low + size
    return gap + jnp.log1p(size / low) + _tail(high) - _tail(low)


def _tail(x: jax.Array) -> jax.Array:
    """Return ψ(x + ½) − ln x by its series in x⁻²."""
    square = 1 / (x * x)
    total = jnp.zeros_like(x)
    for factor in reversed(_SERIES):
        total = (total + factor) * square
    return total
