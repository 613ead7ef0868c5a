"""Confidence bins and the per-bin sums of a reliability diagram.

Axis legend: E examples, B bins.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from .rows import confidence_rows, pooled_ties

Closed = Literal["right", "left"]
Cut = Literal["midpoint", "rank"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BinStats:
    """Weighted sums per bin: the data of a reliability diagram.

    Attributes:
        edges: float[B+1].
        count: float[B], Σ wᵢ.
        sum_confidence: float[B], Σ wᵢ cᵢ.
        sum_correct: float[B], Σ wᵢ aᵢ.
    """

    edges: jax.Array
    count: jax.Array
    sum_confidence: jax.Array
    sum_correct: jax.Array

    @property
    def filled(self) -> jax.Array:
        """The counts with 1 for an empty bin, to divide by: float[B]."""
        return jnp.where(self.count == 0, 1, self.count)

    @property
    def confidence(self) -> jax.Array:
        """Mean confidence per bin, 0 for an empty one: float[B]."""
        return self.sum_confidence / self.filled

    @property
    def accuracy(self) -> jax.Array:
        """Mean correctness per bin, 0 for an empty one: float[B]."""
        return self.sum_correct / self.filled


def bin_edges(num_bins: int) -> np.ndarray:
    """Divide [0, 1] on the host: uₖ = k/B, each correctly rounded.

    `jnp.linspace` rounds 6 of 16 float32 edges differently, which moves rows that
    lie on an edge.

    Args:
        num_bins: B ≥ 1.

    Returns:
        float64[B+1].

    Raises:
        ValueError: if num_bins < 1.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}; at least 1 bin is needed")
    return np.arange(num_bins + 1) / num_bins


def bin_index(confidence: jax.Array, *, num_bins: int = 15, closed: Closed = "right") -> jax.Array:
    """Find each row's bin: (uₖ, uₖ₊₁] or [uₖ, uₖ₊₁), first and last closed.

    Args:
        confidence: float[E] in [0, 1].
        num_bins: B.
        closed: which side of a bin holds its edge.

    Returns:
        int32[E] in [0, B).

    Raises:
        ValueError: if closed is neither "right" nor "left".
    """
    if closed not in ("right", "left"):
        raise ValueError(f'closed is {closed!r}; it is "right" or "left"')
    edges = jnp.asarray(bin_edges(num_bins), confidence.dtype)
    side = "left" if closed == "right" else "right"
    found = jnp.searchsorted(edges, confidence, side=side, method="compare_all")
    return jnp.clip(found - 1, 0, num_bins - 1).astype(jnp.int32)


def bin_stats(
    confidence: jax.Array,
    correct: jax.Array,
    weights: jax.Array | None = None,
    *,
    num_bins: int = 15,
    closed: Closed = "right",
) -> BinStats:
    """Sum weight, confidence and correctness per equal-width bin.

    n_b = Σ wᵢ, C_b = Σ wᵢ cᵢ, A_b = Σ wᵢ aᵢ over the rows of bin b.

    Args:
        confidence: float[E] in [0, 1].
        correct: bool or 0/1[E].
        weights: float or int[E]; None is all 1.
        num_bins: B.
        closed: which side of a bin holds its edge.

    Returns:
        BinStats; NaN sums if a row that counts is impossible.

    Raises:
        AssertionError: if the shapes differ.
    """
    confidence, correct, weights = confidence_rows(confidence, correct, weights)
    index = bin_index(confidence, num_bins=num_bins, closed=closed)
    member = jax.nn.one_hot(index, num_bins, dtype=confidence.dtype)
    edges = jnp.asarray(bin_edges(num_bins), confidence.dtype)
    return _sum_up(edges, confidence, correct, weights, weights[:, None] * member)


