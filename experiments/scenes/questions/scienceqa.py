"""ScienceQA-IMG's form on the embedded world (Lu et al. 2022): one picture, 2–5 options."""

from __future__ import annotations

import numpy as np

from experiments.scenes.facts import ASPECTS, draw, facts
from experiments.scenes.questions.base import LETTERS, Question, lettered
from experiments.scenes.worlds import World


def questions(place: World, index: int) -> list[Question]:
    """Ask one question of a random aspect with a random number of options."""
    rng = np.random.default_rng([place.seed, index, 4])
    fact = draw(facts(place, index), ASPECTS, rng)
    count = int(rng.integers(2, len(LETTERS) + 1))
    return [lettered(str(index), fact.aspect, fact, count, rng)]
