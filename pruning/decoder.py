"""What a pruner between two decoder layers looks at, and what it says.

Axes: N visual tokens · V those that are left · T text tokens after the picture, padded · S
before it · M = S + N + T · H heads · D width · Dk width of all key heads side by side.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import jax

REFERENCE_DEPTH = 32
"""Decoder layers of LLaVA-1.5-7B, for which the methods' layers are given."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """A place in the decoder where visual tokens are taken out.

    Attributes:
      layer: the first layer, 0-based, that runs without them.
      look: the layer whose attention and keys are looked at: `layer` − 1 as it ran, or
        `layer` as it would run on all that are left.
      keep: visual tokens that stay as they are.
      merged: tokens made of others that are put behind these, before the text.
      renumber: whether what is left gets the positions 0, 1, … instead of keeping its own.
      how: "drop" takes them out; "mask" leaves them and follows a `Masked`; "restart" takes
        them out of the decoder's input and runs all layers again.
      at_most: whether `keep` and `merged` are upper bounds, as for both together the tokens before
        the cut are; how many a question has of each says `Survivors.alive`.
    """

    layer: int
    look: int
    keep: int
    merged: int = 0
    renumber: bool = False
    how: Literal["drop", "mask", "restart"] = "drop"
    at_most: bool = False


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        *("hidden", "text_hidden", "row", "row_text", "rows", "keys", "text_keys"),
        *("inputs", "text_inputs", "positions", "text_positions", "num_text", "final_norm"),
        "alive",
    ],
    meta_fields=["num_before", "head_dim", "rope_theta"],
)
@dataclasses.dataclass(frozen=True)
class DecoderTokens:
    """Hold what a pruner may look at for one question; fields nobody needs stay None.

    Attributes:
      hidden: float[V, D], visual tokens about to enter layer `cut.layer`.
      text_hidden: float[T, D], the text tokens after them.
      row: float32[H, V], how much the prompt's last token looks at each visual token in layer
        `cut.look`: softmax over the whole sequence.
      row_text: float32[H, T], the same for the text tokens after the picture.
      rows: float32[H, T, V], the same as `row` for every text token.
      keys: float[V, Dk], rotated keys of layer `cut.look`.
      text_keys: float[T, Dk], the same for the text tokens.
      inputs: float[N, D], the picture as it entered the decoder.
      text_inputs: float[T, D], the text after it as it entered the decoder.
      positions: int32[V], places of the visual tokens in the sequence.
      text_positions: int32[T], places of the text tokens.
      num_text: int32[], text tokens that are no padding, ≥ 1; the last one is the prompt's.
      final_norm: float[D], weight of the decoder's last norm.
      alive: bool[V], visual tokens that there are, at least one; the others fill up what cuts
        that keep "at most" so many have left, and nobody looks at them. None for all.
      num_before: S.
      head_dim: width of a head.
      rope_theta: base of the rotary positions.
    """

    hidden: jax.Array | None = None
    text_hidden: jax.Array | None = None
    row: jax.Array | None = None
    row_text: jax.Array | None = None
    rows: jax.Array | None = None
    keys: jax.Array | None = None
    text_keys: jax.Array | None = None
    inputs: jax.Array | None = None
    text_inputs: jax.Array | None = None
    positions: jax.Array | None = None
    text_positions: jax.Array | None = None
    num_text: jax.Array | None = None
    final_norm: jax.Array | None = None
    alive: jax.Array | None = None
    num_before: int = 0
    head_dim: int = 0
    rope_theta: float = 0.0


class Survivors(NamedTuple):
    """What is left after a cut.

    Attributes:
      index: int32[keep], distinct visual tokens out of the V, in any order.
      merged: float[merged, D], tokens made of others; None for none.
      alive: bool[keep + merged], which of both are left; None for all. It goes with a cut whose
        numbers are bounds: then `index` and `merged` may be shorter than it says, one of `index`
        is left at least, and no more of both than were alive before.
    """

    index: jax.Array
    merged: jax.Array | None = None
    alive: jax.Array | None = None


class Masked(NamedTuple):
    """How the layers after a cut see a sequence from which nothing is taken out.

    Attributes:
      index: int32[keep], the visual tokens that count as kept.
      visible: bool[M, M], which tokens (columns) each token (rows) sees.
      alive: bool[M], tokens whose state goes on; the others' is set to zero.
      read: int32[], the token at which the answer is read.
    """

    index: jax.Array
    visible: jax.Array
    alive: jax.Array
    read: jax.Array


class DecoderPruner(Protocol):
    """Choose visual tokens between decoder layers, for one question.

    Attributes:
      name, stage, needs, nested, stochastic: as of a `Pruner`; `needs` names fields of
        `DecoderTokens`.
    """

    name: ClassVar[str]
    stage: ClassVar[Any]
    needs: ClassVar[tuple[str, ...]]
    nested: ClassVar[bool]
    stochastic: ClassVar[bool]

    def check(self) -> None:
        """Refuse impossible hyper-parameters with a ValueError."""

    def cuts(self, budget: int, num_tokens: int, num_layers: int) -> tuple[Cut, ...]:
        """Return where tokens are taken out, from the first layer on.

        Args:
          budget: K, 1 … N.
          num_tokens: N.
          num_layers: of the decoder, L.
        """
        ...

    def __call__(self, tokens: DecoderTokens, cut: Cut, key: jax.Array) -> Survivors | Masked:
        """Return what is left after a cut: a `Masked` where the cut says "mask"."""
        ...


def scaled_layers(layers: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Scale layers that are given for 32 to another depth, ⌊l · L / 32⌉.

    Args:
      layers: rising, 0-based, of a decoder of 32 layers.
      num_layers: L.

    Returns:
      Rising numbers in 1 … L − 1, each at least one more than the one before; those that
      find no room are left out. L = 32 changes nothing.
    """
    found: list[int] = []
    for layer in layers:
        scaled = int(layer * num_layers / REFERENCE_DEPTH + 0.5)
        found.append(max(scaled, found[-1] + 1 if found else 1))
    return tuple(layer for layer in found if layer < num_layers)


def tokens_per_layer(cuts: Sequence[Cut], num_tokens: int, num_layers: int) -> tuple[int, ...]:
    """Return how many visual tokens stand behind the answer in each decoder layer.

    Args:
      cuts: from the first layer on.
      num_tokens: N.
      num_layers: L.

    Returns:
      L numbers. Tokens that are masked do not count, though they cost as much as before; a cut
      that restarts has the tokens it keeps in all layers. From a cut with `at_most` on they are
      upper bounds.
    """
    counts = [num_tokens] * num_layers
    for cut in cuts:
        start = 0 if cut.how == "restart" else cut.layer
        left = min(cut.keep + cut.merged, counts[-1])
        counts[start:] = [left] * (num_layers - start)
    return tuple(counts)
