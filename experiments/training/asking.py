"""Batches of questions about scenes: token ids, answers and what the name refers to."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np

from experiments import scenes
from experiments.training import tokenizer
from llava_jax import prompts

NAME_AT = 5  # place of the category's name in every suffix


@dataclasses.dataclass(frozen=True)
class Wording:
    """Token ids of the prompt and of every question, answers taught.

    Attributes:
        prompt: int32[S], text before the picture, BOS first.
        suffixes: int32[C, T], question about each category, the last token the colon.
        yes: id of the answer ▁Yes.
        no: id of ▁No.
    """

    prompt: np.ndarray
    suffixes: np.ndarray
    yes: int
    no: int


@functools.cache
def wording() -> Wording:
    """Tokenise what is ever said."""
    pieces = tokenizer.build()
    before, _ = prompts.vicuna_v1("")
    suffixes = [
        pieces.encode(
            prompts.vicuna_v1(scenes.question(name) + prompts.SHORT_ANSWER)[1],
            add_special_tokens=False,
        )
        for name in scenes.NAMES
    ]
    for name, suffix in zip(scenes.NAMES, suffixes, strict=True):
        if suffix.tokens[NAME_AT] != f"▁{name}":
            raise ValueError(f"{name!r} is not token {NAME_AT} of {suffix.tokens}")
    return Wording(
        prompt=np.array(pieces.encode(before).ids, np.int32),
        suffixes=np.array([suffix.ids for suffix in suffixes], np.int32),
        yes=pieces.get_vocab()["▁Yes"],
        no=pieces.get_vocab()["▁No"],
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Questions:
    """A batch of questions, Q per picture, about K visual tokens of each.

    Attributes:
        features: float[G, K, Dv].
        categories: int32[G, K], what each token shows, −1 for background.
        asked: int32[G, Q], the category in question.
        present: bool[G, Q], whether the answer is yes.
    """

    features: jax.Array
    categories: jax.Array
    asked: jax.Array
    present: jax.Array


def ask(
    place: scenes.World, index: int, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw questions about a scene, half of them about what is there.

    Absent categories are drawn evenly: how often things occur and what accompanies them is
    for the model to find out, and to be misled by.

    Args:
        place: the world.
        index: the scene.
        count: questions Q, even.
        rng: source of chance.

    Returns:
        (int32[Q] category asked for, bool[Q] whether it is present).
    """
    plan = scenes.layout(place, index)
    yes = rng.choice(plan.present, count // 2, replace=len(plan.present) < count // 2)
    no = rng.choice(plan.absent, count // 2, replace=False)
    truth = np.arange(count) < count // 2
    return np.concatenate([yes, no]).astype(np.int32), truth


def keep(categories: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Choose tokens of one picture, objects first, the rest at random; raster order.

    Args:
        categories: int[N], −1 for background.
        count: tokens K.
        rng: source of chance.

    Returns:
        int[K].
    """
    priority = rng.random(categories.size) + (categories >= 0)
    return np.sort(np.argsort(-priority)[:count])
