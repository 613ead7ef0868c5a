"""A model's answers to questions about held-out scenes, all visual tokens kept.

Axis letters: G pictures, Q questions, T suffix, V vocabulary, E questions of a benchmark.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import scenes
from experiments.training import wording
from llava_jax import decoding, model
from llava_jax.config import LlavaConfig

_BATCH = 4


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model answered to a benchmark's questions.

    Attributes:
        questions: in the order of the scenes.
        scene: int[E], place of each question's scene.
        log_probs: float32[E, V] of the first token.
    """

    questions: tuple[scenes.Question, ...]
    scene: np.ndarray
    log_probs: np.ndarray


@functools.partial(jax.jit, static_argnames="cfg")
def _prefix(params: dict[str, Any], features: jax.Array, *, cfg: LlavaConfig) -> decoding.Prefix:
    image = model.project(params["projector"], features.astype(jnp.float32))
    g, n, _ = image.shape
    places = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (g, n))
    before = decoding.begin(params, jnp.asarray(wording.prompt()), cfg=cfg)
    return decoding.prefill(params, before, image, places, n, cfg=cfg)


@functools.partial(jax.jit, static_argnames="cfg")
def _log_probs(
    params: dict[str, Any],
    prefix: decoding.Prefix,
    ids: jax.Array,
    lengths: jax.Array,
    *,
    cfg: LlavaConfig,
) -> jax.Array:
    """Return log probabilities of the first answer token, float32[G, Q, V]."""
    return jax.nn.log_softmax(decoding.answer(params, prefix, ids, lengths, cfg=cfg), axis=-1)


def answer(
    params: dict[str, Any],
    features: np.ndarray,
    place: scenes.World,
    indices: Sequence[int],
    cfg: LlavaConfig,
) -> dict[str, Answers]:
    """Ask the questions of every benchmark that was taught.

    Args:
        params: projector and text.
        features: float[G, N, Dv] of the scenes.
        place: their world.
        indices: the G scenes' indices.
        cfg: shapes.

    Returns:
        Benchmark to answers.
    """
    trained = {name: mini for name, mini in scenes.MINIATURES.items() if mini.trained}
    asked = {
        name: [miniature.questions(place, index) for index in indices]
        for name, miniature in trained.items()
    }
    every = [[q for rows in asked.values() for q in rows[g]] for g in range(len(indices))]
    found: list[dict[str, np.ndarray]] = [{} for _ in indices]
    forms = [
        _tokenise([[q for q in scene if bool(q.options) == lettered] for scene in every])
        for lettered in (False, True)
    ]
    for begin in range(0, len(indices), _BATCH):
        part = slice(begin, begin + _BATCH)
        prefix = _prefix(params, features[part], cfg=cfg)
        for texts, ids, lengths in forms:
            logs = np.asarray(_log_probs(params, prefix, ids[part], lengths[part], cfg=cfg))
            for g, row in enumerate(logs, begin):
                found[g] |= dict(zip(texts[g], row, strict=False))
    return {name: _collect(rows, found) for name, rows in asked.items()}


def _tokenise(
    asked: Sequence[Sequence[scenes.Question]],
) -> tuple[list[list[str]], np.ndarray, np.ndarray]:
    """Return the distinct texts per scene, their ids int32[G, Q, T] and lengths int32[G, Q]."""
    texts = [list(dict.fromkeys(map(wording.user_text, rows))) for rows in asked]
    encoded = [[wording.encode(text).ids for text in row] for row in texts]
    count = max(map(len, encoded))
    longest = max(len(ids) for row in encoded for ids in row)
    ids = np.zeros((len(asked), count, longest), np.int32)
    lengths = np.ones((len(asked), count), np.int32)
    for g, row in enumerate(encoded):
        for q, suffix in enumerate(row):
            ids[g, q, : len(suffix)], lengths[g, q] = suffix, len(suffix)
    return texts, ids, lengths


def _collect(
    asked: Sequence[Sequence[scenes.Question]], found: Sequence[dict[str, np.ndarray]]
) -> Answers:
    logs = [found[g][wording.user_text(q)] for g, rows in enumerate(asked) for q in rows]
    scene = np.repeat(np.arange(len(asked)), [len(rows) for rows in asked])
    return Answers(tuple(q for rows in asked for q in rows), scene, np.stack(logs))
