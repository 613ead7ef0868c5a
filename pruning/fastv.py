"""FastV: the tokens that the prompt's last token looks at in an early decoder layer.

Axes: H heads · N visual tokens · K tokens kept · T text tokens after them, padded · S before
them · M = S + N + T.

Source: Chen et al. (2024), "An image is worth 1/2 tokens after layer 2: plug-and-play
inference acceleration for large vision-language models", and its code, pkunlp-icler/FastV.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import chex
import jax
import jax.numpy as jnp

from .base import Stage, register
from .decoder import REFERENCE_DEPTH, Cut, DecoderTokens, Masked, Survivors, scaled_layers
from .saliency import saliency_top_k

_HOW: Mapping[str, Literal["drop", "mask", "restart"]] = {
    "drop": "drop",
    "renumber": "drop",
    "mask": "mask",
    "input": "restart",
    "input_origpos": "restart",
    "broken_zero": "mask",
    "broken_noncausal": "mask",
    "broken_lastrow": "mask",
    "broken_span": "mask",
}
"""Variant → `Cut.how`."""

_RENUMBERED = ("renumber", "input")


def fastv(row: jax.Array, budget: int) -> jax.Array:
    """Pick the K tokens of the largest mean attention, aⱼ = 1/H Σₕ rowₕⱼ.

    The paper speaks of a mean over all queries; its code reads the last one's row alone, and so
    does this. Its first scripts look one place too late for the picture (36 for 35), this does not.

    Args:
      row: float[H, N], the attention of the prompt's last token; its scale is irrelevant, a
        NaN comes last.
      budget: K, 1 … N; anything else is a ValueError.

    Returns:
      int32[K], the most looked at first; the lowest index wins a tie.
    """
    return saliency_top_k(fastv_score(row), budget)


def fastv_score(row: jax.Array) -> jax.Array:
    """Return the mean over heads, float32[N], of an attention row float[H, N]."""
    chex.assert_rank(row, 2)
    return jnp.mean(row.astype(jnp.float32), axis=0)


@register("fastv")
class FastV:
    """Apply `fastv` before a layer, to the attention of the layer before that.

    Variants: "drop" takes the others out and leaves every position as it was, as the official
    code does; "mask" hides them, which comes to the same; "renumber" counts positions anew;
    "input" takes them out of the decoder's input and runs all layers again, counted anew, and
    "input_origpos" with the positions they had.

    The broken ones are faults that an implementation may have without failing:
      broken_zero: dropped tokens are set to zero and stay keys to look at.
      broken_noncausal: the causal mask is lost with the cut; early tokens see later ones.
      broken_lastrow: kept tokens are put behind the text, and the last is taken for the prompt's.
      broken_span: the picture is taken to start `fastv_shift` tokens too late (35 for 5), so
        its first tokens always stay, and tokens of the question compete with the others.
        What it keeps are not K visual tokens; those that count as kept are those of `fastv`.

    Attributes:
      fastv_layer: the first layer without the dropped tokens, 0-based, for a decoder of 32.
      fastv_variant: one of these.
      fastv_shift: of broken_span; at most N − 1 and T.
    """

    stage: ClassVar = Stage.DECODER
    nested: ClassVar = True
    stochastic: ClassVar = False

    fastv_layer: int = dataclasses.field(default=2, metadata={"static": True})
    fastv_variant: str = dataclasses.field(default="drop", metadata={"static": True})
    fastv_shift: int = dataclasses.field(default=30, metadata={"static": True})

    @property
    def needs(self) -> tuple[str, ...]:
        """The last token's row, and where it is, if a mask is to be made."""
        masked = _HOW.get(self.fastv_variant) == "mask"
        return ("row", "row_text", "num_text") if masked else ("row",)

    def check(self) -> None:
        """Refuse hyper-parameters without a meaning."""
        if not 1 <= self.fastv_layer < REFERENCE_DEPTH:
            raise ValueError(
                f"fastv: fastv_layer must be in 1 … {REFERENCE_DEPTH - 1}, got {self.fastv_layer}"
            )
        if self.fastv_variant not in _HOW:
            known = ", ".join(_HOW)
            raise ValueError(f"fastv: fastv_variant must be {known}, got {self.fastv_variant!r}")
        if self.fastv_shift < 0:
            raise ValueError(f"fastv: fastv_shift must be ≥ 0, got {self.fastv_shift}")

    def cuts(self, budget: int, num_tokens: int, num_layers: int) -> tuple[Cut, ...]:
        """Return the one cut; the decoder's last layer always runs without the others."""
        (layer,) = scaled_layers((self.fastv_layer,), num_layers) or (num_layers - 1,)
        renumber, how = self.fastv_variant in _RENUMBERED, _HOW[self.fastv_variant]
        return (Cut(layer, look=layer - 1, keep=budget, renumber=renumber, how=how),)

    def __call__(self, tokens: DecoderTokens, cut: Cut, key: jax.Array) -> Survivors | Masked:
        """Return the kept tokens in order of selection; the key is ignored."""
        assert tokens.row is not None
        index = fastv(tokens.row, cut.keep)
        if cut.how != "mask":
            return Survivors(index)
        return _masked(self.fastv_variant, tokens, index, self.fastv_shift)


def _masked(variant: str, tokens: DecoderTokens, index: jax.Array, shift: int) -> Masked:
    """Return how the layers see the sequence: a token sees the kept ones up to its own rank.

    Every token sees itself too, so that none is left without anything to look at; no kept
    token sees a dropped one or padding for it.
    """
    row, row_text, num_text = tokens.row, tokens.row_text, tokens.num_text
    assert row is not None
    assert row_text is not None
    assert num_text is not None
    start, end = tokens.num_before, tokens.num_before + row.shape[1]  # of the picture
    rank = place = jnp.arange(end + row_text.shape[1])
    real = place < end + num_text
    seen = kept = real.at[start:end].set(False).at[start + index].set(True)
    alive = jnp.ones_like(real)
    read = end + num_text - 1
    if variant == "broken_zero":
        seen, alive = real, kept | ~real
    elif variant == "broken_noncausal":
        rank = jnp.zeros_like(place)
    elif variant == "broken_lastrow":
        rank = place.at[start:end].add(row_text.shape[1]).at[end:].add(start - end)
        read = start + jnp.max(index)
    elif variant == "broken_span":
        stays = _in_shifted_span(row, row_text, num_text, len(index), shift)
        seen = real.at[start:].set(real[start:] & stays)
        read = jnp.max(jnp.where(seen, place, 0))
    visible = (rank[:, None] >= rank[None, :]) & seen[None, :]
    return Masked(index, visible | (place[:, None] == place[None, :]), alive, read)


def _in_shifted_span(
    row: jax.Array, row_text: jax.Array, num_text: jax.Array, budget: int, shift: int
) -> jax.Array:
    """Return what stays, bool[N + T], if the N tokens from `shift` on are taken for the picture."""
    visual, text = row.shape[1], row_text.shape[1]
    shift = min(shift, visual - 1, text)
    score = fastv_score(jnp.concatenate([row, row_text], axis=1))
    score = jnp.where(jnp.arange(visual + text) < visual + num_text, score, -jnp.inf)
    picks = shift + saliency_top_k(score[shift : shift + visual], budget)
    return jnp.ones_like(score, bool).at[shift : shift + visual].set(False).at[picks].set(True)
