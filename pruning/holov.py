"""HoloV: the salient tokens of every part of the image.

Axes: N visual tokens · K tokens kept · D width after the projector · C crops of at most n
tokens each.

Source: Zou et al. (2025), "Don't just chase 'highlighted tokens' in MLLMs: revisiting visual
holistic context retention", and its code, obananas/HoloV.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ._ops import check_budget, unit_norm
from .base import Stage, Tokens, register
from .saliency import saliency_top_k

_EPSILON = 1e-6  # of the official code


def holov(
    embeddings: jax.Array,
    saliency: jax.Array,
    budget: int,
    *,
    crops: int = 16,
    alpha: float | jax.Array = 0.09,
) -> jax.Array:
    """Share K out to consecutive crops by their scores, and take the salient tokens of each.

        w_c ∝ mean a + α · mean v · (mean a / (mean v + 10⁻⁶)),   means over the tokens of c
        vᵢ = Σⱼ (sᵢⱼ − s̄ᵢ)² / (n − 1),   s̄ᵢ = Σⱼ sᵢⱼ / (n − 1),   sᵢᵢ = 0

    with the saliency a and the cosine similarity s within a crop. Crops are stretches of the
    raster order, one token longer at the start where N is no multiple. A crop gets ⌊w K⌋, one
    more if it is of the largest w, and no more than its tokens; what is too much for it goes to
    those of the largest w. The lowest index wins a tie. Without any saliency all w are equal.

    Note that the variances are scaled to the saliency of their crop before their mean is
    taken, so the term is α · mean a but for 10⁻⁶: as in the official code the embeddings
    have next to no influence, and w is each crop's share of the saliency.

    Differs from the official code in crops that are too small: that code hands over zeros for
    what they cannot take; in crops of one token, whose saliency it divides by 1000; and in
    10⁻⁶ that it adds to norms and sums, which are guarded against zero here.

    Args:
      embeddings: float[N, D] of any precision; all is computed in float32.
      saliency: float[N], not negative (else it counts as 0); its scale is irrelevant, a NaN
        comes last.
      budget: K, 1 … N.
      crops: C ≥ 1, static; one token each where there are more than N.
      alpha: α ≥ 0.

    Returns:
      int32[K], crop by crop, by falling saliency in each. A budget or number of crops out of
      range is a ValueError.
    """
    _check(crops)
    chex.assert_rank(embeddings, 2)
    num_tokens = embeddings.shape[0]
    chex.assert_shape(saliency, (num_tokens,))
    check_budget(budget, num_tokens)
    crops = min(crops, num_tokens)
    sizes = np.array([len(part) for part in np.array_split(np.arange(num_tokens), crops)])
    weight = _weights(embeddings, saliency.astype(jnp.float32), sizes, alpha)
    take = _shares(weight, jnp.asarray(sizes), budget)
    by_saliency = saliency_top_k(saliency, num_tokens)
    crop = jnp.asarray(np.repeat(np.arange(crops), sizes))
    queue = by_saliency[jnp.argsort(crop[by_saliency], stable=True)]  # crop by crop
    place = np.concatenate([np.arange(size) for size in sizes])
    return queue[jnp.argsort(place >= take[crop], stable=True)[:budget]]


@register("holov")
class HoloV:
    """Bind the hyper-parameters of `holov`."""

    stage: ClassVar = Stage.VISION
    needs: ClassVar = ("embeddings", "saliency")
    nested: ClassVar = False
    stochastic: ClassVar = False
    uses_raster: ClassVar = True  # crops

    holov_crops: int = dataclasses.field(default=16, metadata={"static": True})
    holov_alpha: float = 0.09

    def check(self) -> None:
        """Refuse hyper-parameters without a meaning."""
        _check(self.holov_crops)
        if not 0 <= self.holov_alpha < math.inf:
            raise ValueError(f"holov: holov_alpha must be finite and ≥ 0, got {self.holov_alpha}")

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> jax.Array:
        """Return int32[budget]; the key is ignored."""
        assert tokens.embeddings is not None
        assert tokens.saliency is not None
        return holov(
            tokens.embeddings,
            tokens.saliency,
            budget,
            crops=self.holov_crops,
            alpha=self.holov_alpha,
        )


def _weights(
    embeddings: jax.Array, saliency: jax.Array, sizes: np.ndarray, alpha: float | jax.Array
) -> jax.Array:
    """Return w, float32[C], which adds up to one."""
    starts = np.cumsum(sizes) - sizes
    inside = np.arange(sizes.max())[None, :] < sizes[:, None]
    tokens = np.where(inside, starts[:, None] + np.arange(sizes.max())[None, :], 0)
    largest = jnp.max(jnp.where(saliency > 0, saliency, 0.0))
    saliency = jnp.where(saliency > 0, saliency, 0.0) / jnp.where(largest > 0, largest, 1.0)
    mean_saliency = jnp.sum(jnp.where(inside, saliency[tokens], 0.0), axis=1) / sizes
    variance = _variances(unit_norm(embeddings, -1)[tokens], inside, sizes)
    mean_variance = jnp.sum(variance, axis=1) / sizes
    score = mean_saliency * (1 + alpha * mean_variance / (mean_variance + _EPSILON))
    total = jnp.sum(score)
    return jnp.where(total > 0, score / jnp.where(total > 0, total, 1.0), 1 / len(sizes))


def _variances(unit: jax.Array, inside: np.ndarray, sizes: np.ndarray) -> jax.Array:
    """Return v of padded crops float32[C, n, D], float32[C, n], 0 outside of them."""
    similarity = jnp.einsum("cid,cjd->cij", unit, unit, precision=jax.lax.Precision.HIGHEST)
    pairs = inside[:, :, None] & inside[:, None, :]
    others = pairs & ~np.eye(inside.shape[1], dtype=bool)[None]
    similarity = jnp.where(others, similarity, 0.0)
    count = np.maximum(sizes - 1, 1)[:, None]
    mean = jnp.sum(similarity, axis=2) / count
    return jnp.sum(jnp.where(pairs, similarity - mean[:, :, None], 0.0) ** 2, axis=2) / count


def _shares(weight: jax.Array, sizes: jax.Array, budget: int) -> jax.Array:
    """Return how many tokens each crop keeps, int32[C], K in all."""
    by_weight = jnp.argsort(-weight, stable=True)
    share = jnp.floor(weight * budget).astype(jnp.int32)
    first = jnp.arange(len(sizes)) < budget - jnp.sum(share)
    take = jnp.minimum(share.at[by_weight].add(first), sizes)
    room = (sizes - take)[by_weight]
    given = jnp.clip(budget - jnp.sum(take) - (jnp.cumsum(room) - room), 0, room)
    return take.at[by_weight].add(given)


def _check(crops: int) -> None:
    if crops < 1:
        raise ValueError(f"holov: holov_crops must be ≥ 1, got {crops}")
