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

from ._ops import check_budget, cosine_similarity
from .base import Stage, Tokens, register


def scope(
    features: jax.Array,
    saliency: jax.Array | None,
    budget: int,
    *,
    alpha: float | jax.Array = 1.0,
    gamma: float = 1.0,
    combine: str = "multiply",
) -> jax.Array:
    """Pick, again and again, the salient token that adds most to the coverage of all.

        gⱼ = Σᵢ max(0, sᵢⱼ − mᵢ)^γ,   j* = argmax gⱼ · cⱼ^α,   mᵢ ← max(mᵢ, sᵢⱼ*)

    with the cosine similarity s, the saliency c and the coverage m, which starts at 0 (so
    a negative similarity never counts). The sum runs over all tokens, the kept ones
    included. α = 0 is pure coverage, also where the saliency is 0 (0⁰ = 1). The lowest
    index wins a tie.

    Args:
      features: float[N, Dv] of any precision; all is computed in float32.
      saliency: float[N], not negative, or None for equal weights.
      budget: K, 1 … N.
      alpha: strength of the saliency, ≥ 0.
      gamma: > 0; below 1 favours many small gaps, above 1 few large ones. Static, so
        that 1 and 2 cost no power.
      combine: "multiply" or "add" (gⱼ + cⱼ^α); static.

    Returns:
      int32[K] in order of selection: `order[:k]` is the answer for every k < K. A
      budget, gamma or combine out of range is a ValueError.
    """
    _check_gamma(gamma)
    _check_combine(combine)
    chex.assert_rank(features, 2)
    num_tokens = features.shape[0]
    check_budget(budget, num_tokens)
    similarity = cosine_similarity(features)
    weight = _weight(saliency, alpha, num_tokens)

    def pick(step, state):
        coverage, taken, order = state
        gap = jnp.maximum(similarity - coverage[:, None], 0.0)
        gain = jnp.sum(_power(gap, gamma), axis=0)
        score = gain * weight if combine == "multiply" else gain + weight
        best = jnp.argmax(jnp.where(taken, -jnp.inf, score)).astype(jnp.int32)
        coverage = jnp.maximum(coverage, similarity[best])  # row = column
        return coverage, taken.at[best].set(True), order.at[step].set(best)

    coverage = jnp.zeros(num_tokens, jnp.float32)
    taken = jnp.zeros(num_tokens, bool)
    order = jnp.zeros(budget, jnp.int32)
    return jax.lax.fori_loop(0, budget, pick, (coverage, taken, order))[2]


@register("scope")
class Scope:
    """Bind the hyper-parameters of `scope`."""

    stage: ClassVar = Stage.VISION
    needs: ClassVar = ("features", "saliency")
    nested: ClassVar = True
    stochastic: ClassVar = False

    # A leaf: a sweep over α shares one compiled program. γ is static instead, because
    # 1 and 2 compile to programs without a power, which run many times faster.
    alpha: float = 1.0
    gamma: float = dataclasses.field(default=1.0, metadata={"static": True})
    combine: str = dataclasses.field(default="multiply", metadata={"static": True})

    def check(self) -> None:
        """Refuse hyper-parameters without a meaning."""
        if not 0 <= self.alpha < math.inf:
            raise ValueError(
                "scope: alpha must be finite and ≥ 0 (below, a saliency of 0 would weigh "
                f"infinitely), got {self.alpha}"
            )
        _check_gamma(self.gamma)
        _check_combine(self.combine)

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> jax.Array:
        """Return int32[budget]; the key is ignored."""
        assert tokens.features is not None
        return scope(
            tokens.features,
            tokens.saliency,
            budget,
            alpha=self.alpha,
            gamma=self.gamma,
            combine=self.combine,
        )


def _weight(saliency: jax.Array | None, alpha: float | jax.Array, num_tokens: int) -> jax.Array:
    """Return c^α with 0⁰ = 1, or ones without a saliency."""
    if saliency is None:
        return jnp.ones(num_tokens, jnp.float32)
    chex.assert_shape(saliency, (num_tokens,))
    return jnp.power(saliency.astype(jnp.float32), jnp.asarray(alpha, jnp.float32))


def _power(gap: jax.Array, gamma: float) -> jax.Array:
    """Return gap^γ for gap ≥ 0 and γ > 0, so that 0^γ = 0."""
    if gamma == 1:
        return gap
    return gap * gap if gamma == 2 else gap**gamma


def _check_gamma(gamma: float) -> None:
    if not 0 < gamma < math.inf:
        raise ValueError(
            "scope: gamma must be finite and > 0 (at 0 and below, a covered token would "
            f"count as much as an uncovered one or more), got {gamma}"
        )


def _check_combine(combine: str) -> None:
    if combine not in ("multiply", "add"):
        raise ValueError(f'scope: combine must be "multiply" or "add", got {combine!r}')
