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

import jax
import jax.numpy as jnp
import numpy as np

from llava_jax import decoding, text
from llava_jax.config import LlavaConfig
from llava_jax.stage import Array, Params, Stage, inline

_ROOM = 8  # new tokens that the first cache has places for


@dataclasses.dataclass(frozen=True)
class Context:
    """What the next token of every question is computed from.

    Attributes:
        logits: float32[G, Q, V], of the next token.
        prefixes: keys and values of every layer, float[B, P, K, d]; P may differ by layer.
        suffixes: those of what follows, float[B, G · Q / B, T, K, d].
        lengths: int32[G, Q], of the T tokens that are no padding.
        next_position: int32[G, Q], position of the next token.
    """

    logits: jax.Array
    prefixes: tuple[text.KeyValue, ...]
    suffixes: tuple[text.KeyValue, ...]
    lengths: Array
    next_position: Array


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
    cfg: LlavaConfig,
    stage: Stage = inline,
) -> Context:
    """Read the questions; see ``decoding.read`` for the arguments."""
    logits, suffixes = decoding.read(
        params, prefix, suffix_ids, lengths, keep=True, cfg=cfg, stage=stage
    )
    behind = prefix.next_position[:, None] + jnp.asarray(lengths)
    return Context(logits, prefix.layers, suffixes, lengths, behind)


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
            caches = tuple(stage(_longer)(kv, np.zeros(room)) for kv in caches)
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
    caches: tuple[text.KeyValue, ...],
    token: jax.Array,
    count: int,
    *,
    cfg: LlavaConfig,
    stage: Stage,
) -> tuple[jax.Array, tuple[text.KeyValue, ...]]:
    """Run one token of every question through all layers; return the next one's logits."""
    decoder = params["text"]
    embedding = {"embed_tokens": decoder["embed_tokens"]}
    num_suffix = context.suffixes[0].keys.shape[2]
    slot, written = np.int32(num_suffix + count), []
    x, positions = stage(_token)(embedding, token, context.next_position, np.int32(count))
    masks = {kv.keys.shape[:2]: kv.keys for kv in caches}  # one, or one on either side of a cut
    masks = {
        shape: stage(_visible)(keys, context.lengths, num_suffix, slot)
        for shape, keys in masks.items()
    }
    for layer, prefix, cache in zip(decoder["layers"], context.prefixes, caches, strict=True):
        shape = cache.keys.shape[:2]
        x, cache = stage(text.step)(
            layer,
            x.reshape(*shape, *x.shape[2:]),
            positions.reshape(*shape, 1),
            prefix,
            cache,
            slot,
            masks[shape],
            cfg=cfg.text,
        )
        written.append(cache)
    head = {"norm": decoder["norm"], "lm_head": decoder["lm_head"]}
    x = x.reshape(*token.shape, *x.shape[2:])
    return stage(decoding.logits)(head, x, cfg=cfg), tuple(written)


def _token(
    params: Params, token: jax.Array, next_position: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return embeddings [G, Q, 1, D] and positions [G, Q, 1] of a token int[G, Q]."""
    return text.embed(params, token)[:, :, None], (next_position + count)[..., None]


def _visible(
    keys: jax.Array, lengths: jax.Array, num_suffix: jax.Array, slot: jax.Array
) -> jax.Array:
    """Return which places of a cache hold a suffix's own tokens or what was said, [B, ·, 1, S]."""
    place = jnp.arange(keys.shape[2]).reshape(1, 1, -1)
    own = place < lengths.reshape(*keys.shape[:2], 1)
    return (own | ((place >= num_suffix) & (place <= slot)))[:, :, None]
