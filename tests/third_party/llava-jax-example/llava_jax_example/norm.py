"""The tokens of largest norm.

Axes: N visual tokens · K tokens kept · Dv width of the vision tower.
"""

from __future__ import annotations

import math
from typing import ClassVar

import jax
import jax.numpy as jnp

import pruning


def largest_norms(features: jax.Array, budget: int, *, power: float | jax.Array = 2.0) -> jax.Array:
    """Pick the K tokens of largest norm, Σ_d |x_d|^p; the lowest index wins a tie.

    Args:
      features: float[N, Dv] of any precision; all is computed in float32.
      budget: K, 1 … N.
      power: p > 0.

    Returns:
      int32[K], the largest first: `order[:k]` is the answer for every k < K.
    """
    size = jnp.abs(features.astype(jnp.float32))
    largest = jnp.max(size)
    size = size / jnp.where(largest > 0, largest, 1.0)  # a power cannot overflow
    return pruning.saliency_top_k(jnp.sum(size**power, axis=-1), budget)


@pruning.register("norm")
class Norm:
    """Bind the hyper-parameter of `largest_norms`."""

    stage: ClassVar = pruning.Stage.VISION
    needs: ClassVar = ("features",)
    nested: ClassVar = True
    stochastic: ClassVar = False

    norm_power: float = 2.0

    def check(self) -> None:
        """Refuse a power without a meaning."""
        if not 0 < self.norm_power < math.inf:
            raise ValueError(f"norm: norm_power must be finite and > 0, got {self.norm_power}")

    def __call__(self, tokens: pruning.Tokens, budget: int, key: jax.Array) -> jax.Array:
        """Return int32[budget]; the key is ignored."""
        return largest_norms(tokens.features, budget, power=self.norm_power)
