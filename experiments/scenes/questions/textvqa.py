"""TextVQA's form on the embedded world (Singh et al. 2019): a word is on a sign.

Plumbing only: the miniature was never taught to read.
"""

from __future__ import annotations

from experiments.scenes.questions.base import Question
from experiments.scenes.signs import sign
from experiments.scenes.worlds import World


def questions(place: World, index: int) -> list[Question]:
    """Ask for the word on the sign; see ``signs.with_sign`` for the picture."""
    word = sign(place, index).word.lower()
    return [Question(str(index), "sign", "", "What word is on the sign?", (), word)]
