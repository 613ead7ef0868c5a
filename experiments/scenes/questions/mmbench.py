"""MMBench's form on the embedded world: circular questions (Liu et al. 2023, §3.3).

A base question of 2–4 options is asked once per rotation of its options; it counts as
answered only if every rotation is answered rightly.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.scenes.facts import draw, facts
from experiments.scenes.questions.base import LETTERS, Question, lettered
from experiments.scenes.worlds import World

CIRCULAR = 1_000_000  # between the indices of a base question's rotations, as in MMBench's files
PARTS = {
    "object": "object_localization",
    "color": "attribute_recognition",
    "place": "spatial_relationship",
    "scene": "image_scene",
}
"""Aspect of a scene to the MMBench category that is nearest."""


def rotations(question: Question) -> list[Question]:
    """Return a base question and its rotations: options move right, the answer with them."""
    rows, base = [], int(question.key)
    for k in range(len(question.options)):
        cut = len(question.options) - k
        options = question.options[cut:] + question.options[:cut]
        right = (LETTERS.index(question.answer) + k) % len(options)
        key = str(base + k * CIRCULAR)
        rows.append(dataclasses.replace(question, key=key, options=options, answer=LETTERS[right]))
    return rows


def questions(place: World, index: int) -> list[Question]:
    """Ask one base question about a scene, all its rotations in turn."""
    rng = np.random.default_rng([place.seed, index, 5])
    fact = draw(facts(place, index), tuple(PARTS), rng)
    count = int(rng.integers(2, 5))
    return rotations(lettered(str(index), PARTS[fact.aspect], fact, count, rng))
