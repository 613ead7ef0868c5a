"""Stage 1: projector and decoder learn to answer, the tower at rest.

The answer alone teaches nothing for a long time: the circuit "name → patch that shows
it → yes" does not form by itself. Three aids form it: in two early layers half of the
heads must look from the name at the object's patches, or at the text before the picture
if there is no such object (grounding); the answer is asked for from the name on (early
answer); and projected patches must be told apart by the words' embeddings (alignment).

Axis letters: G pictures, Q questions, S prompt text, K visual tokens, P = S + K prefix,
T suffix with the answer as its last token, H heads, D width, C categories.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import scenes
from experiments.training import initial
from experiments.training.asking import NAME_AT, Questions, wording
from experiments.training.tokenizer import EOS
from llava_jax import model, parameters, text
from llava_jax.config import LlavaConfig, TextConfig

Params = dict[str, Any]

GROUNDED_LAYERS = (0, 1)
_REACH = 640  # positions between name and patch at most
_EMBEDDING_SCALE = 0.3
_CODE_SCALE = 8.0  # sharpness of the alignment's softmax


@dataclasses.dataclass(frozen=True)
class Weights:
    """How much each aid counts beside the answer's own loss."""

    grounding: float
    early: float
    alignment: float


def start(cfg: LlavaConfig, seed: int) -> Params:
    """Return projector and decoder, and the alignment's code for background."""
    rng = np.random.default_rng([seed, 1])
    random = parameters.init(jax.random.key(seed + 1), cfg)
    decoder = dict(random["text"])
    shape = decoder["embed_tokens"].shape
    decoder["embed_tokens"] = jnp.asarray(rng.normal(0, _EMBEDDING_SCALE, shape), jnp.float32)
    layers = []
    for layer in decoder["layers"]:
        layer = initial.matching_heads(layer, cfg.text, _REACH, rng, 1.4)
        layers.append(
            layer | {name: {"weight": 0.4 * layer[name]["weight"]} for name in ("out", "down")}
        )
    decoder["layers"] = layers
    code = jnp.asarray(rng.normal(0, _EMBEDDING_SCALE, cfg.text.width), jnp.float32)
    return {"projector": random["projector"], "text": decoder, "background": code}


def _unit(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-6)


def alignment(
    params: Params, image: jax.Array, categories: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Tell projected patches apart by the embeddings of the categories' names.

    Args:
        params: projector, text and background code.
        image: float[G, K, D], projected.
        categories: int[G, K], −1 for background.

    Returns:
        (loss, accuracy on object patches).
    """
    names = params["text"]["embed_tokens"][wording().suffixes[:, NAME_AT]]
    codes = _unit(jnp.concatenate([names, params["background"][None]]))
    scores = _CODE_SCALE * jnp.einsum("gkd,cd->gkc", _unit(image), codes)
    objects = categories >= 0
    target = jnp.where(objects, categories, len(scenes.CATEGORIES))
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, target)
    weight = jnp.where(objects, 1.0, 0.12)
    right = (scores.argmax(-1) == target) & objects
    accuracy = right.sum() / jnp.maximum(objects.sum(), 1)
    return (losses * weight).sum() / weight.sum(), accuracy


def alignment_loss(params: Params, batch: Questions) -> tuple[jax.Array, jax.Array]:
    """Train projector and names alone, before any question."""
    image = model.project(params["projector"], batch.features.astype(jnp.float32))
    return alignment(params, image, batch.categories)


def _grounding(
    layer: Params,
    x: jax.Array,
    positions: jax.Array,
    prefix: text.KeyValue,
    batch: Questions,
    cfg: TextConfig,
) -> jax.Array:
    """Return −log of the attention from the name to where it should look.

    Args:
        layer: a block.
        x: float[G, Q, T, D], its input.
        positions: int[G, 1, T].
        prefix: its keys and values, float[G, P, H, d].
        batch: what the tokens show and what is asked.
        cfg: shapes.
    """
    q, k, _ = text.query_key_value(layer, x[:, :, : NAME_AT + 1], positions, cfg=cfg)
    half = cfg.num_heads // 2
    q = q[:, :, NAME_AT, :half] * cfg.head_dim**-0.5
    before = jnp.einsum("gqhd,gphd->gqhp", q, prefix.keys[:, :, :half])
    own = jnp.einsum("gqhd,gqthd->gqht", q, k[:, :, :, :half])
    logs = jax.nn.log_softmax(jnp.concatenate([before, own], -1), axis=-1)
    prompt = logs.shape[-1] - own.shape[-1] - batch.categories.shape[1]
    looked = logs[..., prompt : prompt + batch.categories.shape[1]]
    shows = batch.categories[:, None] == batch.asked[..., None]
    there = jax.nn.logsumexp(jnp.where(shows[:, :, None], looked, -1e9), axis=-1)
    elsewhere = jax.nn.logsumexp(logs[..., :prompt], axis=-1)
    found = batch.present & shows.any(-1)
    wanted = jnp.where(found[..., None], there, elsewhere)
    usable = (found | ~batch.present)[..., None]
    return -jnp.where(usable, wanted, 0).sum() / jnp.maximum(usable.sum() * half, 1)


def _answer_losses(
    decoder: Params, x: jax.Array, batch: Questions, cfg: LlavaConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the losses of the answer and its end, of early answers, and the accuracy."""
    words = wording()
    target = jnp.where(batch.present, words.yes, words.no)
    logits = text.unembed(decoder, x[:, :, NAME_AT:], cfg=cfg.text)
    entropy = optax.softmax_cross_entropy_with_integer_labels
    repeated = jnp.broadcast_to(target[..., None], logits.shape[:-1])
    losses = entropy(logits, repeated)
    end = entropy(logits[:, :, -1], jnp.full_like(target, EOS)).mean()
    right = logits[:, :, -2].argmax(-1) == target
    return losses[:, :, -2].mean() + 0.2 * end, losses[:, :, :-2].mean(), right.mean()


def loss(
    params: Params, batch: Questions, *, cfg: LlavaConfig, weights: Weights
) -> tuple[jax.Array, jax.Array]:
    """Return the stage's loss and the accuracy of the answers."""
    words, decoder = wording(), params["text"]
    image = model.project(params["projector"], batch.features.astype(jnp.float32))
    g, k, _ = image.shape
    places = jnp.broadcast_to(jnp.arange(k, dtype=jnp.int32), (g, k))
    prefix = model.prefill(params, jnp.asarray(words.prompt), image, places, k, cfg=cfg)
    answers = jnp.where(batch.present, words.yes, words.no)[..., None]
    ids = jnp.concatenate([jnp.asarray(words.suffixes)[batch.asked], answers], axis=-1)
    positions = words.prompt.size + k + jnp.arange(ids.shape[-1]).reshape(1, 1, -1)
    x = text.embed(decoder, ids)
    grounding = 0.0
    for index, (layer, kv) in enumerate(zip(decoder["layers"], prefix.layers, strict=True)):
        if index in GROUNDED_LAYERS:
            before = positions[..., : NAME_AT + 1]
            grounding += _grounding(layer, x, before, kv, batch, cfg.text)
        x, _ = text.block(layer, x, positions, kv, cfg=cfg.text)
    answer, early, accuracy = _answer_losses(decoder, x, batch, cfg)
    aligned, _ = alignment(params, image, batch.categories)
    total = answer + weights.early * early + weights.alignment * aligned
    return total + weights.grounding * grounding / len(GROUNDED_LAYERS), accuracy
