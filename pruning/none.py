"""No pruning: the full-token row of every table.

Axes: N visual tokens.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp

from .base import Stage, Tokens, register


@register("none")
class KeepAll:
    """Keep every token in raster order."""

    stage: ClassVar = Stage.VISION
    needs: ClassVar = ()
    nested: ClassVar = False
    stochastic: ClassVar = False

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> jax.Array:
        """Return int32[N] = 0 … N−1; a budget other than N is a ValueError."""
        if budget != tokens.num_tokens:
            raise ValueError(
                f"pruner 'none' keeps all tokens: the budget must be {tokens.num_tokens}, "
                f"got {budget}"
            )
        return jnp.arange(budget, dtype=jnp.int32)
