"""DART: a few pivots, and for each of them the tokens that resemble it least.

Axes: V visual tokens · K tokens kept · T text tokens after them, padded · D width · Dk width of
all key heads side by side · P pivots.

Source: Wen et al. (2025), "Stop looking for important tokens in multimodal language models:
duplication matters more", and its code, ZichenWen1/DART.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from ._ops import check_budget, unit_norm
from .base import Stage, register
from .decoder import REFERENCE_DEPTH, Cut, DecoderTokens, Survivors, scaled_layers
from .saliency import saliency_top_k


def dart(
    states: jax.Array,
    norms: jax.Array,
    text_states: jax.Array,
    text_norms: jax.Array,
    num_text: jax.Array | int,
    budget: int,
    *,
    image_pivots: int = 4,
    text_pivots: int = 4,
) -> jax.Array:
    """Keep the pivots of the picture, and share the rest of K among all pivots.

    Pivots are the visual and the text tokens of the largest norms. One after the other, by
    falling norm and the picture's first, takes its share of the tokens that are still left:
    those of the lowest cosine similarity to it. Shares are equal but for a remainder, which
    goes to the first pivots. K ≤ `image_pivots` leaves K pivots and nothing to share.

    Differs from the official code, in which pivots come in the order of a Python set and every
    share is ⌊K / 8⌋, so that it keeps more or fewer than K tokens.

    Args:
      states: float[V, D], of the visual tokens; all is computed in float32.
      norms: float[V], of their keys.
      text_states: float[T, D].
      text_norms: float[T].
      num_text: text tokens that are no padding, which is last; no other is a pivot.
      budget: K, 1 … V; anything else is a ValueError.
      image_pivots: pivots among the visual tokens, if there are as many.
      text_pivots: pivots among the text.

    Returns:
      int32[K] in order of selection; the lowest index wins a tie.
    """
    _check(image_pivots, text_pivots)
    chex.assert_equal_shape_prefix([states, norms], 1)
    chex.assert_equal_shape_prefix([text_states, text_norms], 1)
    check_budget(budget, states.shape[0])
    pivots = saliency_top_k(norms, states.shape[0])[: min(image_pivots, budget)]
    if len(pivots) == budget:
        return pivots
    is_text = jnp.arange(text_norms.shape[0]) < num_text
    by_norm = saliency_top_k(jnp.where(is_text, text_norms, -jnp.inf), text_norms.shape[0])
    text = text_states[by_norm[:text_pivots]]
    anchors = unit_norm(jnp.concatenate([states[pivots], text], dtype=jnp.float32), -1)
    cosine = jnp.einsum(
        "pd,vd->pv", anchors, unit_norm(states, -1), precision=jax.lax.Precision.HIGHEST
    )
    num_pivots = len(pivots) + jnp.minimum(num_text, len(text))
    shares = _shares(budget - len(pivots), num_pivots, len(anchors))
    return _take_turns(pivots, cosine, shares)[:budget]


def key_norms(keys: jax.Array) -> jax.Array:
    """Return Σ |k| over all heads, float32[...], of keys float[..., Dk]."""
    return jnp.sum(jnp.abs(keys.astype(jnp.float32)), axis=-1)


@register("dart")
class Dart:
    """Apply `dart` before a layer, to what enters it and to the keys of the layer before that.

    States go through the decoder's last norm first, as in the official code: what is left of
    it in a cosine is its weight.

    Attributes:
      dart_layer: the first layer without the dropped tokens, 0-based, for a decoder of 32.
      dart_image_pivots, dart_text_pivots: pivots among the visual and the text tokens.
    """

    stage: ClassVar = Stage.DECODER
    needs: ClassVar = ("hidden", "text_hidden", "keys", "text_keys", "num_text", "final_norm")
    nested: ClassVar = False
    stochastic: ClassVar = False

    dart_layer: int = dataclasses.field(default=2, metadata={"static": True})
    dart_image_pivots: int = dataclasses.field(default=4, metadata={"static": True})
    dart_text_pivots: int = dataclasses.field(default=4, metadata={"static": True})

    def check(self) -> None:
        """Refuse hyper-parameters without a meaning."""
        if not 1 <= self.dart_layer < REFERENCE_DEPTH:
            raise ValueError(
                f"dart: dart_layer must be in 1 … {REFERENCE_DEPTH - 1}, got {self.dart_layer}"
            )
        _check(self.dart_image_pivots, self.dart_text_pivots)

    def cuts(self, budget: int, num_tokens: int, num_layers: int) -> tuple[Cut, ...]:
        """Return the one cut; the decoder's last layer always runs without the others."""
        (layer,) = scaled_layers((self.dart_layer,), num_layers) or (num_layers - 1,)
        return (Cut(layer, look=layer - 1, keep=budget),)

    def __call__(self, tokens: DecoderTokens, cut: Cut, key: jax.Array) -> Survivors:
        """Return the kept tokens in order of selection; the key is ignored."""
        assert tokens.hidden is not None
        assert tokens.text_hidden is not None
        assert tokens.keys is not None
        assert tokens.text_keys is not None
        assert tokens.num_text is not None
        assert tokens.final_norm is not None
        weight = tokens.final_norm.astype(jnp.float32)[None, :]
        index = dart(
            tokens.hidden * weight,
            key_norms(tokens.keys),
            tokens.text_hidden * weight,
            key_norms(tokens.text_keys),
            tokens.num_text,
            cut.keep,
            image_pivots=self.dart_image_pivots,
            text_pivots=self.dart_text_pivots,
        )
        return Survivors(index)


def _shares(total: int, num_pivots: jax.Array, size: int) -> jax.Array:
    """Divide a number evenly, the remainder to the first, int32[size]; 0 from `num_pivots` on."""
    turn = jnp.arange(size)
    share = total // num_pivots + (turn < total % num_pivots)
    return jnp.where(turn < num_pivots, share, 0)


def _take_turns(pivots: jax.Array, cosine: jax.Array, shares: jax.Array) -> jax.Array:
    """Let every pivot take its share of the tokens that are left, the least like it first.

    Args:
      pivots: int32[.], taken before the first turn.
      cosine: float32[P, V], to each pivot.
      shares: int32[P].

    Returns:
      int32[V], the pivots, what they take, and what is left.
    """
    num_tokens = cosine.shape[1]

    def turn(state, pivot):
        place, count = state  # in the order of selection, V if not taken
        similarity, share = pivot
        order = jnp.argsort(jnp.where(place < num_tokens, 2.0, similarity), stable=True)
        rank = jnp.zeros_like(place).at[order].set(jnp.arange(num_tokens))
        return (jnp.where(rank < share, count + rank, place), count + share), None

    place = jnp.full(num_tokens, num_tokens).at[pivots].set(jnp.arange(len(pivots)))
    (place, _), _ = jax.lax.scan(turn, (place, jnp.int32(len(pivots))), (cosine, shares))
    return jnp.argsort(place, stable=True).astype(jnp.int32)


def _check(image_pivots: int, text_pivots: int) -> None:
    for name, count in (("dart_image_pivots", image_pivots), ("dart_text_pivots", text_pivots)):
        if count < 0:
            raise ValueError(f"dart: {name} must be ≥ 0, got {count}")
    if not image_pivots + text_pivots:
        raise ValueError("dart: dart_image_pivots + dart_text_pivots must be ≥ 1, got 0")
