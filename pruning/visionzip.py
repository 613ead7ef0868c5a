"""VisionZip: the salient tokens, and the others merged into a few.

Axes: N visual tokens · Dv width of the vision tower · Dk width of its keys.

Source: Yang et al. (2025), "VisionZip: longer is better but not necessary in vision language
models", and its code, dvlab-research/VisionZip.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from ._ops import unit_norm
from .saliency import saliency_top_k


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
      contextual: merged tokens, ≥ 1; the two are at most 1+N together.

    Returns:
      float[dominant + contextual, Dv] of hidden's dtype: the dominant in raster order, then
      the merged ones. Numbers out of range are a ValueError.
    """
    chex.assert_rank(hidden, 2)
    num_tokens = hidden.shape[0] - 1
    chex.assert_shape(saliency, (num_tokens,))
    chex.assert_shape(keys, (1 + num_tokens, None))
    _check(dominant, contextual, num_tokens)
    salient = 1 + saliency_top_k(saliency, num_tokens)[: dominant - 1]
    is_dominant = jnp.zeros(1 + num_tokens, bool).at[salient].set(True).at[0].set(True)
    raster = jnp.argsort(~is_dominant, stable=True)  # the dominant first
    kept, others = raster[:dominant], raster[dominant:]
    step = others.shape[0] // contextual
    targets = others[: step * contextual : step]
    merged = _merge(hidden.astype(jnp.float32), keys, targets, others)
    return jnp.concatenate([hidden[kept], merged.astype(hidden.dtype)])


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
    if contextual < 1:
        raise ValueError(f"visionzip: contextual must be ≥ 1, got {contextual}")
    if dominant + contextual > 1 + num_tokens:
        raise ValueError(
            f"visionzip: dominant + contextual must be at most {1 + num_tokens} (all visual "
            f"tokens and CLS), got {dominant} + {contextual}"
        )
