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
import numpy as np

from .rows import float_dtype, row_weights

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
        errors: float[E+1], Σ w (1 − a) likewise; its last is NaN if an impossible row counts.
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
    count, errors = jnp.pad(_cumulative_sums(jnp.stack([weights, error])), ((0, 0), (1, 0)))
    return Cumulated(ranking.first, ranking.last, count, errors)


def _cumulative_sums(rows: jax.Array, block: int = 64) -> jax.Array:
    """Add float[K, E] up along its rows, a third of the time of `jnp.cumsum` on CPU.

    A product with a triangle of ones adds up each block; the blocks' totals likewise.
    """
    num_rows = rows.shape[1]
    num_blocks = max(1, -(-num_rows // block))
    padded = jnp.pad(rows, ((0, 0), (0, num_blocks * block - num_rows)))
    triangle = np.triu(np.ones((block, block), rows.dtype))  # a constant of the program
    blocks = padded.reshape(-1, num_blocks, block)
    within = jnp.matmul(blocks, triangle, precision=jax.lax.Precision.HIGHEST)
    if num_blocks > 1:
        through = _cumulative_sums(within[:, :, -1], block=256)
        within += jnp.pad(through, ((0, 0), (1, 0)))[:, :-1, None]
    return within.reshape(rows.shape[0], -1)[:, :num_rows]


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
    """Sum 1/(start+1) + … + 1/(start+size), H(m+s) − H(m), without cancelling digits.

    H(m+s) − H(m) = ln((m+s+4½)/(m+4½)) + F(m+s) − F(m), where F, the distance of H from the
    logarithm, falls as 1/m; fractional sizes interpolate.

    Args:
        start: float[...] ≥ 0, m.
        size: float[...] ≥ 0, s.

    Returns:
        float[...].
    """
    logarithm = jnp.log1p(size / (start + 4.5))
    return logarithm + _beyond_logarithm(start + size) - _beyond_logarithm(start)


def _beyond_logarithm(m: jax.Array) -> jax.Array:
    """Return H(m) − ln(m + 4½) − γ: the series of ψ, shifted by four terms 1/(m+1) … 1/(m+4)."""
    x = jnp.square(m + 2.5)
    shift = 4 * (m + 2.5) * (x - 1.25) / ((x - 0.25) * (x - 2.25))
    square = 1 / jnp.square(m + 4.5)
    series = jnp.zeros_like(m)
    for factor in reversed(_SERIES):
        series = (series + factor) * square
    return series - shift
