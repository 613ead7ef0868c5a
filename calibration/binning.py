"""Equal-width confidence bins and the per-bin sums of a reliability diagram.

Axis legend: E examples, B bins.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from .rows import confidence_rows

Closed = Literal["right", "left"]


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
    """Sum weight, confidence and correctness per bin.

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
    counted = weights != 0
    terms = [weights, weights * confidence, weights * correct]
    rows = jnp.stack([jnp.where(counted, term, 0) for term in terms])
    sums = jnp.matmul(rows, member, precision=jax.lax.Precision.HIGHEST)
    edges = jnp.asarray(bin_edges(num_bins), confidence.dtype)
    return BinStats(edges, sums[0], sums[1], sums[2])
