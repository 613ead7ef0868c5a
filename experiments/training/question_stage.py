"""Projector and decoder learn to answer, the tower at rest.

The answer alone teaches nothing for a long time: the circuit "name → patch that shows
it → yes" does not form by itself. Four aids form it: in two early layers half of the
heads must look from a name at the object's patches, or at the text before the picture
if there is no such object (grounding); in the last layer half of them must look from the
question's end at the right option (pointing); what can be known early is asked for early
(early answers); and projected patches must be told apart by the words' embeddings
(alignment).

Axis letters: G pictures, Q questions, S prompt text, K visual tokens, P = S + K prefix,
T suffix with answer and end, R names mentioned, H heads, D width, C categories.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import scenes
from experiments.training import initial
from experiments.training.asking import Batch
from experiments.training.teaching import NOTHING, Block
from experiments.training.wording import answer_ids, prompt
from llava_jax import decoding, model, parameters, text
from llava_jax.config import LlavaConfig, TextConfig

Params = dict[str, Any]

GROUNDED_LAYERS = (0, 1)
_REACH = 640  # positions between name and patch at most
_EMBEDDING_SCALE = 0.3
_COMMON_SCALE = 1.5  # of the direction that all tokens share
_CODE_SCALE = 14.0  # sharpness of the alignment's softmax
_BACKGROUND_WEIGHT = 0.12
_END_WEIGHT = 0.2


@dataclasses.dataclass(frozen=True)
class Weights:
    """How much each aid counts beside the answer's own loss."""

    grounding: float
    pointing: float
    early: float
    alignment: float


def start(cfg: LlavaConfig, seed: int) -> Params:
    """Return projector and decoder, and the alignment's code for background.

    Of every block's heads all but two start by matching content, the others by looking one
    and two tokens back, along a direction that words and visual tokens share.
    """
    rng = np.random.default_rng([seed, 1])
    random = parameters.init(jax.random.key(seed + 1), cfg)
    decoder, width, heads = random["text"], cfg.text.width, cfg.text.num_heads
    common = rng.normal(size=width)
    common /= np.linalg.norm(common)

    def codes(*shape: int) -> jax.Array:
        drawn = rng.normal(0, _EMBEDDING_SCALE, (*shape, width))
        return jnp.asarray(drawn + _COMMON_SCALE * common, jnp.float32)

    layers = []
    for layer in decoder["layers"]:
        matching = [initial.matching_head(cfg.text, _REACH, rng, 1.4) for _ in range(heads - 2)]
        back = [initial.neighbour_head(cfg.text, common, offset, 1.5) for offset in (1, 2)]
        quiet = {name: {"weight": 0.4 * layer[name]["weight"]} for name in ("out", "down")}
        layers.append(initial.with_heads(layer | quiet, [*matching, *back]))
    projector = random["projector"]
    bias = jnp.asarray(_COMMON_SCALE * common, jnp.float32)
    return {
        "projector": projector | {"linear_2": projector["linear_2"] | {"bias": bias}},
        "text": decoder | {"embed_tokens": codes(cfg.text.vocab_size), "layers": layers},
        "background": codes(),
    }


def _unit(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-6)


