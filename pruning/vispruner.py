"""VisPruner: the salient tokens, and of the others those that differ most.

Axes: N visual tokens · K tokens kept · Dv width of the vision tower · R tokens that are
not among the salient ones.

Source: Zhang et al. (2025), "Beyond text-visual attention: exploiting visual cues for
effective token pruning in VLMs", and its code, Theia-4869/VisPruner.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from ._ops import check_budget, gram, unit_norm
from .base import Stage, Tokens, register
from .saliency import saliency_top_k

_DROPPED = 8  # a round, in the official code


def vispruner(
    features: jax.Array, saliency: jax.Array, budget: int, *, important_ratio: float = 0.5
) -> jax.Array:
    """Pick the ⌊K · important_ratio⌋ most salient tokens, and thin the others out to the rest of K.

    The others are listed by saliency and split into those at even and at odd places. Of the
    even ones, the 8 of the highest cosine similarity to any odd one are dropped; the even
    ones that are left, by falling similarity, and then the odd ones are the next list, until
    it is short enough. Of equal similarities the earlier in the list is dropped first.

    Differs from the official code in nothing but the order: that code sorts what it keeps.

    Args:
      features: float[N, Dv] of any precision; all is computed in float32.
      saliency: float[N]; its scale is irrelevant, a NaN comes last.
      budget: K, 1 … N.
      important_ratio: 0 … 1; static, because it is numbers of tokens that it decides.

    Returns:
      int32[K], the salient tokens by falling saliency, then the others as they are listed.
      A budget or important_ratio out of range is a ValueError.
    """
    _check(important_ratio)
    chex.assert_rank(features, 2)
    num_tokens = features.shape[0]
    chex.assert_shape(saliency, (num_tokens,))
    check_budget(budget, num_tokens)
    by_saliency = saliency_top_k(saliency, num_tokens)
    important = int(budget * important_ratio)
    similarity = _cosine_similarity(features)
    others = _thin_out(by_saliency[important:], similarity, budget - important)
    return jnp.concatenate([by_saliency[:important], others])


@register("vispruner")
class VisPruner:
    """Bind the hyper-parameters of `vispruner`."""

    stage: ClassVar = Stage.VISION
    needs: ClassVar = ("features", "saliency")
    nested: ClassVar = False
    stochastic: ClassVar = False

    important_ratio: float = dataclasses.field(default=0.5, metadata={"static": True})

    def check(self) -> None:
        """Refuse hyper-parameters without a meaning."""
        _check(self.important_ratio)

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> jax.Array:
        """Return int32[budget]; the key is ignored."""
        assert tokens.features is not None
        assert tokens.saliency is not None
        return vispruner(
            tokens.features, tokens.saliency, budget, important_ratio=self.important_ratio
        )


def _thin_out(listed: jax.Array, similarity: jax.Array, keep: int) -> jax.Array:
    """Drop evens that are like an odd, round by round, until `keep` of int32[R] tokens are left."""
    if keep in (0, listed.shape[0]):
        return listed[:keep]
    place = jnp.arange(listed.shape[0])
    even = place % 2 == 0

    def go_round(state, dropped):
        listed, length = state
        left = place < length
        odd = jnp.zeros(similarity.shape[0], bool).at[listed].set(left & ~even)
        likeness = jnp.max(jnp.where(odd[None, :], similarity, -jnp.inf), axis=1)[listed]
        # Evens by falling likeness, then odds, then what was dropped before.
        key = jnp.where(left & even, -likeness, jnp.where(left, 2.0, 3.0))
        listed = jnp.roll(listed[jnp.argsort(key, stable=True)], -dropped)
        return (listed, length - dropped), None

    drops, length = [], listed.shape[0]
    while length > keep:
        drops.append(min(_DROPPED, length - keep, -(-length // 2)))  # the evens there are
        length -= drops[-1]
    state = listed, jnp.int32(listed.shape[0])
    (listed, _), _ = jax.lax.scan(go_round, state, jnp.asarray(drops, jnp.int32))
    return listed[:keep]


def _cosine_similarity(features: jax.Array) -> jax.Array:
    """Return cosines float32[N, N] that are off by little more than their rounding, 3e-8 near 1.

    Two even tokens that swap their places, because a sum of products in float32 is off by 5e-7,
    make odd tokens even from there on: other tokens are kept. Unit vectors are split into x = h + l
    with h a multiple of 2⁻¹¹. No |hᵢ·hⱼ| is much larger than 1, so these sums are exact, and those
    with l are small; at last the norms are corrected, which were rounded too.
    """
    unit = unit_norm(features, -1)
    high = jnp.round(unit * 2.0**11) * 2.0**-11
    low = unit - high
    most = gram(high)
    rest = jnp.einsum("id,jd->ij", high + low / 2, low, precision=jax.lax.Precision.HIGHEST)
    rest = rest + rest.T
    excess = ((jnp.diagonal(most) - 1) + jnp.diagonal(rest)) / 2  # of the norms over 1
    return most + (rest - most * (excess[:, None] + excess[None, :]))


def _check(important_ratio: float) -> None:
    if not 0 <= important_ratio <= 1:
        raise ValueError(f"vispruner: important_ratio must be in 0 … 1, got {important_ratio}")