def _sum_up(
    edges: jax.Array,
    confidence: jax.Array,
    correct: jax.Array,
    weights: jax.Array,
    shares: jax.Array,
) -> BinStats:
    """Sum rows per bin; shares float[E, B] say how much of each row's weight is in which."""
    counted = weights != 0
    rows = jnp.stack([jnp.where(counted, x, 0) for x in (confidence, correct)])
    shares = jnp.where(counted[:, None], shares, 0)
    sums = jnp.matmul(rows, shares, precision=jax.lax.Precision.HIGHEST)
    return BinStats(edges, jnp.sum(shares, axis=0), sums[0], sums[1])


def bin_stats_equal_mass(
    confidence: jax.Array,
    correct: jax.Array,
    weights: jax.Array | None = None,
    *,
    num_bins: int = 15,
    cut: Cut = "midpoint",
) -> BinStats:
    """Sum weight, confidence and correctness per bin of equally many rows.

    The sorted rows are dealt to B runs whose sizes differ by one at most. "midpoint" puts
    an edge halfway between the neighbours of two runs and bins (lo, hi], so that equal
    confidences share a bin (Kumar et al. 2019); "rank" cuts by rank, and a group of ties
    that is cut is counted in expectation over its random order (Nguyen and O'Connor 2015).

    Args:
        confidence: float[E] in [0, 1].
        correct: bool or 0/1[E].
        weights: float or int[E], counts; None is all 1.
        num_bins: B.
        cut: where one bin ends and the next begins.

    Returns:
        BinStats; its edges are the midpoints; NaN sums if a row that counts is impossible.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if cut is neither "midpoint" nor "rank", or num_bins < 1.
    """
    if cut not in ("midpoint", "rank"):
        raise ValueError(f'cut is {cut!r}; it is "midpoint" or "rank"')
    bin_edges(num_bins)  # refuses num_bins < 1
    confidence, correct, weights = confidence_rows(confidence, correct, weights)
    order = jnp.argsort(confidence)
    confidence, correct, weights = confidence[order], correct[order], weights[order]
    end = jnp.cumsum(weights)
    bounds = _bounds(end, num_bins)
    edges = _midpoints(confidence, end, bounds)
    if cut == "midpoint":
        index = jnp.searchsorted(edges[1:-1], confidence, side="left", method="compare_all")
        member = jax.nn.one_hot(index, num_bins, dtype=confidence.dtype)
        return _sum_up(edges, confidence, correct, weights, weights[:, None] * member)
    correct = jnp.where(weights != 0, pooled_ties(correct, confidence, weights), 0)
    start = end - weights
    shares = jnp.minimum(end[:, None], bounds[None, 1:])
    shares -= jnp.maximum(start[:, None], bounds[None, :-1])
    return _sum_up(edges, confidence, correct, weights, jnp.maximum(shares, 0))


def _bounds(end: jax.Array, num_bins: int) -> jax.Array:
    """Return the weight before each bin and before the end: float[B+1], as `np.array_split`."""
    total = end[-1] if end.size else jnp.zeros((), end.dtype)
    whole, left = jnp.floor(total / num_bins), jnp.mod(total, num_bins)
    k = jnp.arange(num_bins + 1, dtype=end.dtype)
    return k * whole + jnp.minimum(k, left)


def _midpoints(confidence: jax.Array, end: jax.Array, bounds: jax.Array) -> jax.Array:
    """Return 0, the midpoints of the rows on either side of each inner bound, and 1."""
    outer = jnp.arange(2, dtype=confidence.dtype)
    if not confidence.size:
        inner = jnp.ones(bounds.size - 2, confidence.dtype)
    else:
        last = jnp.searchsorted(end, end[-1], side="left")  # that counts
        below = jnp.searchsorted(end, bounds[1:-1], side="left")
        above = jnp.searchsorted(end, bounds[1:-1], side="right")
        inner = (confidence[jnp.minimum(below, last)] + confidence[jnp.minimum(above, last)]) / 2
    return jnp.concatenate([outer[:1], inner, outer[1:]])
