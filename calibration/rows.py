"""Rows and their weights: how every statistic sees masks, counts and bad values.

Axis legend: E examples.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def float_dtype(*arrays: jax.Array) -> jnp.dtype:
    """Return the dtype to compute in: that of the arrays, at least float32."""
    return jnp.result_type(*arrays, jnp.float32)


def row_weights(weights: jax.Array | None, rows: jax.Array) -> jax.Array:
    """Return the weights as floats, one where none are given.

    Args:
        weights: float or int[E], wᵢ ≥ 0: a 0/1 mask or bootstrap counts; None is all 1.
        rows: float[E], the array that is weighted; it decides shape and dtype.

    Returns:
        float[E].

    Raises:
        AssertionError: if the shapes differ.
    """
    if weights is None:
        return jnp.ones(rows.shape, rows.dtype)
    chex.assert_equal_shape([weights, rows])
    return jnp.asarray(weights, rows.dtype)


def confidence_rows(
    confidence: jax.Array, correct: jax.Array, weights: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Bring rows to floats, NaN where a confidence or a correctness is impossible.

    Args:
        confidence: float[E], possible in [0, 1].
        correct: bool, int or float[E], possible 0 and 1.
        weights: float or int[E], or None.

    Returns:
        confidence, correct, weights: float[E]. An impossible row is NaN in both of the
        first two, so every statistic that counts the row is NaN.

    Raises:
        AssertionError: if the shapes differ or are not [E].
    """
    chex.assert_rank([confidence, correct], 1)
    chex.assert_equal_shape([confidence, correct])
    dtype = float_dtype(confidence)
    confidence, correct = jnp.asarray(confidence, dtype), jnp.asarray(correct, dtype)
    possible = (confidence >= 0) & (confidence <= 1)
    possible &= (correct == 0) | (correct == 1)
    confidence = jnp.where(possible, confidence, jnp.nan)
    correct = jnp.where(possible, correct, jnp.nan)
    return confidence, correct, row_weights(weights, confidence)


def weighted_sum(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Sum wᵢ vᵢ; a row of weight 0 does not count, whatever its value.

    Args:
        values: float[E].
        weights: float[E].

    Returns:
        float[].
    """
    return jnp.sum(jnp.where(weights != 0, weights * values, 0))


def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Average Σ wᵢ vᵢ / Σ wᵢ; NaN if no row counts.

    Args:
        values: float[E].
        weights: float[E].

    Returns:
        float[].
    """
    return weighted_sum(values, weights) / jnp.sum(weights)


def pooled_ties(values: jax.Array, others: jax.Array, weights: jax.Array) -> jax.Array:
    """Replace values by their mean over the rows that tie: what a random order expects.

    Args:
        values: float[E].
        others: float[E], ascending or descending; equal entries tie.
        weights: float[E].

    Returns:
        float[E], Σ w v / Σ w over each group of equal entries; 0 where none counts.
    """
    group = jnp.cumsum(jnp.pad(others[1:] != others[:-1], (1, 0)))[: others.size]

    def total(x: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(x, group, x.size, indices_are_sorted=True)

    size = total(weights)
    mean = total(jnp.where(weights != 0, weights * values, 0)) / jnp.where(size == 0, 1, size)
    return mean[group]
