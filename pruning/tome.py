"""ToMe: pairs of tokens with similar keys become one, round by round.

Axes: N visual tokens · K tokens kept · Dv width of the vision tower · Dk width of its keys ·
n tokens that are left before a round, r pairs merged in it.

Source: Bolya et al. (2023), "Token merging: your ViT but faster", and its code,
facebookresearch/ToMe.
"""

from __future__ import annotations

from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from ._ops import check_budget, unit_norm
from .base import Merged, Stage, Tokens, register


def tome(features: jax.Array, keys: jax.Array, budget: int) -> Merged:
    """Merge every other token with the most similar one between them until K are left.

        A = tokens at even places, B = at odd ones,   bᵢ = argmax_{b ∈ B} cos(kᵢ, k_b)
        the r = min(⌊n / 2⌋, n − K) of A with the highest cosine join their bᵢ

    in rounds. A merged token is the mean of all tokens that it stands for, its features and
    its key alike, so Σ size · feature never changes. The lowest index wins a tie.

    Differs from the official code, which merges r tokens inside every layer of the tower, so
    that later layers compute new keys, weighs attention by the sizes, and lists the tokens
    left of A before those of B: here the output of an unchanged tower is merged, a key is the
    mean of keys, and the tokens alternate in raster order in every round. CLS takes no part.

    Args:
      features: float[N, Dv]; means are taken in float32.
      keys: float[1+N, Dk] of the same layer, mean over heads; row 0, CLS, is ignored.
      budget: K, 1 … N; anything else is a ValueError.

    Returns:
      Tokens float[K, Dv] of features' dtype in raster order, and int32[K]: a merged token
      takes the place of the one that the others joined.
    """
    chex.assert_rank(features, 2)
    num_tokens = features.shape[0]
    chex.assert_shape(keys, (1 + num_tokens, None))
    check_budget(budget, num_tokens)
    left, index = num_tokens, jnp.arange(num_tokens, dtype=jnp.int32)
    sizes = jnp.ones((num_tokens, 1), jnp.float32)
    # Sums, divided by their sizes at the end: cosines do not depend on the length of a key.
    sums = features.astype(jnp.float32), keys[1:].astype(jnp.float32), sizes
    while left > budget:
        pairs = min(left // 2, left - budget)
        sums, index = _merge(sums, index, pairs)
        left -= pairs
    return Merged((sums[0] / sums[2]).astype(features.dtype), index)


@register("tome")
class ToMe:
    """Apply `tome`."""

    stage: ClassVar = Stage.VISION
    needs: ClassVar = ("features", "keys")
    nested: ClassVar = False
    stochastic: ClassVar = False
    uses_raster: ClassVar = True  # tokens alternate

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> Merged:
        """Return `budget` tokens; the key is ignored."""
        assert tokens.features is not None
        assert tokens.keys is not None
        return tome(tokens.features, tokens.keys, budget)


def _merge(
    sums: tuple[jax.Array, jax.Array, jax.Array], index: jax.Array, pairs: int
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], jax.Array]:
    """Let `pairs` tokens at even places join one at an odd place.

    Args:
      sums: features float32[n, Dv], keys float32[n, Dk] and sizes float32[n, 1].
      index: int32[n].
      pairs: r, at most ⌊n / 2⌋.

    Returns:
      The same of the n − r tokens that are left.
    """
    unit = unit_norm(sums[1], -1)
    highest = jax.lax.Precision.HIGHEST
    likeness = jnp.einsum("ad,bd->ab", unit[::2], unit[1::2], precision=highest)
    nearest = jnp.argmax(likeness, axis=1)
    leaving = jnp.argsort(-jnp.max(likeness, axis=1), stable=True)[:pairs]
    stays = jnp.ones(index.shape[0], bool).at[2 * leaving].set(False)
    left = jnp.argsort(~stays, stable=True)[: index.shape[0] - pairs]

    def merge(sums: jax.Array) -> jax.Array:
        return sums.at[1 + 2 * nearest[leaving]].add(sums[2 * leaving])[left]

    features, keys, sizes = sums
    return (merge(features), merge(keys), merge(sizes)), index[left]
