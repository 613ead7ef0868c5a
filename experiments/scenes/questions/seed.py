"""SEED-Bench's form on the embedded world (Li et al. 2023): always four options, by type."""

from __future__ import annotations

import numpy as np

from experiments.scenes.facts import facts, pick
from experiments.scenes.questions.base import Question, lettered
from experiments.scenes.worlds import World

TYPES = {
    "Scene Understanding": "scene",
    "Instance Identity": "object",
    "Instance Attributes": "color",
    "Instance Location": "place",
    "Instances Counting": "count",
}
"""SEED's question types 1–5 to the aspect of a scene."""


def questions(place: World, index: int) -> list[Question]:
    """Ask one question per type that the scene has a fact for."""
    rng = np.random.default_rng([place.seed, index, 6])
    found, rows = facts(place, index), []
    for number, (kind, aspect) in enumerate(TYPES.items(), 1):
        fact = pick(found, aspect, rng)
        if fact is not None:
            rows.append(lettered(f"{10 * index + number}", kind, fact, 4, rng))
    return rows
