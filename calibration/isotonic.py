"""Recalibration without parameters: isotonic regression and histogram binning.

Axis legend: E examples, B bins.
"""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp

from .binning import Closed, bin_edges, bin_index, bin_stats
from .rows import confidence_rows, pooled_ties


def isotonic_regression(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Fit the non-decreasing sequence nearest to the values, min Σ wᵢ (yᵢ − vᵢ)².

    Pool adjacent violators (Ayer et al. 1955) on a stack of blocks: each step of the loop
    either pushes the next row or merges the two blocks on top, so 2E steps suffice.

    Args:
        values: float[E], v.
        weights: float[E] ≥ 0; a row of weight 0 takes the value of the row before it.

    Returns:
        float[E], y; NaN where a row that counts is NaN, and if none counts.

    Raises:
        AssertionError: if the shapes differ.
    """
    chex.assert_equal_shape([values, weights])
    n = values.size
    if not n:
        return values
    totals = jnp.stack([jnp.where(weights != 0, weights * values, 0), weights], axis=1)

    def step(carry: tuple) -> tuple:
        blocks, first, top, row = carry
        below = jnp.maximum(top - 2, 0)
        (sum_0, weight_0), (sum_1, weight_1) = blocks[below], blocks[top - 1]
        violated = (top >= 2) & (sum_0 * weight_1 >= sum_1 * weight_0)
        place = jnp.where(violated, below, top)
        entry = jnp.where(violated, blocks[below] + blocks[top - 1], totals[row % n])
        start = jnp.where(violated, first[below], row)
        blocks, first = blocks.at[place].set(entry), first.at[place].set(start)
        return blocks, first, place + 1, jnp.where(violated, row, row + 1)

    def unfinished(carry: tuple) -> jax.Array:
        return carry[3] <= n  # row n is pushed only when nothing is violated any more

    blocks = jnp.zeros((n + 1, 2), totals.dtype)
    carry = (blocks, jnp.full(n + 1, n), jnp.array(0), jnp.array(0))
    blocks, first, top, _ = jax.lax.while_loop(unfinished, step, carry)
    kept = jnp.arange(n + 1) < top - 1  # the last one pushed is row n
    block = jnp.searchsorted(jnp.where(kept, first, n), jnp.arange(n), side="right") - 1
    sums, sizes = blocks[block].T
    return sums / sizes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IsotonicFit:
    """A fitted non-decreasing map, linear between its points and flat beyond.

    Attributes:
        confidence: float[E], ascending.
        accuracy: float[E], non-decreasing.
    """

    confidence: jax.Array
    accuracy: jax.Array


def fit_isotonic(
    confidence: jax.Array, correct: jax.Array, weights: jax.Array | None = None
) -> IsotonicFit:
    """Fit accuracy as a non-decreasing function of confidence (Zadrozny and Elkan 2002).

    Args:
        confidence: float[E] in [0, 1]; equal confidences get one value.
        correct: bool or 0/1[E].
        weights: float or int[E]; None is all 1.

    Returns:
        IsotonicFit; all NaN if a row that counts is impossible or none counts.

    Raises:
        AssertionError: if the shapes differ.
    """
    confidence, correct, weights = confidence_rows(confidence, correct, weights)
    invalid = jnp.any(jnp.isnan(confidence) & (weights != 0)) | ~(jnp.sum(weights) > 0)
    order = jnp.argsort(jnp.where(weights != 0, confidence, jnp.inf))  # what counts, first
    confidence, correct, weights = confidence[order], correct[order], weights[order]
    confidence = jnp.where(weights != 0, confidence, 1)
    correct = pooled_ties(correct, confidence, weights)
    accuracy = isotonic_regression(correct, weights)
    return IsotonicFit(*(jnp.where(invalid, jnp.nan, x) for x in (confidence, accuracy)))


def apply_isotonic(fit: IsotonicFit, confidence: jax.Array) -> jax.Array:
    """Map confidences float[...] to the fitted accuracy, float[...]."""
    return jnp.interp(confidence, fit.confidence, fit.accuracy)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HistogramFit:
    """A fitted accuracy per equal-width bin.

    Attributes:
        accuracy: float[B]; the bin's centre where it is empty.
    """

    accuracy: jax.Array


def fit_histogram_binning(
    confidence: jax.Array,
    correct: jax.Array,
    weights: jax.Array | None = None,
    *,
    num_bins: int = 15,
    closed: Closed = "right",
) -> HistogramFit:
    """Fit the accuracy of each equal-width bin (Zadrozny and Elkan 2001).

    Args:
        confidence: float[E] in [0, 1].
        correct: bool or 0/1[E].
        weights: float or int[E]; None is all 1.
        num_bins: B.
        closed: which side of a bin holds its edge.

    Returns:
        HistogramFit; NaN if a row that counts is impossible.

    Raises:
        AssertionError: if the shapes differ.
    """
    stats = bin_stats(confidence, correct, weights, num_bins=num_bins, closed=closed)
    edges = jnp.asarray(bin_edges(num_bins), stats.count.dtype)
    centre = (edges[1:] + edges[:-1]) / 2
    return HistogramFit(jnp.where(stats.count == 0, centre, stats.accuracy))


def apply_histogram_binning(
    fit: HistogramFit, confidence: jax.Array, *, closed: Closed = "right"
) -> jax.Array:
    """Map confidences to the accuracy of their bin.

    Args:
        fit: HistogramFit.
        confidence: float[E].
        closed: as in the fit.

    Returns:
        float[E].
    """
    return fit.accuracy[bin_index(confidence, num_bins=fit.accuracy.size, closed=closed)]
