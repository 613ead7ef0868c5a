"""CDPruner: tokens that differ from each other and bear on the question.

Axes: N visual tokens · K tokens kept · D width after the projector · C width of CLIP's
shared space · M pieces of the question.

Source: Zhang et al. (2025), "Beyond attention or similarity: maximizing conditional
diversity for token pruning in MLLMs", and its code, Theia-4869/CDPruner.
"""

from __future__ import annotations

from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from . import _dpp
from ._ops import check_budget, cosine_similarity, unit_norm
from .base import Stage, Tokens, register


def cdpruner(embeddings: jax.Array, relevance: jax.Array, budget: int) -> jax.Array:
    """Pick tokens that are diverse and relevant: a determinantal point process given the text.

        L = diag(r) S diag(r),   max_S log det L_S

    greedily, with the cosine similarity S and the relevance r, of which the scale is
    irrelevant; r = 1 is diversity alone. The lowest index wins a tie. Tokens with a NaN come
    last.

    Differs from the official code where K exceeds the rank of L, as with copies of a token:
    that code takes the root of a negative number and keeps fewer than K tokens, this one
    fills up in raster order.

    Args:
      embeddings: float[N, D] of any precision; all is computed in float32.
      relevance: float[N], see `cdpruner_relevance`; not positive, or NaN, counts as 0.
      budget: K, 1 … N; anything else is a ValueError.

    Returns:
      int32[K] in order of selection: `order[:k]` is the answer for every k < K.
    """
    chex.assert_rank(embeddings, 2)
    num_tokens = embeddings.shape[0]
    chex.assert_shape(relevance, (num_tokens,))
    check_budget(budget, num_tokens)
    return _dpp.maximise(_kernel(embeddings, relevance), budget)


def cdpruner_relevance(
    image_embeds: jax.Array, text_embeds: jax.Array, *, sign: int = -1
) -> jax.Array:
    """Rate how much each token bears on the question, from CLIP's two towers.

        qᵢ = ± mean_m cos(eᵢ, z_m),   rᵢ = (qᵢ − min q + 10⁻⁶) / (max q − min q)

    The sign is −, as in the official code: patches of OpenAI's CLIP are the less similar to a
    text, the more they show what it says. Other dual encoders may be the other way round. The
    10⁻⁶, which leaves the last token a chance, is the official code's too. All patches of a
    picture are rated together: for one in several tiles, N runs over all tiles.

    Args:
      image_embeds: float[N, C], patches of layer −2 after CLIP's last norm and projection.
      text_embeds: float[M, C], the question without its instruction for the answer, in
        pieces of CLIP's length.
      sign: −1, or 1 for an encoder whose patches are like the text that says what they show.

    Returns:
      float32[N] > 0; ones where no token is more similar than another.
    """
    chex.assert_rank([image_embeds, text_embeds], 2)
    image, text = unit_norm(image_embeds, -1), unit_norm(text_embeds, -1)
    cosine = jnp.einsum("nc,mc->nm", image, text, precision=jax.lax.Precision.HIGHEST)
    score = sign * jnp.mean(cosine, axis=1)
    score = score - jnp.min(score)
    largest = jnp.max(score)
    return jnp.where(largest > 0, (score + 1e-6) / jnp.where(largest > 0, largest, 1.0), 1.0)


@register("cdpruner")
class CDPruner:
    """Apply `cdpruner`."""

    stage: ClassVar = Stage.QUESTION
    needs: ClassVar = ("embeddings", "relevance")
    nested: ClassVar = True
    stochastic: ClassVar = False

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> jax.Array:
        """Return int32[budget]; the key is ignored."""
        assert tokens.embeddings is not None
        assert tokens.relevance is not None
        return cdpruner(tokens.embeddings, tokens.relevance, budget)


def _kernel(embeddings: jax.Array, relevance: jax.Array) -> jax.Array:
    """Return L for the relevance divided by its largest, float32[N, N]."""
    relevance = relevance.astype(jnp.float32)
    relevance = jnp.where(relevance > 0, relevance, 0.0)
    largest = jnp.max(relevance)
    relevance = relevance / jnp.where(largest > 0, largest, 1.0)
    similarity = cosine_similarity(embeddings)
    # One with itself, exactly: rounding would decide between tokens of equal relevance.
    itself = jnp.eye(embeddings.shape[0], dtype=bool)
    similarity = jnp.where(itself, jnp.round(similarity), similarity)
    return relevance[:, None] * similarity * relevance[None, :]
