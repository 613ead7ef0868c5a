"""Saliency alone: the tokens that CLS attends to most.

Axes: N visual tokens · K tokens kept.
"""

from __future__ import annotations

from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from ._ops import check_budget
from .base import Stage, Tokens, register


def saliency_top_k(saliency: jax.Array, budget: int) -> jax.Array:
    """Pick the `budget` tokens of largest saliency; the lowest index wins a tie.

    Args:
      saliency: float[N]; its scale is irrelevant, a NaN comes last.
      budget: K, 1 … N; anything else is a ValueError.

    Returns:
      int32[K], most salient first.
    """
    chex.assert_rank(saliency, 1)
    check_budget(budget, saliency.shape[0])
    order = jnp.argsort(-saliency.astype(jnp.float32), stable=True)
    return order[:budget].astype(jnp.int32)


@register("saliency")
class Saliency:
    """Apply `saliency_top_k`."""

    stage: ClassVar = Stage.VISION
    needs: ClassVar = ("saliency",)
    nested: ClassVar = True
    stochastic: ClassVar = False

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> jax.Array:
        """Return int32[budget]; the key is ignored."""
        assert tokens.saliency is not None
        return saliency_top_k(tokens.saliency, budget)
