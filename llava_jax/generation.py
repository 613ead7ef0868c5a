"""Greedy text after many questions at once, on what they share.

    Prefix[G], suffix ids[G, Q, T] ─ start ─► Context ─ greedy ─► Generated[G, Q, M]

All questions advance together; one that has said the end token waits for the others. A token is
written into a cache of fixed size that doubles when it is full, so a program serves many steps.

Axis letters: G images, Q questions, T suffix, S places of the cache, M generated tokens, L layers,
D width, K key-value heads, V vocabulary; B = G, or G · Q where every question has a prefix of its
own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llava_jax import decoding, text
from llava_jax.config import LlavaConfig, TextConfig
from llava_jax.stage import Array, Params, Stage, inline

_ROOM = 8  # new tokens that the first cache has places for


class Layer(NamedTuple):
    """What the next token of every question finds in one layer, but for the suffix.

    Attributes:
        prefix: keys and values, float[B, P, K, d].
        next_position: int32[B, G · Q / B], position of the next token.
        prefix_visible: bool[B, P], prefix tokens that there are; None for all.
        votes: float32[B, G · Q / B, K, P + T], how much the last tokens of the question look at
            every token; None where nobody asked.
    """

    prefix: text.KeyValue
    next_position: jax.Array
    prefix_visible: jax.Array | None = None
    votes: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Context:
    """What the next token of every question is computed from.

    Attributes:
        logits: float32[G, Q, V], of the next token.
        layers: of the decoder; none where the first token is all that is wanted.
        suffixes: keys and values in every layer, float[B, G · Q / B, T, K, d].
        lengths: int32[G, Q], of the T suffix tokens that are no padding.
    """

    logits: jax.Array
    layers: Sequence[Layer]
    suffixes: Sequence[text.KeyValue]
    lengths: Array


@dataclasses.dataclass(frozen=True)
class Generated:
    """What was said after each question.

    Attributes:
        ids: int32[G, Q, M], the likeliest token each time.
        log_probs: float32[G, Q, M], its log probability among all tokens.
        lengths: int32[G, Q], tokens up to the end token, which counts; M if none was said.
    """

    ids: np.ndarray
    log_probs: np.ndarray
    lengths: np.ndarray

    def reshape(self, *shape: int) -> Generated:
        """Return the same with other leading axes instead of [G, Q]."""
        steps = self.ids.shape[-1]
        ids, log_probs = (x.reshape(*shape, steps) for x in (self.ids, self.log_probs))
        return Generated(ids, log_probs, self.lengths.reshape(shape))


def start(
    params: Params,
    prefix: decoding.Prefix,
    suffix_ids: Array,
    lengths: Array,
    *,
    keep: bool = True,
    observers: int = 0,
    cfg: LlavaConfig,
    stage: Stage = inline,
) -> Context:
    """Read the questions; see ``decoding.read`` for the arguments.

    Without ``keep`` the context has the first token's logits alone.
    """
    how = {"keep": keep, "observers": observers, "cfg": cfg, "stage": stage}
    logits, suffixes, votes = decoding.read(params, prefix, suffix_ids, lengths, **how)
    behind = prefix.next_position[:, None] + jnp.asarray(lengths)
    counted = zip(prefix.layers, votes or [None] * len(prefix.layers), strict=True)
    layers = [Layer(kv, behind, votes=seen) for kv, seen in counted] if keep else ()
    return Context(logits, layers, suffixes, lengths)


def greedy(
    params: Params,
    context: Context,
    end_id: int,
    max_new_tokens: int,
    *,
    cfg: LlavaConfig,
    stage: Stage = inline,
) -> Generated:
    """Say the likeliest token until every question has said the end token.

    Args:
        params: the model.
        context: of the questions.
        end_id: of the end token.
        max_new_tokens: at most so many, ≥ 1.
        cfg: shapes.
        stage: how a stage is run.
    """
    caches, logits = context.suffixes, context.logits
    num_suffix = caches[0].keys.shape[2]
    ended = jnp.zeros(logits.shape[:2], bool)
    steps: list[tuple[jax.Array, jax.Array]] = []
    for count in range(max_new_tokens):
        token, log_prob, ended = stage(_likeliest)(logits, ended, end_id)
        steps.append((token, log_prob))
        if count + 1 == max_new_tokens or bool(ended.all()):
            break
        if num_suffix + count == caches[0].keys.shape[2]:
            room = _room(count, max_new_tokens)
            caches = [stage(_longer)(cache, np.zeros(room)) for cache in caches]
        logits, caches = _step(params, context, caches, token, count, cfg=cfg, stage=stage)
    ids, log_probs = (
        np.stack([np.asarray(x) for x in part], -1) for part in zip(*steps, strict=True)
    )
    said = (ids == end_id).argmax(-1) + 1
    return Generated(ids, log_probs, np.where((ids == end_id).any(-1), said, ids.shape[-1]))


def _room(count: int, max_new_tokens: int) -> int:
    """Return by how many places a cache grows that holds ``count`` new tokens: it doubles."""
    return min(max(count, _ROOM), max_new_tokens - 1 - count)


def _likeliest(
    logits: jax.Array, ended: jax.Array, end_id: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the likeliest tokens int32[G, Q], their log probabilities, and who has ended."""
    token = jnp.argmax(logits, -1).astype(jnp.int32)
    log_prob = jnp.max(logits, -1) - jax.nn.logsumexp(logits, -1)
    return token, log_prob, ended | (token == end_id)


