"""Parts of a benchmark: means over answers, and the same numbers part by part."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from experiments.scoring.answer import Answer

Numbers = Mapping[str, float]
"""Name → number, of some answers."""


def mean(answers: Sequence[Answer], points: Callable[[Answer], float]) -> float:
    """Return the mean of what each answer earns.

    Args:
        answers: at least one.
        points: of an answer, as whether it is right.
    """
    return statistics.fmean(map(points, answers))


def parts(answers: Sequence[Answer], name: Callable[[Answer], str]) -> dict[str, list[Answer]]:
    """Return the answers of each part, parts and answers in the order they came.

    Args:
        answers: of all parts.
        name: of an answer's part; an answer without one is in none.
    """
    found: dict[str, list[Answer]] = {}
    for answer in answers:
        if part := name(answer):
            found.setdefault(part, []).append(answer)
    return found


def per_part(
    answers: Sequence[Answer],
    name: Callable[[Answer], str],
    numbers: Callable[[Sequence[Answer]], Numbers],
) -> dict[str, float]:
    """Return the numbers of each part under its name, a dot and their own.

    Args:
        answers: of all parts.
        name: of an answer's part; an answer without one is in none.
        numbers: of the answers of one part, which are never none.
    """
    return {
        f"{part}.{number}": value
        for part, rows in parts(answers, name).items()
        for number, value in numbers(rows).items()
    }
