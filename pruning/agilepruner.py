"""AgilePruner: the salient tokens, each ruling out those like it.

Axes: N visual tokens · K tokens kept · D width after the projector.

Source: "AgilePruner: an empirical study of attention and diversity for adaptive visual
token pruning in large vision-language models" (2026).
"""

from __future__ import annotations

import math
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from ._ops import check_budget, cosine_similarity
from .base import Stage, Tokens, register
from .saliency import saliency_top_k


def agilepruner(
    embeddings: jax.Array,
    saliency: jax.Array,
    budget: int,
    *,
    erank_average: float | jax.Array = 90.0,
    threshold_cap: float | jax.Array = 0.25,
    threshold: float | jax.Array | None = None,
) -> jax.Array:
    """Pick the most salient token that is left, and rule out those at a distance below τ.

        τᵢ = min(0.01 · rankᵢ · erank(X) / erank_average, threshold_cap),   dᵢⱼ = 1 − cos(xᵢ, xⱼ)

    with the rank 1 … N of token i by saliency among all tokens: the less salient a token,
    and the more diverse the image, the more it rules out. erank is the exponential of the
    entropy of the singular values of the centred embeddings, which sum to one. Tokens that
    were ruled out follow by saliency once no other is left. Of equal saliency the lowest
    index comes first. A NaN among the embeddings leaves the order of saliency.

    The formula is the authors' description of their method; the two constants are those of
    their released code as third parties report it, the mean erank of LLaVA-1.5's images
    and a cap. It has not been compared with a run of that code.

    Args:
      embeddings: float[N, D] of any precision; all is computed in float32.
      saliency: float[N]; its scale is irrelevant, a NaN comes last.
      budget: K, 1 … N; anything else is a ValueError.
      erank_average: > 0.
      threshold_cap: ≥ 0.
      threshold: the same τ for every token in place of the formula.

    Returns:
      int32[K] in order of selection: `order[:k]` is the answer for every k < K.
    """
    chex.assert_rank(embeddings, 2)
    num_tokens = embeddings.shape[0]
    chex.assert_shape(saliency, (num_tokens,))
    check_budget(budget, num_tokens)
    by_saliency = saliency_top_k(saliency, num_tokens)
    distance = 1 - cosine_similarity(embeddings)
    if threshold is None:
        rank = jnp.arange(1, num_tokens + 1, dtype=jnp.float32)
        slope = 0.01 * effective_rank(embeddings) / erank_average
        thresholds = jnp.minimum(rank * slope, threshold_cap)
    else:
        thresholds = jnp.full(num_tokens, threshold, jnp.float32)

    def visit(index, state):
        alive, picked = state
        token = by_saliency[index]
        picks = alive[token]
        near = distance[token] < thresholds[index]
        return alive & ~(picks & near), picked.at[index].set(picks)

    nobody = jnp.zeros(num_tokens, bool)
    _, picked = jax.lax.fori_loop(0, num_tokens, visit, (~nobody, nobody))
    return by_saliency[jnp.argsort(~picked, stable=True)][:budget]


def effective_rank(embeddings: jax.Array) -> jax.Array:
    """Return exp(−Σ p log p) of the centred embeddings' singular values, p = σ / Σ σ.

    Args:
      embeddings: float[N, D]; their scale is irrelevant.

    Returns:
      float32[], 1 … min(N, D); 1 where all tokens are equal.
    """
    values = embeddings.astype(jnp.float32)
    largest = jnp.max(jnp.abs(values))
    values = values / jnp.where(largest > 0, largest, 1.0)
    values = values - jnp.mean(values, axis=0, keepdims=True)
    # The eigenvalues of the smaller of the two products: an order faster than the singular values.
    values = values if values.shape[0] <= values.shape[1] else values.T
    squares = jnp.einsum("id,jd->ij", values, values, precision=jax.lax.Precision.HIGHEST)
    singular = jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(squares), 0.0))
    total = jnp.sum(singular)
    share = singular / jnp.where(total > 0, total, 1.0)
    return jnp.exp(-jnp.sum(share * jnp.log(jnp.where(share > 0, share, 1.0))))


@register("agilepruner")
class AgilePruner:
    """Bind the hyper-parameters of `agilepruner`."""

    stage: ClassVar = Stage.VISION
    needs: ClassVar = ("embeddings", "saliency")
    nested: ClassVar = True
    stochastic: ClassVar = False

    erank_average: float = 90.0
    threshold_cap: float = 0.25
    threshold: float | None = None

    def check(self) -> None:
        """Refuse hyper-parameters without a meaning."""
        if not 0 < self.erank_average < math.inf:
            raise ValueError(
                f"agilepruner: erank_average must be finite and > 0, got {self.erank_average}"
            )
        for name in ("threshold_cap", "threshold"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"agilepruner: {name} must be finite and ≥ 0, got {value}")

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> jax.Array:
        """Return int32[budget]; the key is ignored."""
        assert tokens.embeddings is not None
        assert tokens.saliency is not None
        return agilepruner(
            tokens.embeddings,
            tokens.saliency,
            budget,
            erank_average=self.erank_average,
            threshold_cap=self.threshold_cap,
            threshold=self.threshold,
        )
