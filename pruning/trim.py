"""TRIM: the tokens that bear on the question, and the mean of the others.

Axes: N visual tokens · K tokens kept · Dv width of the vision tower.

Source: Song et al. (2024), "Less is more: a simple yet effective token reduction method for
efficient multi-modal LLMs", and its code, FreedomIntelligence/TRIM.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from ._ops import check_budget
from .base import Merged, Stage, Tokens, register
from .saliency import saliency_top_k


def trim(features: jax.Array, relevance: jax.Array, budget: int, *, rest: str = "mean") -> Merged:
    """Keep the tokens of largest relevance, and make the mean of all others the last one.

        x̄ = mean of the xⱼ that are not among the K − 1 of largest rⱼ

    The lowest index wins a tie. With K = N the mean is that of one token, with K = 1 that of
    all. The relevance is that of `cdpruner_relevance`, of which the order alone matters: the
    less similar a patch is to the text in CLIP, the more relevant, as in the official code.

    Differs from the official code in the similarity, a product of vectors there and, as in
    the paper, a cosine here; in the count, a given one here and there also one of outliers,
    those above Q₃ + 1.5 IQR of the softmax; and in the order, raster there, the mean last.

    Args:
      features: float[N, Dv].
      relevance: float[N]; a NaN comes last.
      budget: K, 1 … N; anything else is a ValueError.
      rest: "mean" (the code's TextSim+), or "none" for the K of largest relevance without a
        mean (TextSim); anything else is a ValueError.

    Returns:
      Tokens float[K, Dv] of features' dtype by falling relevance, the mean last, and int32[K]:
      the mean takes the place of the first token that it replaces.
    """
    _check(rest)
    chex.assert_rank(features, 2)
    num_tokens = features.shape[0]
    chex.assert_shape(relevance, (num_tokens,))
    check_budget(budget, num_tokens)
    order = saliency_top_k(relevance, num_tokens)
    if rest == "none":
        return Merged(features[order[:budget]], order[:budget])
    kept, others = order[: budget - 1], order[budget - 1 :]
    mean = jnp.mean(features[others].astype(jnp.float32), axis=0, keepdims=True)
    merged = jnp.concatenate([features[kept], mean.astype(features.dtype)])
    return Merged(merged, jnp.append(kept, jnp.min(others)))


@register("trim")
class Trim:
    """Bind the hyper-parameters of `trim`."""

    stage: ClassVar = Stage.QUESTION
    needs: ClassVar = ("features", "relevance")
    nested: ClassVar = False
    stochastic: ClassVar = False

    trim_rest: str = dataclasses.field(default="mean", metadata={"static": True})

    def check(self) -> None:
        """Refuse hyper-parameters without a meaning."""
        _check(self.trim_rest)

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> Merged:
        """Return `budget` tokens; the key is ignored."""
        assert tokens.features is not None
        assert tokens.relevance is not None
        return trim(tokens.features, tokens.relevance, budget, rest=self.trim_rest)


def _check(rest: str) -> None:
    if rest not in ("mean", "none"):
        raise ValueError(f'trim: trim_rest must be "mean" or "none", got {rest!r}')