def alignment(params: Params, image: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Tell projected patches apart by the embeddings of the words for what they show.

    Of an object's patches not only the category, also colour, side and height.

    Args:
        params: projector, text and background code.
        image: float[G, K, D], projected.
        batch: what the patches show.

    Returns:
        (loss, accuracy of the category on object patches).
    """
    objects, embeddings = batch.categories >= 0, params["text"]["embed_tokens"]

    def words(spelt: Sequence[str]) -> jax.Array:
        return embeddings[jnp.asarray(answer_ids(spelt))]

    named = jnp.concatenate([words(scenes.NAMES), params["background"][None]])
    shown = jnp.where(objects, batch.categories, len(scenes.NAMES))
    weight = jnp.where(objects, 1.0, _BACKGROUND_WEIGHT)
    total, accuracy = _told_apart(image, named, shown, weight, objects)
    half = scenes.GRID // 2
    for spelt, target in (
        (tuple(scenes.COLOURS), batch.colours),
        (scenes.SIDES, batch.tokens % scenes.GRID // half),
        (scenes.HEIGHTS, batch.tokens // scenes.GRID // half),
    ):
        total += _told_apart(image, words(spelt), target, 1.0 * objects, objects)[0]
    return total, accuracy


def _told_apart(
    image: jax.Array, codes: jax.Array, target: jax.Array, weight: jax.Array, counted: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Classify patches float[G, K, D] by scaled cosines with codes float[C, D].

    Returns:
        (weighted cross-entropy, accuracy on those that are counted).
    """
    scores = _CODE_SCALE * jnp.einsum("gkd,cd->gkc", _unit(image), _unit(codes))
    known = jnp.maximum(target, 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, known)
    right = 1.0 * (scores.argmax(-1) == known)
    return (losses * weight).sum() / weight.sum(), _mean(right, counted)


def alignment_loss(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Train projector and words alone, before any question."""
    image = model.project(params["projector"], batch.features.astype(jnp.float32))
    return alignment(params, image, batch)


def _attention_logs(
    layer: Params,
    x: jax.Array,
    positions: jax.Array,
    prefix: text.KeyValue,
    at: jax.Array,
    cfg: TextConfig,
) -> jax.Array:
    """Return the log of half the heads' attention from some places of the suffixes.

    Args:
        layer: a block.
        x: float[G, Q, T, D], its input.
        positions: int[G, 1, T].
        prefix: its keys and values, float[G, P, H, d].
        at: int[G, Q, R], the places.
        cfg: shapes.

    Returns:
        float[G, Q, R, H / 2, P + T].
    """
    q, k, _ = text.query_key_value(layer, x, positions, cfg=cfg)
    half, length = cfg.num_heads // 2, x.shape[2]
    q = jnp.take_along_axis(q[..., :half, :], at[..., None, None], axis=2) * cfg.head_dim**-0.5
    before = jnp.einsum("gqrhd,gphd->gqrhp", q, prefix.keys[:, :, :half])
    own = jnp.einsum("gqrhd,gqthd->gqrht", q, k[:, :, :, :half])
    past = jnp.arange(length).reshape(1, 1, 1, 1, length) <= at[..., None, None]
    return jax.nn.log_softmax(jnp.concatenate([before, jnp.where(past, own, -1e9)], -1), axis=-1)


def _grounding(logs: jax.Array, categories: jax.Array, asked: Block) -> jax.Array:
    """Return −log of the attention from names to where it should go, mean over names.

    Args:
        logs: float[G, Q, R, h, P + T], from ``asked.mention_at``.
        categories: int[G, K], what the visual tokens show.
        asked: the questions.
    """
    start = prompt().size
    shows = categories[:, None, None] == asked.mention[..., None]
    looked = logs[..., start : start + categories.shape[1]]
    there = jax.nn.logsumexp(jnp.where(shows[:, :, :, None], looked, -1e9), axis=-1)
    elsewhere = jax.nn.logsumexp(logs[..., :start], axis=-1)
    found = asked.present & shows.any(-1)
    usable = found | (~asked.present & (asked.mention != NOTHING))
    lost = -jnp.where(found[..., None], there, elsewhere).mean(-1)
    return _mean(lost, usable)


def _pointing(logs: jax.Array, asked: Block) -> jax.Array:
    """Return −log of the attention from the question's end to the right option.

    Args:
        logs: float[G, Q, 1, h, P + T], from ``asked.answer_at``.
        asked: the questions.
    """
    own = logs[:, :, 0, :, -asked.ids.shape[-1] :]
    where = jnp.maximum(asked.pointer, 0)[..., None, None]
    lost = -jnp.take_along_axis(own, where, axis=-1)[..., 0].mean(-1)
    return _mean(lost, asked.pointer != NOTHING)


def _mean(values: jax.Array, usable: jax.Array) -> jax.Array:
    return jnp.where(usable, values, 0).sum() / jnp.maximum(usable.sum(), 1)


def _answer_losses(
    decoder: Params, x: jax.Array, asked: Block, cfg: LlavaConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the losses of the answer with its end and of early answers, and the accuracy."""
    logits = text.unembed(decoder, x, cfg=cfg.text)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(asked.targets, 0))
    place = jnp.arange(logits.shape[2]).reshape(1, 1, -1)
    at, due = asked.answer_at[..., None], asked.targets != NOTHING
    answer = _mean(losses, place == at)
    right = _mean(1.0 * (logits.argmax(-1) == asked.targets), place == at)
    end = _mean(losses, place == at + 1)
    return answer + _END_WEIGHT * end, _mean(losses, due & (place < at)), right


def _block_loss(
    decoder: Params,
    prefix: decoding.Prefix,
    categories: jax.Array,
    asked: Block,
    cfg: LlavaConfig,
    weights: Weights,
) -> tuple[jax.Array, jax.Array]:
    """Return loss and accuracy of questions of one length."""
    suffix = jnp.arange(asked.ids.shape[-1]).reshape(1, 1, -1)
    positions = prefix.next_position.reshape(-1, 1, 1) + suffix
    x = text.embed(decoder, asked.ids)
    aids = jnp.float32(0)
    for index, (layer, kv) in enumerate(zip(decoder["layers"], prefix.layers, strict=True)):
        if index in GROUNDED_LAYERS:
            logs = _attention_logs(layer, x, positions, kv, asked.mention_at, cfg.text)
            aids += weights.grounding / len(GROUNDED_LAYERS) * _grounding(logs, categories, asked)
        if index == cfg.text.num_layers - 1:
            at = asked.answer_at[..., None]
            logs = _attention_logs(layer, x, positions, kv, at, cfg.text)
            aids += weights.pointing * _pointing(logs, asked)
        x, _ = text.block(layer, x, positions, kv, cfg=cfg.text)
    answer, early, accuracy = _answer_losses(decoder, x, asked, cfg)
    return answer + weights.early * early + aids, accuracy


def loss(
    params: Params, batch: Batch, *, cfg: LlavaConfig, weights: Weights
) -> tuple[jax.Array, jax.Array]:
    """Return the stage's loss and the accuracy of the answers, each kind of question alike."""
    decoder = params["text"]
    image = model.project(params["projector"], batch.features.astype(jnp.float32))
    before = decoding.begin(params, jnp.asarray(prompt()), cfg=cfg)
    prefix = decoding.prefill(params, before, image, batch.positions, batch.span, cfg=cfg)
    found = [
        _block_loss(decoder, prefix, batch.categories, asked, cfg, weights)
        for asked in batch.blocks
    ]
    losses, accuracies = zip(*found, strict=True)
    aligned, _ = alignment(params, image, batch)
    total = sum(losses, start=weights.alignment * aligned)
    return total, sum(accuracies, start=jnp.float32(0)) / len(accuracies)
