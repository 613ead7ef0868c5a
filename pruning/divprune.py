"""DivPrune: tokens that are as far apart as possible.

Axes: N visual tokens · K tokens kept · D width after the projector.

Source: Alvar et al. (2025), "DivPrune: diversity-based visual token pruning for large
multimodal models".
"""

from __future__ import annotations

from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from ._ops import check_budget, cosine_similarity
from .base import Stage, Tokens, register


def divprune(embeddings: jax.Array, budget: int) -> jax.Array:
    """Pick, again and again, the token that is farthest from its nearest kept one.

        dᵢⱼ = 1 − cos(xᵢ, xⱼ),   j* = argmax min_{i kept} dᵢⱼ

    greedily for max_S min_{i≠j ∈ S} dᵢⱼ. The first pick is the token that is farthest from
    its nearest other one. The lowest index wins a tie. A token with a NaN counts as a copy
    of every other one.

    Differs from the official code where tokens coincide: that code does not rule out kept
    tokens, so once every distance is 0 it picks some of them again, and the decoder gets
    copies. The published numbers were made with tokens handed over in order of selection;
    the code sorts them since.

    Args:
      embeddings: float[N, D] of any precision; all is computed in float32.
      budget: K, 1 … N; anything else is a ValueError.

    Returns:
      int32[K] in order of selection: `order[:k]` is the answer for every k < K.
    """
    chex.assert_rank(embeddings, 2)
    num_tokens = embeddings.shape[0]
    check_budget(budget, num_tokens)
    distance = 1 - cosine_similarity(embeddings)
    distance = jnp.where(distance > 0, distance, 0.0)

    def pick(step, state):
        nearest, taken, order = state
        best = jnp.argmax(jnp.where(taken, -jnp.inf, nearest)).astype(jnp.int32)
        nearest = jnp.minimum(nearest, distance[best])
        return nearest, taken.at[best].set(True), order.at[step].set(best)

    others = jnp.where(jnp.eye(num_tokens, dtype=bool), jnp.inf, distance)
    first = jnp.argmax(jnp.min(others, axis=0)).astype(jnp.int32)
    state = distance[first], jnp.arange(num_tokens) == first, jnp.full(budget, first)
    return jax.lax.fori_loop(1, budget, pick, state)[2]


@register("divprune")
class DivPrune:
    """Apply `divprune`."""

    stage: ClassVar = Stage.VISION
    needs: ClassVar = ("embeddings",)
    nested: ClassVar = True
    stochastic: ClassVar = False

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> jax.Array:
        """Return int32[budget]; the key is ignored."""
        assert tokens.embeddings is not None
        return divprune(tokens.embeddings, budget)
