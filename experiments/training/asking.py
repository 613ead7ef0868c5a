"""What is asked about a scene in training, and which of its visual tokens are shown.

Axis letters: G pictures, K visual tokens.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from experiments import scenes
from experiments.scenes.questions.base import a_wrong, lettered, one_word, yes_no
from experiments.training.teaching import Block

_QUALITIES = ("color", "count", "side", "place", "scene")
_IN_ONE_WORD = ("color", "count", "side", "scene")


@dataclasses.dataclass(frozen=True)
class Mix:
    """How many questions of each kind a picture is asked in one step."""

    existence: int = 6
    yes_no: int = 2
    one_word: int = 2
    lettered: int = 4


def ask(
    place: scenes.World, index: int, mix: Mix, rng: np.random.Generator
) -> tuple[list[scenes.Question], list[scenes.Question]]:
    """Draw questions about a scene.

    Half of those about existence are about what is there. Absent categories are drawn
    evenly: how often things occur and what accompanies them is for the model to find out,
    and to be misled by.

    Args:
        place: the world.
        index: the scene.
        mix: how many of each kind.
        rng: source of chance.

    Returns:
        (questions without options, questions with options).
    """
    found = scenes.facts(place, index)
    short = []
    for i in range(mix.existence):
        fact = scenes.draw(found, ("object",), rng)
        short.append(yes_no("", "", fact, a_wrong(fact, rng) if i % 2 else fact.answer))
    for i in range(mix.yes_no):
        fact = scenes.draw(found, _QUALITIES, rng)
        short.append(yes_no("", "", fact, a_wrong(fact, rng) if i % 2 else fact.answer))
    short += [one_word("", "", scenes.draw(found, _IN_ONE_WORD, rng)) for _ in range(mix.one_word)]
    long = [
        lettered("", "", scenes.draw(found, scenes.ASPECTS, rng), int(rng.integers(2, 6)), rng)
        for _ in range(mix.lettered)
    ]
    return short, long


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Pictures with questions of both lengths.

    Attributes:
        features: float[G, K, Dv].
        tokens: int32[G, K], the place of each among the N.
        positions: int32[G, K], the position of each, counted from the picture's start.
        span: int32[G], positions that each picture occupies.
        categories: int32[G, K], what each token shows, −1 for background.
        colours: int32[G, K], its colour, −1 for background.
        blocks: questions without and with options; a kind that is not asked is left out.
    """

    features: jax.Array
    tokens: jax.Array
    positions: jax.Array
    span: jax.Array
    categories: jax.Array
    colours: jax.Array
    blocks: tuple[Block, ...]


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


def spread(count: int, num_tokens: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Give the shown tokens positions: one after the other in half of the cases, else with gaps.

    Gaps let a few tokens stand for pictures of every length; a decoder that was taught at few
    lengths answers worse at the others.

    Args:
        count: tokens K.
        num_tokens: visual tokens N, the longest picture.
        rng: source of chance.

    Returns:
        (int[K] rising positions, the number of positions that the picture occupies).
    """
    span = count if rng.random() < 0.5 else int(rng.integers(count, num_tokens + 1))
    return np.sort(rng.choice(span, count, replace=False)), span