def _longer(kv: text.KeyValue, room: jax.Array) -> text.KeyValue:
    """Add empty places, as many as ``room`` float[·] has, to float[B, ·, S, K, d]."""
    more = ((0, 0), (0, 0), (0, room.shape[0]), (0, 0), (0, 0))
    return text.KeyValue(*(jnp.pad(x, more) for x in kv))


def _step(
    params: Params,
    context: Context,
    caches: Sequence[text.KeyValue],
    token: jax.Array,
    count: int,
    *,
    cfg: LlavaConfig,
    stage: Stage,
) -> tuple[jax.Array, list[text.KeyValue]]:
    """Run one token of every question through all layers; return the next one's logits."""
    decoder, number, written = params["text"], np.int32(count), []
    slot = np.int32(context.suffixes[0].keys.shape[2] + count)
    x = stage(text.embed)({"embed_tokens": decoder["embed_tokens"]}, token)
    for block, layer, cache in zip(decoder["layers"], context.layers, caches, strict=True):
        x, cache = stage(_advance)(
            block, x, layer, cache, context.lengths, number, slot, cfg=cfg.text
        )
        written.append(cache)
    head = {"norm": decoder["norm"], "lm_head": decoder["lm_head"]}
    x = x.reshape(*token.shape, 1, x.shape[-1])
    return stage(decoding.logits)(head, x, cfg=cfg), written


def _advance(
    params: Params,
    x: jax.Array,
    layer: Layer,
    cache: text.KeyValue,
    lengths: jax.Array,
    count: jax.Array,
    slot: jax.Array,
    *,
    cfg: TextConfig,
) -> tuple[jax.Array, text.KeyValue]:
    """Run one block on the next token of every question, whose state is float[..., D]."""
    shape, place = cache.keys.shape[:2], jnp.arange(cache.keys.shape[2]).reshape(1, 1, 1, -1)
    own = place < lengths.reshape(*shape, 1, 1)
    said = (place >= slot - count) & (place <= slot)
    return text.step(
        params,
        x.reshape(*shape, 1, x.shape[-1]),
        layer.next_position.reshape(*shape, 1) + count,
        layer.prefix,
        cache,
        slot,
        own | said,
        layer.prefix_visible,
        cfg=cfg,
    )
