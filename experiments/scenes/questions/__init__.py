"""Miniatures of the benchmarks, asked about the embedded world."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from experiments.scenes.questions import gqa, mmbench, mme, pope, scienceqa, seed, textvqa
from experiments.scenes.questions.base import LETTERS, Question
from experiments.scenes.worlds import World

__all__ = ["LETTERS", "MINIATURES", "Miniature", "Question"]


@dataclasses.dataclass(frozen=True)
class Miniature:
    """A benchmark in small.

    Attributes:
        questions: world and index of a scene to the questions about it.
        trained: whether the embedded model was taught such questions; otherwise they prove
            the plumbing only.
    """

    questions: Callable[[World, int], list[Question]]
    trained: bool


MINIATURES = {
    "pope": Miniature(pope.questions, trained=True),
    "scienceqa": Miniature(scienceqa.questions, trained=True),
    "mme": Miniature(mme.questions, trained=True),
    "mmbench": Miniature(mmbench.questions, trained=True),
    "seed": Miniature(seed.questions, trained=True),
    "gqa": Miniature(gqa.questions, trained=True),
    "textvqa": Miniature(textvqa.questions, trained=False),
}
