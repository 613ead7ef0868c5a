"""OTPrune: tokens whose distribution is close to that of all tokens.

Axes: N visual tokens · K tokens kept · D width after the projector.

Source: "OTPrune: distribution-aligned visual token pruning via optimal transport" (2026)
and its code, xiwenc1/OTPrune.
"""

from __future__ import annotations

import math
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from . import _dpp
from ._ops import check_budget, gram, unit_norm
from .base import Stage, Tokens, register


def otprune(embeddings: jax.Array, budget: int, *, gamma: float | jax.Array = 0.01) -> jax.Array:
    """Pick tokens that keep the covariance of all, a bound on the optimal transport to them.

        x̃ᵢ_d = xᵢ_d / (Σⱼ xⱼ_d²)^½,   G = X̃ X̃ᵀ,   max_S log det (I + γ G Gᵀ)_S

    greedily. It is the channels that are normalised, over the tokens, as in the official
    code; its description speaks of a normalised similarity of tokens. The lowest index
    wins a tie. A NaN among the embeddings leaves the raster order.

    Differs from the official code in the order alone: that hands tokens to the decoder in
    the order of a Python set.

    Args:
      embeddings: float[N, D] of any precision; all is computed in float32.
      budget: K, 1 … N; anything else is a ValueError.
      gamma: weight of the similarities against independence, ≥ 0; at 0 all tokens are
        equal and the raster order is left.

    Returns:
      int32[K] in order of selection: `order[:k]` is the answer for every k < K.
    """
    chex.assert_rank(embeddings, 2)
    num_tokens = embeddings.shape[0]
    check_budget(budget, num_tokens)
    similarity = gram(unit_norm(embeddings, 0))
    kernel = jnp.eye(num_tokens) + gamma * gram(similarity)
    return _dpp.maximise(kernel, budget)


@register("otprune")
class OTPrune:
    """Bind the hyper-parameters of `otprune`."""

    stage: ClassVar = Stage.VISION
    needs: ClassVar = ("embeddings",)
    nested: ClassVar = True
    stochastic: ClassVar = False

    gamma: float = 0.01

    def check(self) -> None:
        """Refuse hyper-parameters without a meaning."""
        if not 0 <= self.gamma < math.inf:
            raise ValueError(
                "otprune: gamma must be finite and ≥ 0 (below, the kernel would not be that "
                f"of a determinantal point process), got {self.gamma}"
            )

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> jax.Array:
        """Return int32[budget]; the key is ignored."""
        assert tokens.embeddings is not None
        return otprune(tokens.embeddings, budget, gamma=self.gamma)
