"""MME's coarse perception on the embedded world (Fu et al. 2023, "MME", §2).

Two questions per picture and category, one to be answered yes and one no; a picture
counts fully only if both are right.
"""

from __future__ import annotations

import numpy as np

from experiments.scenes.facts import facts, pick
from experiments.scenes.questions.base import Question, a_wrong, yes_no
from experiments.scenes.worlds import World

CATEGORIES = {"existence": "object", "count": "count", "position": "side", "color": "color"}
"""MME's category to the aspect of a scene."""


def questions(place: World, index: int) -> list[Question]:
    """Ask a pair of questions per category that the scene has a fact for."""
    rng = np.random.default_rng([place.seed, index, 3])
    found, rows = facts(place, index), []
    for category, aspect in CATEGORIES.items():
        fact = pick(found, aspect, rng)
        if fact is None:
            continue
        for number, answer in enumerate((fact.answer, a_wrong(fact, rng))):
            rows.append(yes_no(f"{category}/{index}.{number}", category, fact, answer))
    return rows
