"""A question about a scene in one of three forms: yes or no, one word, an option's letter."""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.scenes.facts import Fact

LETTERS = "ABCDE"


@dataclasses.dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        key: unique among a benchmark's questions in one world.
        part: split, category or type that it is reported in.
        subject: the category it is about, empty if about none or about its options.
        text: what is asked, without options and without the request for a form of answer.
        options: texts of options A, B, …; empty if it is not lettered.
        answer: "yes" or "no", a word, or the right option's letter.
    """

    key: str
    part: str
    subject: str
    text: str
    options: tuple[str, ...]
    answer: str


def yes_no(key: str, part: str, fact: Fact, answer: str) -> Question:
    """Ask whether an answer is true."""
    truth = "yes" if answer == fact.answer else "no"
    subject = answer if fact.aspect == "object" else fact.subject
    return Question(key, part, subject, fact.ask_whether(answer), (), truth)


def one_word(key: str, part: str, fact: Fact) -> Question:
    """Ask for the answer in a word."""
    return Question(key, part, fact.subject, fact.ask(), (), fact.answer)


def lettered(key: str, part: str, fact: Fact, count: int, rng: np.random.Generator) -> Question:
    """Ask for the right one of ``count`` options, fewer if there are not enough wrong answers."""
    count = min(count, 1 + len(fact.wrong))
    wrong = [fact.wrong[i] for i in rng.permutation(len(fact.wrong))[: count - 1]]
    order = rng.permutation(count)
    options = tuple((fact.answer, *wrong)[i] for i in order)
    subject = "" if fact.aspect == "object" else fact.subject
    answer = LETTERS[options.index(fact.answer)]
    return Question(key, part, subject, fact.ask(), options, answer)


def a_wrong(fact: Fact, rng: np.random.Generator) -> str:
    """Draw one of a fact's wrong answers."""
    return fact.wrong[rng.integers(len(fact.wrong))]
