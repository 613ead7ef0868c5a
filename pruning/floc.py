"""FLoC: facility location, the greedy coverage of all tokens by the kept ones.

Axes: N visual tokens · K tokens kept · Dv width of the vision tower.

Source: "FLoC: facility location-based efficient visual token compression for long video
understanding" (2025), arXiv 2511.00141. There is no official code.
"""

from __future__ import annotations

import itertools
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from . import _greedy
from ._ops import check_budget, cosine_similarity
from .base import Stage, Tokens, register


def floc(features: jax.Array, budget: int, *, block_size: int | None = None) -> jax.Array:
    """Pick, again and again, the token that adds most to the similarity of all to the kept.

        f(S) = Σᵢ max_{j ∈ S} sᵢⱼ,   j* = argmax Σᵢ max(0, sᵢⱼ − mᵢ),   mᵢ ← max(mᵢ, sᵢⱼ*)

    with the cosine similarity s. The coverage m starts at −1, below every cosine, so the
    first pick is that of the largest column sum, negative similarities included; `scope`
    with α = 0 is the same from a coverage of 0. The lowest index wins a tie. A NaN among
    the features leaves the raster order.

    A video is cut into blocks of consecutive tokens, each pruned on its own, with budgets
    in proportion to their sizes. The paper picks from a heap of stale gains; the result is
    the same but for ties, whose rule it does not give, nor how budgets are rounded.

    Args:
      features: float[N, Dv] of any precision; all is computed in float32.
      budget: K, 1 … N.
      block_size: tokens in a block, ≥ 1 (the paper's blocks are 32 frames); the last block
        has what is left. None, the default for an image, is one block. Static.

    Returns:
      int32[K], block after block, each in order of selection. With one block, `order[:k]`
      is the answer for every k < K. A budget or block_size out of range is a ValueError.
    """
    chex.assert_rank(features, 2)
    num_tokens = features.shape[0]
    check_budget(budget, num_tokens)
    size = num_tokens if block_size is None else block_size
    if size < 1:
        raise ValueError(f"floc: block_size must be ≥ 1 or None (one block), got {block_size}")
    starts = range(0, num_tokens, size)
    budgets = _block_budgets(num_tokens, budget, size)
    blocks = [
        start + _cover(features[start : start + size], share)
        for start, share in zip(starts, budgets, strict=True)
        if share
    ]
    return jnp.concatenate(blocks)


@register("floc")
class FLoC:
    """Apply `floc` to an image, which is one block."""

    stage: ClassVar = Stage.VISION
    needs: ClassVar = ("features",)
    nested: ClassVar = True
    stochastic: ClassVar = False

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> jax.Array:
        """Return int32[budget]; the key is ignored."""
        assert tokens.features is not None
        return floc(tokens.features, budget)


def _block_budgets(num_tokens: int, budget: int, size: int) -> list[int]:
    """Return how many tokens each block keeps: K in all, none more than it has.

    The budgets up to the end of every block are rounded half up, and their differences taken.
    """
    ends = [min(start + size, num_tokens) for start in range(0, num_tokens, size)]
    totals = [0, *((2 * end * budget + num_tokens) // (2 * num_tokens) for end in ends)]
    return [after - before for before, after in itertools.pairwise(totals)]


def _cover(features: jax.Array, budget: int) -> jax.Array:
    """Pick `budget` tokens of one block."""
    score = _greedy.Score(1.0, "multiply", "float32")
    weight = jnp.ones(features.shape[0], jnp.float32)
    return _greedy.maximise(score, cosine_similarity(features), weight, budget, start=-1.0)
