"""PruMerge: the salient tokens, each with what is like it, and one for all the others.

Axes: N visual tokens · K tokens kept · Dv width of the vision tower, and of its keys with all
heads side by side.

Source: Shang et al. (2024), "LLaVA-PruMerge: adaptive token reduction for efficient large
multimodal models", and its code, 42Shawn/LLaVA-PruMerge.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ._ops import check_budget, unit_norm
from .base import Merged, Stage, Tokens, register
from .saliency import saliency_top_k

_NEIGHBOURS = 32


def prumerge(
    features: jax.Array,
    saliency: jax.Array,
    keys: jax.Array,
    budget: int,
    *,
    neighbours: int = _NEIGHBOURS,
) -> Merged:
    """Keep the most salient tokens, add to each those of similar keys, and sum up the others.

        yᵢ = xᵢ + Σ_{j near i} aⱼ xⱼ,   i of the K − 1 largest aᵢ
        y_K = Σ_{j not kept} aⱼ xⱼ

    The near ones are the `neighbours` other tokens, kept or not, whose keys have the highest
    cosine similarity to kᵢ. The lowest index wins a tie. With K = 1 all tokens are summed up.

    As in the official code the weights a do not add up to one: where the paper speaks of a
    weighted average, a weighted sum is added to the token. Differs from that code in the
    count, which is given here; there it is that of the outliers, aᵢ > Q₃ + 1.5 IQR.

    Args:
      features: float[N, Dv] of the layer before the last.
      saliency: float[N], a, the softmax over CLS and patches of q_CLS · k / √Dv with all heads
        of the last layer as one. Its scale matters; what is not in 0 … 1 is clipped to it,
        and a NaN counts as 0 and comes last.
      keys: float[1+N, Dk] of the last layer; row 0, CLS, is ignored.
      budget: K, 1 … N; anything else is a ValueError.
      neighbours: ≥ 0, static; all other tokens if there are fewer.

    Returns:
      Tokens float[K, Dv] of features' dtype by falling saliency, the sum last, and int32[K]:
      the sum takes the place of the first token that is not kept.
    """
    check_budget(budget, features.shape[0])
    kept = saliency_top_k(saliency, features.shape[0])[: budget - 1]
    return _merge(features, saliency, keys, kept, neighbours)


def prumerge_plus(
    features: jax.Array,
    saliency: jax.Array,
    keys: jax.Array,
    budget: int,
    *,
    neighbours: int = _NEIGHBOURS,
) -> Merged:
    """Apply `prumerge` to a quarter of tokens that are salient and the rest evenly spaced.

        ⌈(K − 1) / 4⌉ of the largest aᵢ,   and of the n others in raster order
        every one at ⌊i n / m⌋, i = 0 … m − 1, for the m that are missing

    Differs from the official code in the counts: that code takes the outliers, a share ρ of
    all, and every ⌊⌊1 / ρ⌋ / 3⌋-th of all tokens that is none of them, about three times as
    many; where it trains, with ρ given, as many as ρ, and some of them twice.

    Args:
      features: float[N, Dv], as in `prumerge`.
      saliency: float[N], as in `prumerge`.
      keys: float[1+N, Dk], as in `prumerge`.
      budget: K, 1 … N; anything else is a ValueError.
      neighbours: ≥ 0, static; all other tokens if there are fewer.

    Returns:
      As `prumerge`: the salient, the evenly spaced ones in raster order, the sum.
    """
    num_tokens = features.shape[0]
    check_budget(budget, num_tokens)
    salient = (budget + 2) // 4  # of K − 1, a quarter rounded up
    by_saliency = saliency_top_k(saliency, num_tokens)
    others = jnp.sort(by_saliency[salient:])
    spaced = (
        np.arange(budget - 1 - salient) * (num_tokens - salient) // max(budget - 1 - salient, 1)
    )
    kept = jnp.concatenate([by_saliency[:salient], others[spaced]])
    return _merge(features, saliency, keys, kept, neighbours)


@register("prumerge")
class PruMerge:
    """Bind the hyper-parameters of `prumerge`."""

    stage: ClassVar = Stage.VISION
    needs: ClassVar = ("features", "last_saliency", "last_keys")
    nested: ClassVar = False
    stochastic: ClassVar = False
    uses_scale: ClassVar = True  # saliencies are weights of a sum

    prumerge_neighbours: int = dataclasses.field(default=32, metadata={"static": True})

    def check(self) -> None:
        """Refuse hyper-parameters without a meaning."""
        _check(self.prumerge_neighbours)

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> Merged:
        """Return `budget` tokens; the key is ignored."""
        assert tokens.features is not None
        assert tokens.last_saliency is not None
        assert tokens.last_keys is not None
        inputs = tokens.features, tokens.last_saliency, tokens.last_keys
        return prumerge(*inputs, budget, neighbours=self.prumerge_neighbours)


@register("prumerge_plus")
class PruMergePlus:
    """Bind the hyper-parameters of `prumerge_plus`."""

    stage: ClassVar = Stage.VISION
    needs: ClassVar = ("features", "last_saliency", "last_keys")
    nested: ClassVar = False
    stochastic: ClassVar = False
    uses_raster: ClassVar = True  # the rest is evenly spaced
    uses_scale: ClassVar = True  # saliencies are weights of a sum

    prumerge_neighbours: int = dataclasses.field(default=32, metadata={"static": True})

    def check(self) -> None:
        """Refuse hyper-parameters without a meaning."""
        _check(self.prumerge_neighbours)

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> Merged:
        """Return `budget` tokens; the key is ignored."""
        assert tokens.features is not None
        assert tokens.last_saliency is not None
        assert tokens.last_keys is not None
        inputs = tokens.features, tokens.last_saliency, tokens.last_keys
        return prumerge_plus(*inputs, budget, neighbours=self.prumerge_neighbours)


def _merge(
    features: jax.Array, saliency: jax.Array, keys: jax.Array, kept: jax.Array, neighbours: int
) -> Merged:
    """Return the tokens that int32[K−1] kept ones become, and the sum of the others."""
    _check(neighbours)
    chex.assert_rank(features, 2)
    num_tokens = features.shape[0]
    chex.assert_shape(saliency, (num_tokens,))
    chex.assert_shape(keys, (1 + num_tokens, None))
    highest = jax.lax.Precision.HIGHEST
    share = jnp.where(saliency > 0, jnp.minimum(saliency.astype(jnp.float32), 1.0), 0.0)
    unit = unit_norm(keys[1:], -1)
    likeness = jnp.einsum("id,jd->ij", unit[kept], unit, precision=highest)
    rows = jnp.arange(kept.shape[0])
    likeness = jnp.where(likeness == 0, 0.0, likeness)  # top_k puts −0 behind 0
    likeness = likeness.at[rows, kept].set(-jnp.inf)
    _, nearest = jax.lax.top_k(likeness, min(neighbours, num_tokens - 1))
    weights = jnp.zeros_like(likeness).at[rows[:, None], nearest].set(share[nearest])
    weights = weights.at[rows, kept].set(1.0)
    is_kept = jnp.zeros(num_tokens, bool).at[kept].set(True)
    weights = jnp.append(weights, jnp.where(is_kept, 0.0, share)[None, :], axis=0)
    merged = jnp.einsum("ij,jd->id", weights, features.astype(jnp.float32), precision=highest)
    first = jnp.argmin(is_kept).astype(jnp.int32)
    return Merged(merged.astype(features.dtype), jnp.append(kept, first))


def _check(neighbours: int) -> None:
    if neighbours < 0:
        raise ValueError(f"prumerge: prumerge_neighbours must be ≥ 0, got {neighbours}")
