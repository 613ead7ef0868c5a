"""What can be seen of every question between two layers of the decoder.

Axis letters: as in ``cutting``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llava_jax import decoding, text
from llava_jax.config import LlavaConfig
from llava_jax.stage import Array, Params, Stage


@dataclasses.dataclass(frozen=True)
class View:
    """What can be seen of every question at a cut; see ``pruning.DecoderTokens``.

    Arrays have leading axes [G, Q], or [G, 1] where all questions of a picture are alike.
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


Choose = Callable[[Any, View], Any]
"""(cut, view) → ``index`` int[G, Q, K] of the tokens left, ``merged`` float[G, Q, R, D] or None,
and ``alive`` bool[G, Q, K + R], which of both there are, None for all; where the cut says "mask",
``index``, ``visible`` bool[G, Q, M, M], ``alive`` bool[G, Q, M] and ``read`` int[G, Q]."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tokens:
    """The sequences between two layers, without the text before the picture.

    Attributes:
        visual: float[B, 1, W, D].
        text: float[B, Q, T, D] below the first cut, float[G · Q, 1, T, D] above it.
        positions: int32[B, 1, W].
        text_positions: int32[B, 1, T].
        origin: int32[B, W], which of the N tokens each is; −1 if it was made of others.
        alive: bool[B, W], visual tokens that there are, before all that only fill their places
            up; None for all. What is before them sees no filler, as a decoder is causal.
    """

    visual: jax.Array
    text: jax.Array
    positions: jax.Array
    text_positions: jax.Array
    origin: jax.Array
    alive: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """What stays the same while a batch is answered.

    Attributes:
        params: the model.
        before: the text before the picture.
        lengths: int[G, Q], tokens of each suffix.
        reads: names of the view's fields that are needed.
        keep: whether what the next token would look at is kept.
        observers: last tokens of each suffix whose attention is wanted; 0 for none.
        cfg: shapes.
        stage: how a stage is run.
    """

    params: Params
    before: decoding.Prefix
    lengths: Array
    reads: Sequence[str]
    keep: bool
    observers: int
    cfg: LlavaConfig
    stage: Stage


def by_question(run: Run, x: jax.Array) -> jax.Array:
    """View leading axes [B, ·] as [G, Q], or [G, 1] where a picture's questions are alike."""
    return x.reshape(run.lengths.shape[0], -1, *x.shape[2:])


def living(run: Run, tokens: Tokens) -> dict[str, jax.Array]:
    """Return the keyword that hides the dead from the text behind them; none without dead."""
    if tokens.alive is None:
        return {}
    width = ((0, 0), (run.before.length, 0))
    return {"prefix_visible": jnp.pad(tokens.alive, width, constant_values=True)}


def look(run: Run, tokens: Tokens, index: int) -> dict[str, jax.Array]:
    """Return the fields of ``View`` that are read from one layer's attention and keys."""
    layer, reads, cfg = run.params["text"]["layers"][index], set(run.reads), run.cfg.text
    found: dict[str, jax.Array] = {}
    if not reads & {"row", "row_text", "rows", "keys", "text_keys"}:
        return found
    prefix = run.stage(decoding.last_prefix_block)(
        layer, tokens.visual, tokens.positions, run.before.layers[index], cfg=cfg
    )
    words, how = (layer, tokens.text, tokens.text_positions), living(run, tokens) | {"cfg": cfg}
    if reads & {"row", "row_text"}:
        last = (run.lengths - 1).reshape(*tokens.text.shape[:2], 1)
        seen, own = run.stage(text.attention_rows)(*words, prefix, last, **how)
        found["row"], found["row_text"] = seen[..., 0, run.before.length :], own[..., 0, :]
    if "rows" in reads:
        every = np.broadcast_to(np.arange(tokens.text.shape[2]), tokens.text.shape[:3])
        seen, _ = run.stage(text.attention_rows)(*words, prefix, every, **how)
        found["rows"] = seen[..., run.before.length :]
    if reads & {"keys", "text_keys"}:
        own = run.stage(text.key_value)(*words, cfg=cfg).keys
        found["text_keys"] = own.reshape(*own.shape[:3], -1)
        keys = prefix.keys[:, None, run.before.length :]
        found["keys"] = keys.reshape(*keys.shape[:3], -1)
    return found


def view(run: Run, looked: dict[str, jax.Array], tokens: Tokens, start: Tokens) -> View:
    """Return what the choice reads, by question."""
    fields = looked | {
        "hidden": tokens.visual,
        "text_hidden": tokens.text,
        "positions": tokens.positions,
        "text_positions": tokens.text_positions,
        "inputs": start.visual,
        "text_inputs": start.text,
    }
    shown = {name: by_question(run, x) for name, x in fields.items() if name in run.reads}
    norm = run.params["text"]["norm"]["weight"].reshape(1, 1, -1)
    return View(
        **shown,
        num_text=jnp.asarray(run.lengths),
        final_norm=norm if "final_norm" in run.reads else None,
        alive=None if tokens.alive is None else by_question(run, tokens.alive[:, None]),
        num_before=run.before.length,
        head_dim=run.cfg.text.head_dim,
        rope_theta=run.cfg.text.rope_theta,
    )
