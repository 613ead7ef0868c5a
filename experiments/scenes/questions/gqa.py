"""GQA's form on the embedded world (Hudson & Manning 2019): one word, query or verify."""

from __future__ import annotations

import numpy as np

from experiments.scenes.facts import facts, pick
from experiments.scenes.questions.base import Question, a_wrong, one_word, yes_no
from experiments.scenes.worlds import World

QUERIED = ("color", "count", "side", "scene")
VERIFIED = ("object", "color", "side", "scene")


def questions(place: World, index: int) -> list[Question]:
    """Ask for an answer per queried aspect, and whether one is true per verified aspect."""
    rng = np.random.default_rng([place.seed, index, 7])
    found, rows = facts(place, index), []
    for aspect in QUERIED:
        fact = pick(found, aspect, rng)
        if fact is not None:
            rows.append(one_word(f"{index}q{len(rows)}", "query", fact))
    for aspect in VERIFIED:
        fact = pick(found, aspect, rng)
        if fact is not None:
            answer = fact.answer if rng.random() < 0.5 else a_wrong(fact, rng)
            rows.append(yes_no(f"{index}v{len(rows)}", "verify", fact, answer))
    return rows
