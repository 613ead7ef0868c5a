"""POPE's protocol on the embedded world.

Per picture and split: three present and three absent categories, asked in turn (yes,
no, yes, …). The three positives are the same in every split. Negatives are drawn at
random, or are the most frequent absent categories, or those that most often accompany
what the picture shows (Li et al. 2023, "Evaluating Object Hallucination", §5.1).
"""

from __future__ import annotations

import functools

import numpy as np

from experiments.scenes.categories import CATEGORIES, NAMES
from experiments.scenes.facts import Fact
from experiments.scenes.questions.base import Question, yes_no
from experiments.scenes.worlds import FEWEST_PRESENT, World, draft, layout, world

SPLITS = ("random", "popular", "adversarial")
COUNTED = 2000  # scenes of the train world behind frequencies and company
ASKED = FEWEST_PRESENT  # questions per answer, split and picture


@functools.cache
def company() -> np.ndarray:
    """Count in how many train scenes two categories stand together, int64[40, 40].

    The diagonal holds each category's own frequency.
    """
    held = np.zeros((COUNTED, len(CATEGORIES)), np.int64)
    train = world("train")
    for index in range(COUNTED):
        _, placements = draft(train, index)
        held[index, [placement.category for placement in placements]] = 1
    return held.T @ held


def _most(scores: np.ndarray, candidates: tuple[int, ...]) -> list[int]:
    """Pick the three candidates of highest score, the lower index first on a tie."""
    return sorted(candidates, key=lambda i: (-int(scores[i]), i))[:ASKED]


def negatives(place: World, index: int, split: str, rng: np.random.Generator) -> list[int]:
    """Choose the absent categories that a split asks for."""
    plan = layout(place, index)
    present, absent = plan.present, plan.absent
    if split == "random":
        return [int(i) for i in rng.permutation(absent)[:ASKED]]
    if split == "popular":
        return _most(company().diagonal(), absent)
    if split == "adversarial":
        return _most(company()[list(present)].sum(axis=0), absent)
    raise ValueError(f"no split {split!r}; the splits are {', '.join(SPLITS)}")


def questions(place: World, index: int) -> list[Question]:
    """Ask POPE's eighteen questions about a scene, without rendering it.

    Args:
        place: the world.
        index: the scene's index in it.

    Returns:
        The questions in the order of SPLITS, six each, numbered as in POPE's files.
    """
    rng = np.random.default_rng([place.seed, index, 2])
    present = layout(place, index).present
    positives = [int(i) for i in rng.permutation(present)[:ASKED]]
    rows = []
    for split in SPLITS:
        for yes, no in zip(positives, negatives(place, index, split, rng), strict=True):
            fact = Fact("object", NAMES[yes], NAMES[yes], (NAMES[no],))
            for answer in (NAMES[yes], NAMES[no]):
                key = f"{split}/{2 * ASKED * index + len(rows) % (2 * ASKED) + 1}"
                rows.append(yes_no(key, split, fact, answer))
    return rows
