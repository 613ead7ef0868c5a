"""How a model in training fares on POPE's questions about held-out scenes."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import calibration
from experiments import scenes
from experiments.training import tokenizer
from experiments.training.asking import wording
from llava_jax import model
from llava_jax.config import LlavaConfig

_BATCH = 4


@functools.cache
def _spellings() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids that count as yes and as no."""
    ids = tokenizer.vocabulary()
    yes, no = ("▁Yes", "▁yes"), ("▁No", "▁no")
    return tuple(ids[piece] for piece in yes), tuple(ids[piece] for piece in no)


@functools.partial(jax.jit, static_argnames="cfg")
def log_masses(
    params: dict[str, Any], features: jax.Array, asked: jax.Array, *, cfg: LlavaConfig
) -> jax.Array:
    """Return log probabilities of yes and no for questions about all visual tokens.

    Args:
        params: projector and text.
        features: float[G, N, Dv].
        asked: int[G, Q], categories.
        cfg: shapes.

    Returns:
        float32[G, Q, 2], yes first, over the whole vocabulary.
    """
    words = wording()
    image = model.project(params["projector"], features.astype(jnp.float32))
    g, n, _ = image.shape
    places = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (g, n))
    prefix = model.prefill(params, jnp.asarray(words.prompt), image, places, n, cfg=cfg)
    ids = jnp.asarray(words.suffixes)[asked]
    lengths = jnp.full(asked.shape, ids.shape[-1])
    logits = model.answer(params, prefix, ids, lengths, cfg=cfg)
    return calibration.answer_log_masses(logits, _spellings())[0]


def evaluate(
    params: dict[str, Any],
    features: np.ndarray,
    place: scenes.World,
    indices: range,
    cfg: LlavaConfig,
) -> dict[str, float]:
    """Measure accuracy, likelihood and calibration on POPE's questions, all tokens kept.

    Args:
        params: projector and text.
        features: float[E, N, Dv] of the scenes.
        place: their world.
        indices: the E scenes' indices.
        cfg: shapes.

    Returns:
        Accuracy per split; nll, ece, yes_share and answer_mass over all questions.
    """
    number = {name: i for i, name in enumerate(scenes.NAMES)}
    rows = [scenes.pope_questions(place, index) for index in indices]
    asked = np.array([[number[row[3]] for row in picture] for picture in rows])
    truth = np.array([[row[2] == "yes" for row in picture] for picture in rows])
    logs = np.concatenate(
        [
            np.asarray(log_masses(params, features[i : i + _BATCH], asked[i : i + _BATCH], cfg=cfg))
            for i in range(0, len(rows), _BATCH)
        ]
    )
    mass = np.logaddexp(logs[..., 0], logs[..., 1])
    said_yes = logs[..., 0] > logs[..., 1]
    right = said_yes == truth
    per_split = right.reshape(len(rows), len(scenes.SPLITS), -1).mean((0, 2))
    own = np.where(truth, logs[..., 0], logs[..., 1]) - mass
    confidence = np.exp(logs.max(-1) - mass)
    return dict(zip(scenes.SPLITS, per_split.tolist(), strict=True)) | {
        "nll": float(-own.mean()),
        "ece": float(
            calibration.expected_calibration_error(
                jnp.asarray(confidence.ravel()), jnp.asarray(right.ravel())
            )
        ),
        "yes_share": float(said_yes.mean()),
        "answer_mass": float(np.exp(mass).mean()),
    }
