"""The decoder's work, shared as far as it can be: text before the picture, picture, questions.

    prompt ids[S] ─ begin ─► Prefix, once per run
    image[G, K, D], common ids[C] ─ prefill ─► Prefix of S + K + C tokens, once per picture
    suffix ids[G, Q, T] ─ answer ─► logits[G, Q, V]

Exact, because the decoder is causal: nothing in a prefix sees what follows it. Of the last layer
only what is read is computed: keys and values of the prefix, and each question's last token.

Axis letters: G images, Q questions, K kept visual tokens, P prefix, S prompt text before the
picture, C common start of the questions, M tokens added to a prefix, T suffix, D width,
V vocabulary.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from llava_jax import text
from llava_jax.config import LlavaConfig, TextConfig
from llava_jax.stage import Array, Params, Stage, inline


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefix:
    """What all questions of a picture share.

    Attributes:
        layers: keys and values of every decoder layer, float[G, P, K, d] each.
        next_position: int32[G], position of the first suffix token.
    """

    layers: tuple[text.KeyValue, ...]
    next_position: jax.Array

    @property
    def length(self) -> int:
        """Tokens P in the prefix."""
        return self.layers[0].keys.shape[1]


def begin(params: Params, prompt_ids: Array, *, cfg: LlavaConfig, stage: Stage = inline) -> Prefix:
    """Compute the prefix that all pictures share: the text before the picture.

    Args:
        params: the model.
        prompt_ids: int[S], BOS first.
        cfg: shapes.
        stage: how a stage is run.

    Returns:
        The prefix of S tokens, one for all pictures (G = 1).
    """
    decoder = params["text"]
    x, positions, next_position = stage(prompt)(
        {"embed_tokens": decoder["embed_tokens"]}, prompt_ids
    )
    nothing = text.empty_prefix(1, x.dtype, cfg=cfg.text)
    before = Prefix((nothing,) * cfg.text.num_layers, next_position)
    return _extend(params, before, x, positions, next_position, cfg=cfg, stage=stage)


def prefill(
    params: Params,
    before: Prefix,
    image: jax.Array,
    places: Array,
    span: jax.Array | int,
    common_ids: Array | None = None,
    *,
    cfg: LlavaConfig,
    stage: Stage = inline,
) -> Prefix:
    """Add a picture, and what all its questions begin with, to the text before it.

    Exact because the decoder is causal: nothing in the prefix sees what follows it.

    Args:
        params: the model.
        before: from ``begin``.
        image: float[G, K, D], projected kept tokens.
        places: int[G, K], position of each kept token counted from the picture's start.
        span: int or int[G], positions the picture occupies: K if kept tokens are renumbered, N if
            they keep their own places.
        common_ids: int[C], first tokens of every suffix; None for no token.
        cfg: shapes.
        stage: how a stage is run.

    Returns:
        The prefix of S + K + C tokens.
    """
    common = np.zeros(0, np.int32) if common_ids is None else common_ids
    x, positions, next_position = stage(_splice)(
        {"embed_tokens": params["text"]["embed_tokens"]},
        image,
        places,
        span,
        common,
        before.next_position,
    )
    return _extend(params, before, x, positions, next_position, cfg=cfg, stage=stage)


def prompt(params: Params, ids: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return prompt embeddings [1, 1, S, D], positions [1, 1, S] and the next position [1]."""
    positions = jnp.arange(ids.size, dtype=jnp.int32)[None, None]
    return text.embed(params, ids)[None, None], positions, jnp.full(1, ids.size, jnp.int32)


