"""VisionZip: the salient tokens, and the others merged into a few.

Axes: N visual tokens · K tokens kept · Dv width of the vision tower · Dk width of its keys.

Source: Yang et al. (2025), "VisionZip: longer is better but not necessary in vision language
models", and its code, dvlab-research/VisionZip.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ._ops import unit_norm
from .base import Merged, Stage, Tokens, register
from .saliency import saliency_top_k

# How many of K tokens are merged ones, for N = 576: published, and as peers run the other K.
_BUDGETS = (0, 8, 16, 32, 48, 64, 128, 160, 192, 320, 640)
_CONTEXTUAL = (0, 2, 4, 6, 8, 10, 20, 25, 30, 50, 100)


def visionzip(
    hidden: jax.Array, saliency: jax.Array, keys: jax.Array, dominant: int, contextual: int
) -> jax.Array:
    """Keep CLS and the most salient tokens, and merge the others into evenly spaced ones.

        cₜ = hₜ + mean of the hⱼ whose key is most similar to kₜ,   t every ⌊n / contextual⌋-th

    of the n others in raster order. Each of them that is no target joins the one target
    whose key has the highest cosine similarity to its own; the lowest index wins a tie.

    As in the official code the mean is added to the target, which is no part of it: a merged
    token is a sum of two, not an average.

    Args:
      hidden: float[1+N, Dv], CLS first.
      saliency: float[N]; its scale is irrelevant, a NaN comes last.
      keys: float[1+N, Dk] of the same layer, mean over heads.
      dominant: tokens kept as they are, CLS included, ≥ 1.
      contextual: merged tokens, ≥ 0; the two are at most 1+N together.

    Returns:
      float[dominant + contextual, Dv] of hidden's dtype: the dominant in raster order, then
      the merged ones. Numbers out of range are a ValueError.
    """
    return _visionzip(hidden, saliency, keys, dominant, contextual).features


@register("visionzip")
class VisionZip:
    """Apply `visionzip` to K = dominant + contextual tokens."""

    stage: ClassVar = Stage.VISION
    needs: ClassVar = ("hidden", "saliency", "keys")
    nested: ClassVar = False
    stochastic: ClassVar = False
    uses_raster: ClassVar = True  # targets are evenly spaced

    # None: the published share of K. What exceeds K − 1 is cut, since CLS is kept always.
    contextual: int | None = dataclasses.field(default=None, metadata={"static": True})

    def check(self) -> None:
        """Refuse hyper-parameters without a meaning."""
        if self.contextual is not None and self.contextual < 0:
            raise ValueError(f"visionzip: contextual must be ≥ 0, got {self.contextual}")

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> Merged:
        """Return `budget` tokens, CLS (index −1) first; the key is ignored.

        A merged token takes the place of its target.
        """
        assert tokens.hidden is not None
        assert tokens.saliency is not None
        assert tokens.keys is not None
        wanted = published_contextual(budget) if self.contextual is None else self.contextual
        contextual = min(wanted, budget - 1)
        dominant = budget - contextual
        return _visionzip(tokens.hidden, tokens.saliency, tokens.keys, dominant, contextual)


def published_contextual(budget: int) -> int:
    """Return how many of `budget` tokens are merged ones: 10 of 64, 20 of 128, 30 of 192.

    Between the published budgets the number is interpolated, beyond them it is proportional;
    it is at least 1.
    """
    if budget > _BUDGETS[-1]:
        return round(budget * _CONTEXTUAL[-1] / _BUDGETS[-1])
    return max(1, round(float(np.interp(budget, _BUDGETS, _CONTEXTUAL))))


def _visionzip(
    hidden: jax.Array, saliency: jax.Array, keys: jax.Array, dominant: int, contextual: int
) -> Merged:
    """Return what `visionzip` does, and the tokens whose places they take."""
    chex.assert_rank(hidden, 2)
    num_tokens = hidden.shape[0] - 1
    chex.assert_shape(saliency, (num_tokens,))
    chex.assert_shape(keys, (1 + num_tokens, None))
    _check(dominant, contextual, num_tokens)
    salient = 1 + saliency_top_k(saliency, num_tokens)[: dominant - 1]
    is_dominant = jnp.zeros(1 + num_tokens, bool).at[salient].set(True).at[0].set(True)
    raster = jnp.argsort(~is_dominant, stable=True).astype(jnp.int32)  # the dominant first
    kept, others = raster[:dominant], raster[dominant:]
    if contextual == 0:
        return Merged(hidden[kept], kept - 1)
    step = others.shape[0] // contextual
    targets = others[: step * contextual : step]
    merged = _merge(hidden.astype(jnp.float32), keys, targets, others)
    features = jnp.concatenate([hidden[kept], merged.astype(hidden.dtype)])
    return Merged(features, jnp.concatenate([kept, targets]) - 1)


def _merge(hidden: jax.Array, keys: jax.Array, targets: jax.Array, others: jax.Array) -> jax.Array:
    """Add to every target the mean of the others that join it, float32[contextual, Dv]."""
    unit = unit_norm(keys, -1)
    highest = jax.lax.Precision.HIGHEST
    likeness = jnp.einsum("td,jd->tj", unit[targets], unit[others], precision=highest)
    nearest = jnp.argmax(likeness, axis=0)
    place = jnp.arange(targets.shape[0])[:, None]
    joins = (place == nearest[None, :]) & ~jnp.isin(others, targets)[None, :]
    count = jnp.maximum(jnp.sum(joins, axis=1, keepdims=True), 1)
    total = jnp.einsum("tj,jd->td", joins.astype(jnp.float32), hidden[others], precision=highest)
    return hidden[targets] + total / count


def _check(dominant: int, contextual: int, num_tokens: int) -> None:
    if dominant < 1:
        raise ValueError(f"visionzip: dominant must be ≥ 1 (CLS is one of them), got {dominant}")
    if contextual < 0:
        raise ValueError(f"visionzip: contextual must be ≥ 0, got {contextual}")
    if dominant + contextual > 1 + num_tokens:
        raise ValueError(
            f"visionzip: dominant + contextual must be at most {1 + num_tokens} (all visual "
            f"tokens and CLS), got {dominant} + {contextual}"
        )
