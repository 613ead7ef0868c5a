"""Chance: the baseline that every pruner has to beat.

Axes: N visual tokens · K tokens kept.
"""

from __future__ import annotations

import zlib
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ._ops import check_budget
from .base import Stage, Tokens, register


def random_subset(key: jax.Array, num_tokens: int, budget: int) -> jax.Array:
    """Pick `budget` tokens uniformly without replacement, the start of one permutation.

    Args:
      key: key[], see `image_key`.
      num_tokens: N.
      budget: K, 1 … N; anything else is a ValueError.

    Returns:
      int32[K]; a smaller budget with the same key returns the first of these.
    """
    check_budget(budget, num_tokens)
    return jax.random.permutation(key, jnp.arange(num_tokens, dtype=jnp.int32))[:budget]


def image_key(seed: int, image_id: str) -> jax.Array:
    """Return the key of one image, fold_in(key(seed), crc32(image_id)).

    It depends on nothing else: not on the batch, the order of the images, the number of
    hosts or jax's default generator.

    Args:
      seed: the run's seed.
      image_id: the image's name in its benchmark.

    Returns:
      key[].
    """
    key = jax.random.key(seed, impl="threefry2x32")
    return jax.random.fold_in(key, np.uint32(zlib.crc32(image_id.encode())))


@register("random")
class Random:
    """Apply `random_subset`."""

    stage: ClassVar = Stage.VISION
    needs: ClassVar = ()
    nested: ClassVar = True
    stochastic: ClassVar = True

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> jax.Array:
        """Return int32[budget]."""
        return random_subset(key, tokens.num_tokens, budget)
