"""Stage 0: the tower learns to name what each patch shows.

Cross-entropy of every patch over categories and background on layer −2, the same over
colours at a lower weight, the patch's own place, which is lost otherwise, and from CLS the
multi-label presence of categories, so that the row of layer −2's attention that LLaVA's
pruners read looks at objects.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import scenes
from experiments.training import initial
from experiments.training.pictures import Pool, Window, window_rows
from llava_jax import images, parameters, vision
from llava_jax.config import LlavaConfig, VisionConfig

Params = dict[str, Any]

_BACKGROUND_WEIGHT = 0.12
_COLOUR_WEIGHT = 0.3
_PLACE_WEIGHT = 0.5
_PRESENCE_WEIGHT = 4.0
_LATE_PRESENCE_WEIGHT = 1.0  # the same from CLS after the last block


def start(cfg: LlavaConfig, source: Pool, seed: int) -> Params:
    """Return the tower's starting point and the heads that training alone uses."""
    rng = np.random.default_rng([seed, 0])
    random = parameters.init(jax.random.key(seed), cfg)["vision"]
    sample = images.normalise(source.images[: min(96, len(source))])
    tower = initial.tower(random, cfg.vision, sample, rng)
    sizes = {
        "category": len(scenes.CATEGORIES) + 1,
        "colour": len(scenes.COLOURS) + 1,
        "place": 2,
        "presence": len(scenes.CATEGORIES),
        "late_presence": len(scenes.CATEGORIES),
    }
    heads = {
        name: {
            "weight": jnp.asarray(rng.normal(0, 0.05, (size, cfg.vision.width)), jnp.float32),
            "bias": jnp.zeros(size),
        }
        for name, size in sizes.items()
    }
    return {"vision": tower, "heads": heads}


def hidden_states(
    tower: Params, pixels: jax.Array, rows: jax.Array, cfg: VisionConfig, blocks: int
) -> jax.Array:
    """Run the tower on a window with the position rows of its place.

    Args:
        tower: the vision tower.
        pixels: float[G, S, S, 3].
        rows: int[1 + n²], rows of the position table.
        cfg: shapes.
        blocks: how many blocks to run.

    Returns:
        float[G, 1 + n², D].
    """
    table = tower["embeddings"]["position_embedding"][rows]
    placed = tower | {"embeddings": tower["embeddings"] | {"position_embedding": table}}
    x = vision.embed(placed, pixels, cfg=cfg)
    for layer in tower["layers"][:blocks]:
        x = vision.block(layer, x, cfg=cfg)
    return x


def _head(params: Params, x: jax.Array) -> jax.Array:
    scores = jnp.einsum("...d,cd->...c", x, params["weight"])
    return scores + jnp.broadcast_to(params["bias"], scores.shape)


def _patch_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy with background as the last class at a low weight."""
    count = logits.shape[-1]
    target = jnp.where(labels < 0, count - 1, labels)
    weight = jnp.where(labels < 0, _BACKGROUND_WEIGHT, 1.0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    return (losses * weight).sum() / weight.sum()


def _place_loss(found: jax.Array, rows: jax.Array) -> jax.Array:
    """Mean squared error of places float[G, n², 2], right and down from −1 to 1.

    Args:
        found: what a head says.
        rows: int[n²], rows of the position table.
    """
    places = jnp.stack([(rows - 1) % scenes.GRID, (rows - 1) // scenes.GRID], axis=-1)
    target = 2 * places / (scenes.GRID - 1) - 1
    return jnp.square(found - jnp.broadcast_to(target, found.shape)).mean()


def shown(categories: jax.Array) -> jax.Array:
    """Turn patch labels int[G, n²] into presence bool[G, C]."""
    return (jax.nn.one_hot(categories, len(scenes.CATEGORIES)) > 0).any(axis=1)


def _presence_loss(logits: jax.Array, present: jax.Array) -> jax.Array:
    return optax.sigmoid_binary_cross_entropy(logits, present.astype(logits.dtype)).mean()


def loss(params: Params, batch: Window, *, cfg: VisionConfig) -> tuple[jax.Array, jax.Array]:
    """Return the stage's loss and the accuracy on object patches."""
    depth = cfg.feature_depth
    tower, heads = params["vision"], params["heads"]
    x = hidden_states(tower, batch.pixels, batch.rows, cfg, depth)
    category = _head(heads["category"], x[:, 1:])
    total = _patch_loss(category, batch.categories)
    total += _COLOUR_WEIGHT * _patch_loss(_head(heads["colour"], x[:, 1:]), batch.colours)
    total += _PLACE_WEIGHT * _place_loss(_head(heads["place"], x[:, 1:]), batch.rows[1:])
    present = shown(batch.categories)
    total += _PRESENCE_WEIGHT * _presence_loss(_head(heads["presence"], x[:, 0]), present)
    for layer in tower["layers"][depth:]:
        x = vision.block(layer, x, cfg=cfg)
    late = _head(heads["late_presence"], x[:, 0])
    total += _LATE_PRESENCE_WEIGHT * _presence_loss(late, present)
    objects = batch.categories >= 0
    right = (category.argmax(-1) == batch.categories) & objects
    return total, right.sum() / jnp.maximum(objects.sum(), 1)


def evaluate(params: Params, source: Pool, cfg: VisionConfig) -> dict[str, float]:
    """Measure the tower on whole held-out pictures.

    Returns:
        patch_accuracy: share of object patches named rightly.
        presence_auc: of CLS's presence scores, over all pictures and categories.
        attended: share of object patches among the 64 that CLS looks at most.
    """
    rows = window_rows(0, 0, scenes.GRID)
    right, scores, truth, attended = [], [], [], []
    for begin in range(0, len(source), 16):
        part = slice(begin, begin + 16)
        labels = source.categories[part].reshape(-1, rows.size - 1)
        pixels = images.normalise(source.images[part])
        category, presence, saliency = _probe(params, pixels, rows, cfg)
        objects = labels >= 0
        right.append((np.asarray(category) == labels)[objects])
        scores.append(np.asarray(presence).ravel())
        truth.append(np.asarray(shown(jnp.asarray(labels))).ravel())
        top = np.argsort(-np.asarray(saliency), axis=1)[:, :64]
        attended.append(np.take_along_axis(objects, top, axis=1).ravel())
    return {
        "patch_accuracy": float(np.concatenate(right).mean()),
        "presence_auc": auc(np.concatenate(scores), np.concatenate(truth)),
        "attended": float(np.concatenate(attended).mean()),
    }


@functools.partial(jax.jit, static_argnames="cfg")
def _probe(
    params: Params, pixels: jax.Array, rows: jax.Array, cfg: VisionConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return named category [G, N], presence scores [G, C] and CLS's saliency [G, N]."""
    tower, heads = params["vision"], params["heads"]
    depth = cfg.feature_depth
    x = hidden_states(tower, pixels, rows, cfg, depth - 1)
    saliency = vision.saliency(tower["layers"][depth - 1], x, cfg=cfg)
    x = vision.block(tower["layers"][depth - 1], x, cfg=cfg)
    category = _head(heads["category"], x[:, 1:]).argmax(-1)
    return category, _head(heads["presence"], x[:, 0]), saliency


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the area under the ROC curve by ranks."""
    ranks = np.empty(scores.size)
    ranks[np.argsort(scores, kind="stable")] = np.arange(1, scores.size + 1)
    positives = int(truth.sum())
    pairs = positives * (truth.size - positives)
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / pairs)
