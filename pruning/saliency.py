"""Saliency alone: the tokens that CLS attends to most.

Axes: N visual tokens · K tokens kept.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from ._ops import check_budget
from .base import Stage, Tokens, register

_FEATURE_LAYER = 22
"""The layer of LLaVA-1.5's features, −2 of CLIP-L/14."""


def saliency_top_k(saliency: jax.Array, budget: int) -> jax.Array:
    """Pick the `budget` tokens of largest saliency; the lowest index wins a tie.

    Args:
      saliency: float[N]; its scale is irrelevant, a NaN comes last.
      budget: K, 1 … N; anything else is a ValueError.

    Returns:
      int32[K], most salient first.
    """
    chex.assert_rank(saliency, 1)
    check_budget(budget, saliency.shape[0])
    order = jnp.argsort(-saliency.astype(jnp.float32), stable=True)
    return order[:budget].astype(jnp.int32)


def saliency_layers(text: str | None, num_layers: int) -> tuple[int, ...]:
    """Read layers of the vision tower such as 20-22.

    Args:
      text: first and last, 0-based, for the 24 layers of CLIP-L/14, of which the 22nd is that of
        the features; or a single one; None for none.
      num_layers: L of the tower; layers scale so that its layer L − 2 is the 22nd.

    Returns:
      Rising distinct layers in 0 … L − 2. Others than 0 … 22 are a ValueError.
    """
    if text is None:
        return ()
    first, _, last = text.partition("-")
    if not (first.isdecimal() and (last or first).isdecimal()):
        raise ValueError(f"saliency_layers must be like 20-22 or 22, got {text!r}")
    low, high = int(first), int(last or first)
    if not low <= high <= _FEATURE_LAYER:
        raise ValueError(
            f"saliency_layers must rise within 0 … {_FEATURE_LAYER}, the layer of the features, "
            f"got {text!r}"
        )
    scale = (num_layers - 2) / _FEATURE_LAYER
    return tuple(sorted({int(layer * scale + 0.5) for layer in range(low, high + 1)}))


def saliency_field(layers: str | None) -> str:
    """Return the field of `Tokens` that holds the saliency of the named layers."""
    return "saliency" if layers is None else "saliency_by_layer"


def saliency_of(tokens: Tokens, layers: str | None) -> jax.Array:
    """Return the saliency float32[N] of layer −2, or the sum over named layers."""
    if layers is None:
        assert tokens.saliency is not None
        return tokens.saliency
    assert tokens.saliency_by_layer is not None
    return jnp.sum(tokens.saliency_by_layer.astype(jnp.float32), axis=0)


@register("saliency")
class Saliency:
    """Apply `saliency_top_k`.

    Attributes:
      saliency_layers: layers whose saliency is summed, such as 20-22; None for layer −2.
    """

    stage: ClassVar = Stage.VISION
    nested: ClassVar = True
    stochastic: ClassVar = False

    saliency_layers: str | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def needs(self) -> tuple[str, ...]:
        """The saliency of one layer or of several."""
        return (saliency_field(self.saliency_layers),)

    def check(self) -> None:
        """Refuse layers that do not exist."""
        self.vision_layers(_FEATURE_LAYER + 2)

    def vision_layers(self, num_layers: int) -> tuple[int, ...]:
        """Return the layers of `saliency_by_layer` for a tower of that depth."""
        return saliency_layers(self.saliency_layers, num_layers)

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> jax.Array:
        """Return int32[budget]; the key is ignored."""
        return saliency_top_k(saliency_of(tokens, self.saliency_layers), budget)
