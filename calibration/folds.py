"""Folds for cross-validation, of rows or of whole groups.

Axis legend: E examples, F folds.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def kfold(key: jax.Array, num_rows: int, num_folds: int = 5) -> jax.Array:
    """Deal rows to folds at random, in sizes that differ by one at most.

    Args:
        key: PRNG key.
        num_rows: E.
        num_folds: F.

    Returns:
        int32[E] in [0, F).
    """
    shuffled = jnp.argsort(jax.random.bits(key, (num_rows,), jnp.uint32))
    return shuffled.astype(jnp.int32) % num_folds


def group_kfold(key: jax.Array, group: jax.Array, num_groups: int, num_folds: int = 5) -> jax.Array:
    """Deal whole groups to folds, so that no group is on both sides of a fit.

    Args:
        key: PRNG key.
        group: int[E] in [0, num_groups), the image of each row.
        num_groups: number of groups.
        num_folds: F.

    Returns:
        int32[E] in [0, F).
    """
    return kfold(key, num_groups, num_folds)[group]


def training_weights(
    fold: jax.Array, num_folds: int, weights: jax.Array | None = None
) -> jax.Array:
    """Weight the rows outside each fold, wᵢ 1[foldᵢ ≠ f].

    Args:
        fold: int[E] in [0, F).
        num_folds: F.
        weights: float or int[E]; None is all 1.

    Returns:
        float or int[F, E].

    Raises:
        AssertionError: if the shapes differ.
    """
    weights = jnp.ones_like(fold) if weights is None else jnp.asarray(weights)
    chex.assert_equal_shape([fold, weights])
    outside = jnp.arange(num_folds)[:, None] != fold[None, :]
    return jnp.where(outside, weights[None, :], 0)