def _splice(
    params: Params,
    image: jax.Array,
    places: Array,
    span: jax.Array,
    common_ids: Array,
    start: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Join picture and common start: inputs [G, 1, M, D], positions [G, 1, M], next position [G].

    Args:
        params: the embedding.
        image: float[G, K, D].
        places: int[G, K], counted from the picture's start.
        span: int or int[G], positions of the picture.
        common_ids: int[C].
        start: int[1], position of the picture's start.
    """
    (g, k, width), c = image.shape, common_ids.shape[0]
    common = jnp.broadcast_to(text.embed(params, common_ids), (g, c, width))
    x = jnp.concatenate([image, common.astype(image.dtype)], axis=1)
    end = jnp.broadcast_to(start + span, (g,)).astype(jnp.int32)
    within = jnp.broadcast_to(start[:, None], (g, k)) + places
    behind = end[:, None] + jnp.broadcast_to(jnp.arange(c), (g, c))
    positions = jnp.concatenate([within, behind], axis=1).astype(jnp.int32)
    return x[:, None], positions[:, None], end + c


def _extend(
    params: Params,
    before: Prefix,
    x: jax.Array,
    positions: jax.Array,
    next_position: jax.Array,
    *,
    cfg: LlavaConfig,
    stage: Stage,
) -> Prefix:
    """Append tokens float[G, 1, M, D] to a prefix; of the last layer only keys and values."""
    *layers, last = params["text"]["layers"]
    *known, known_last = before.layers
    found = []
    for layer, kv in zip(layers, known, strict=True):
        x, longer = stage(prefix_block)(layer, x, positions, kv, cfg=cfg.text)
        found.append(longer)
    found.append(stage(last_prefix_block)(last, x, positions, known_last, cfg=cfg.text))
    return Prefix(tuple(found), next_position)


def prefix_block(
    params: Params, x: jax.Array, positions: jax.Array, before: text.KeyValue, *, cfg: TextConfig
) -> tuple[jax.Array, text.KeyValue]:
    """Run a block on prefix tokens; return their outputs and the prefix with them."""
    before = _for_each_image(before, x.shape[0])
    x, own = text.block(params, x, positions, before, cfg=cfg)
    return x, _append(before, own)


def last_prefix_block(
    params: Params, x: jax.Array, positions: jax.Array, before: text.KeyValue, *, cfg: TextConfig
) -> text.KeyValue:
    """Return the prefix with the keys and values of its new tokens, and nothing else of a block."""
    own = text.key_value(params, x, positions, cfg=cfg)
    return _append(_for_each_image(before, x.shape[0]), own)


def _for_each_image(kv: text.KeyValue, num_images: int) -> text.KeyValue:
    """Give a prefix that all pictures share to each of them."""
    return text.KeyValue(*(jnp.broadcast_to(x, (num_images, *x.shape[1:])) for x in kv))


def _append(before: text.KeyValue, own: text.KeyValue) -> text.KeyValue:
    """Join float[G, P, K, d] and float[G, 1, M, K, d] to float[G, P + M, K, d]."""
    joined = (jnp.concatenate([x, y[:, 0]], axis=1) for x, y in zip(before, own, strict=True))
    return text.KeyValue(*joined)


def answer(
    params: Params,
    prefix: Prefix,
    suffix_ids: Array,
    lengths: Array,
    *,
    cfg: LlavaConfig,
    stage: Stage = inline,
) -> jax.Array:
    """Return the logits of the first answer token for many questions per picture.

    Args:
        params: the model.
        prefix: of the G pictures.
        suffix_ids: int[G, Q, T], text after the prefix, padded on the right with any id.
        lengths: int[G, Q], true length of each suffix, 1..T.
        cfg: shapes.
        stage: how a stage is run.

    Returns:
        float32[G, Q, V]; −inf at ids that no tokenizer produces.
    """
    return read(params, prefix, suffix_ids, lengths, keep=False, cfg=cfg, stage=stage)[0]


def read(
    params: Params,
    prefix: Prefix,
    suffix_ids: Array,
    lengths: Array,
    *,
    keep: bool,
    observers: int = 0,
    cfg: LlavaConfig,
    stage: Stage = inline,
) -> tuple[jax.Array, tuple[text.KeyValue, ...], tuple[jax.Array, ...]]:
    """Read suffixes: what ``answer`` returns, and what the next token would look at.

    Args:
        params: the model.
        prefix: of the G pictures.
        suffix_ids: int[G, Q, T], text after the prefix, padded on the right with any id.
        lengths: int[G, Q], true length of each suffix, 1..T.
        keep: whether keys and values are wanted.
        observers: last tokens of each suffix whose attention is wanted, W; 0 for none.
        cfg: shapes.
        stage: how a stage is run.

    Returns:
        (float32[G, Q, V], keys and values float[G, Q, T, K, d] of every layer or none, ``votes``
        float32[G, Q, K, P + T] of every layer or none).
    """
    decoder, kept, votes = params["text"], [], []
    offsets = np.arange(-min(observers, suffix_ids.shape[-1]), 0, dtype=np.int32)
    *layers, last = decoder["layers"]
    *prefixes, last_prefix = prefix.layers
    x, positions = stage(_suffix)(
        {"embed_tokens": decoder["embed_tokens"]}, suffix_ids, prefix.next_position
    )
    for layer, kv in zip(layers, prefixes, strict=True):
        if observers:
            seen = (layer, x, positions, kv, lengths, offsets)
            votes.append(stage(text.votes)(*seen, cfg=cfg.text))
        x, own = stage(text.block)(layer, x, positions, kv, cfg=cfg.text)
        kept += [own] * keep
    if observers:
        seen = (last, x, positions, last_prefix, lengths, offsets)
        votes.append(stage(text.votes)(*seen, cfg=cfg.text))
    if keep:
        kept.append(stage(text.key_value)(last, x, positions, cfg=cfg.text))
    x = stage(text.last_token)(last, x, positions, last_prefix, lengths, cfg=cfg.text)
    head = {"norm": decoder["norm"], "lm_head": decoder["lm_head"]}
    return stage(logits)(head, x, cfg=cfg), tuple(kept), tuple(votes)


def _suffix(
    params: Params, ids: jax.Array, next_position: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return suffix embeddings [G, Q, T, D] and positions [G, 1, T]."""
    places = jnp.arange(ids.shape[-1], dtype=jnp.int32).reshape(1, 1, -1)
    return text.embed(params, ids), next_position.reshape(-1, 1, 1) + places


def logits(params: Params, x: jax.Array, *, cfg: LlavaConfig) -> jax.Array:
    """Return float32[G, Q, V] of the last tokens float[G, Q, 1, D]."""
    logits = text.unembed(params, x[:, :, 0], cfg=cfg.text)
    real = jnp.arange(cfg.text.vocab_size).reshape(1, 1, -1) < cfg.real_vocab_size
    return jnp.where(real, logits, -jnp.inf)
