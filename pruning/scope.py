"""SCOPE: greedy coverage of all tokens by the kept ones, weighted by saliency.

Axes: N visual tokens · K tokens kept · Dv width of the vision tower.

Source: Deng et al. (2025), "SCOPE: saliency-coverage oriented token pruning for
efficient multimodal LLMs". The exponent γ is not part of it: γ = 1 is that method.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from . import _greedy
from ._ops import check_budget, cosine_similarity, round_to
from .base import Stage, Tokens, register
from .saliency import saliency_field, saliency_layers, saliency_of


def scope(
    features: jax.Array,
    saliency: jax.Array | None,
    budget: int,
    *,
    alpha: float | jax.Array = 1.0,
    gamma: float = 1.0,
    combine: str = "multiply",
    select_dtype: str = "float32",
) -> jax.Array:
    """Pick, again and again, the salient token that adds most to the coverage of all.

        gⱼ = Σᵢ max(0, sᵢⱼ − mᵢ)^γ,   j* = argmax gⱼ · cⱼ^α,   mᵢ ← max(mᵢ, sᵢⱼ*)

    with the cosine similarity s, the saliency c and the coverage m, which starts at 0 (so
    a negative similarity never counts). The sum runs over all tokens, the kept ones
    included. α = 0 is pure coverage, also where the saliency is 0 (0⁰ = 1). The lowest
    index wins a tie. A NaN among the features leaves the raster order.

    Args:
      features: float[N, Dv] of any precision; all is computed in float32.
      saliency: float[N], not negative (else, or where NaN, it counts as 0), or None for
        equal weights.
      budget: K, 1 … N.
      alpha: strength of the saliency, ≥ 0.
      gamma: > 0; below 1 favours many small gaps, above 1 few large ones. Static, so
        that multiples of ¼ cost no power.
      combine: "multiply" or "add" (gⱼ + cⱼ^α); static.
      select_dtype: "float32", or "float16" to replicate a run in half precision: every
        intermediate is rounded to it, sums and products of matrices once at their end.
        Gains above 64 then step by 1/16 or more, and ties are common. Static.

    Returns:
      int32[K] in order of selection: `order[:k]` is the answer for every k < K. A
      budget, gamma, combine or select_dtype out of range is a ValueError.
    """
    _check(gamma, combine, select_dtype)
    chex.assert_rank(features, 2)
    num_tokens = features.shape[0]
    check_budget(budget, num_tokens)
    score = _greedy.Score(gamma, combine, select_dtype)
    similarity = cosine_similarity(features, select_dtype)
    weight = _weight(saliency, alpha, num_tokens, select_dtype)
    return _greedy.maximise(score, similarity, weight, budget)


@register("scope")
class Scope:
    """Bind the hyper-parameters of `scope`."""

    stage: ClassVar = Stage.VISION
    nested: ClassVar = True
    stochastic: ClassVar = False

    # A leaf: a sweep over α shares one compiled program. γ is static instead, because
    # multiples of ¼ compile to programs without a power, which run many times faster.
    alpha: float = 1.0
    gamma: float = dataclasses.field(default=1.0, metadata={"static": True})
    combine: str = dataclasses.field(default="multiply", metadata={"static": True})
    select_dtype: str = dataclasses.field(default="float32", metadata={"static": True})
    saliency_layers: str | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def needs(self) -> tuple[str, ...]:
        """The features, and the saliency of one layer or of several."""
        return ("features", saliency_field(self.saliency_layers))

    @property
    def uses_scale(self) -> bool:
        """Whether the scale of the saliency matters: it does in a sum."""
        return self.combine == "add"

    def check(self) -> None:
        """Refuse hyper-parameters without a meaning."""
        if not 0 <= self.alpha < math.inf:
            raise ValueError(
                "scope: alpha must be finite and ≥ 0 (below, a saliency of 0 would weigh "
                f"infinitely), got {self.alpha}"
            )
        _check(self.gamma, self.combine, self.select_dtype)
        self.vision_layers(24)

    def vision_layers(self, num_layers: int) -> tuple[int, ...]:
        """Return the layers of `saliency_by_layer` for a tower of that depth."""
        return saliency_layers(self.saliency_layers, num_layers)

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> jax.Array:
        """Return int32[budget]; the key is ignored."""
        assert tokens.features is not None
        return scope(
            tokens.features,
            saliency_of(tokens, self.saliency_layers),
            budget,
            alpha=self.alpha,
            gamma=self.gamma,
            combine=self.combine,
            select_dtype=self.select_dtype,
        )


def _weight(
    saliency: jax.Array | None, alpha: float | jax.Array, num_tokens: int, dtype: str
) -> jax.Array:
    """Return c^α with 0⁰ = 1, or ones without a saliency."""
    if saliency is None:
        return jnp.ones(num_tokens, jnp.float32)
    chex.assert_shape(saliency, (num_tokens,))
    saliency = round_to(saliency.astype(jnp.float32), dtype)
    weight = round_to(jnp.power(saliency, jnp.asarray(alpha, jnp.float32)), dtype)
    return jnp.where(weight > 0, weight, 0.0)


def _check(gamma: float, combine: str, select_dtype: str) -> None:
    if not 0 < gamma < math.inf:
        raise ValueError(
            "scope: gamma must be finite and > 0 (at 0 and below, a covered token would "
            f"count as much as an uncovered one or more), got {gamma}"
        )
    if combine not in ("multiply", "add"):
        raise ValueError(f'scope: combine must be "multiply" or "add", got {combine!r}')
    if select_dtype not in ("float32", "float16"):
        raise ValueError(
            'scope: select_dtype must be "float32" or "float16" (bfloat16 keeps other '
            f"tokens), got {select_dtype!r}"
        )
