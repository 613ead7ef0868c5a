"""PyramidDrop: fewer tokens from stage to stage of the decoder.

Axes: H heads · N visual tokens · V those that are left · K tokens kept at last · n cuts.

Source: Xing et al. (2024), "PyramidDrop: accelerating your large vision-language models via
pyramid visual redundancy reduction", and its code, Cooperx521/PyramidDrop.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax

from ._ops import check_budget
from .base import Stage, register
from .decoder import REFERENCE_DEPTH, Cut, DecoderTokens, Survivors, scaled_layers
from .fastv import fastv


def pyramid(num_tokens: int, budget: int, num_cuts: int) -> tuple[int, ...]:
    """Return how many tokens are left after each cut, ⌊N (K/N)^(i/n)⌉ for i = 1 … n.

    The paper halves them three times, which is K = N/8.

    Args:
      num_tokens: N.
      budget: K, 1 … N, left after the last cut; anything else is a ValueError.
      num_cuts: n ≥ 1.
    """
    check_budget(budget, num_tokens)
    ratio = budget / num_tokens
    early = (round(num_tokens * ratio ** (i / num_cuts)) for i in range(1, num_cuts))
    return (*early, budget)


@register("pyramiddrop")
class PyramidDrop:
    """Thin the visual tokens out at some layers, by the attention of the prompt's last token.

    Each time that is the attention of the layer to come, as it would run on all that are left;
    the tokens of the largest mean over heads (`fastv`) go on, and positions are counted anew.

    Attributes:
      pyramiddrop_layers: first layers of the stages, rising, 0-based, for a decoder of 32;
        separated by dashes, as a comma separates the values of a command line's grid.
    """

    stage: ClassVar = Stage.DECODER
    needs: ClassVar = ("row",)
    nested: ClassVar = False  # a smaller budget drops more at the first cut already
    stochastic: ClassVar = False

    pyramiddrop_layers: str = dataclasses.field(default="8-16-24", metadata={"static": True})

    def check(self) -> None:
        """Refuse hyper-parameters without a meaning."""
        _layers(self.pyramiddrop_layers)

    def cuts(self, budget: int, num_tokens: int, num_layers: int) -> tuple[Cut, ...]:
        """Return a cut before each of the layers that a decoder of this depth has room for."""
        layers = scaled_layers(_layers(self.pyramiddrop_layers), num_layers) or (num_layers - 1,)
        counts = pyramid(num_tokens, budget, len(layers))
        return tuple(
            Cut(layer, look=layer, keep=count, renumber=True)
            for layer, count in zip(layers, counts, strict=True)
        )

    def __call__(self, tokens: DecoderTokens, cut: Cut, key: jax.Array) -> Survivors:
        """Return the kept tokens in order of selection; the key is ignored."""
        assert tokens.row is not None
        return Survivors(fastv(tokens.row, cut.keep))


def _layers(text: str) -> tuple[int, ...]:
    """Read layers such as 8-16-24."""
    words = text.split("-")
    layers = tuple(int(word) for word in words if word.isdecimal())
    rising = all(low < high for low, high in zip((0, *layers), layers, strict=False))
    if len(layers) < len(words) or not rising or layers[-1] >= REFERENCE_DEPTH:
        raise ValueError(
            "pyramiddrop: pyramiddrop_layers must be rising numbers in "
            f"1 … {REFERENCE_DEPTH - 1} like 8-16-24, got {text!r}"
        )
    return layers
