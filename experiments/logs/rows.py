"""What a log holds as arrays. Axis letters: E examples, C choices."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from absl import logging

from experiments.harness.errors import InputError

_NEIGHBOUR = {
    1.0: float(np.nextafter(np.float32(1), np.float32(0))),
    0.0: float(np.finfo(np.float32).tiny),
}


@dataclasses.dataclass(frozen=True)
class Rows:
    """A log's evidence as arrays, rows in the log's order.

    Attributes:
        source: the log, for headings.
        key: E of them, unique.
        log_masses: float32[E, C], a natural-log score per choice up to a constant of the row,
            −inf where a row has fewer choices.
        valid: bool[E, C], choices that a row has.
        label: int32[E], the right choice.
        prediction: int32[E], the choice the tool took for the answer; None is the argmax.
        answer_log_mass: float32[E] ≤ 0, log probability of all choices together, None if unknown.
        group: int32[E], 0 … number of groups − 1, the unit of resampling.
        split: int32[E], index into splits, None if the log has one.
        splits: names, none if the log has one.
    """

    source: str
    key: tuple[str, ...]
    log_masses: np.ndarray
    valid: np.ndarray
    label: np.ndarray
    prediction: np.ndarray | None
    answer_log_mass: np.ndarray | None
    group: np.ndarray
    split: np.ndarray | None
    splits: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Scored:
    """One question with a score per choice.

    Attributes:
        key: of the question.
        log_masses: natural-log scores, None where a choice was not offered.
        label: the right choice.
        prediction: the choice the tool took for the answer, None for the likeliest.
        answer_log_mass: log probability of all choices together.
        group: what it is resampled with, None for itself alone.
        split: part of the log.
    """

    key: str
    log_masses: tuple[float | None, ...]
    label: int
    prediction: int | None = None
    answer_log_mass: float | None = None
    group: str | None = None
    split: str | None = None


@dataclasses.dataclass(frozen=True)
class Rated:
    """One answer with a confidence.

    Attributes:
        key: of the question.
        confidence: in [0, 1], that the answer is right.
        correct: whether it is.
        group: what it is resampled with, None for itself alone.
        split: part of the log.
    """

    key: str
    confidence: float
    correct: bool
    group: str | None = None
    split: str | None = None


def stack(source: str, rows: Sequence[Scored]) -> Rows:
    """Join questions to arrays.

    Args:
        source: the log, for headings.
        rows: E of them.

    Raises:
        InputError: no rows, two of a key, or an answer_log_mass on some rows only.
    """
    if not rows:
        raise InputError(f"{source}: no rows to measure")
    key = tuple(row.key for row in rows)
    if repeated := [name for name, count in collections.Counter(key).items() if count > 1]:
        raise InputError(f"{source}: two rows are called {repeated[0]!r}; a row's name is unique")
    log_masses = np.full((len(rows), max(len(row.log_masses) for row in rows)), -np.inf, np.float32)
    for into, row in zip(log_masses, rows, strict=True):
        into[: len(row.log_masses)] = [-np.inf if x is None else x for x in row.log_masses]
    group, _ = _numbered(i if row.group is None else row.group for i, row in enumerate(rows))
    split, splits = _numbered(row.split or "" for row in rows)
    return Rows(
        source=source,
        key=key,
        log_masses=log_masses,
        valid=np.isfinite(log_masses),
        label=np.array([row.label for row in rows], np.int32),
        prediction=_predictions(rows, log_masses),
        answer_log_mass=_answer_log_masses(source, rows),
        group=group,
        split=split if len(splits) > 1 else None,
        splits=tuple(map(str, splits)) if len(splits) > 1 else (),
    )


def stack_rated(source: str, rows: Sequence[Rated]) -> Rows:
    """Join answers to arrays of the event that the answer given was right.

    Choice 0 is that it was and has the mass c, choice 1 that it was not and has 1 − c; choice 0
    is the prediction whatever c. An event that was given no chance and came to pass would be an
    infinite loss: c is then the float32 next to 1 or to 0, and a warning says how often.

    Args:
        source: the log, for headings.
        rows: E of them.

    Raises:
        InputError: no rows, or two of a key.
    """
    surprises = sum(row.confidence == (0 if row.correct else 1) for row in rows)
    if surprises:
        logging.warning(
            "%s: answers of confidence 1 that are wrong, or 0 that are right: %d; an infinite "
            "loss, counted with the float32 next to it",
            source,
            surprises,
        )
    return stack(source, [_event(row) for row in rows])


def _event(row: Rated) -> Scored:
    """Return the two-choice event that an answer was right."""
    certain = row.confidence == 1 and row.correct
    confidence = 1.0 if certain else _NEIGHBOUR.get(row.confidence, row.confidence)
    return Scored(
        key=row.key,
        log_masses=(math.log(confidence), None if certain else math.log1p(-confidence)),
        label=0 if row.correct else 1,
        prediction=0,
        group=row.group,
        split=row.split,
    )


def _numbered(names: Iterable[Hashable]) -> tuple[np.ndarray, list[Hashable]]:
    """Return int32[E] indices of names and the distinct names, in order of appearance."""
    known: dict[Hashable, int] = {}
    numbers = [known.setdefault(name, len(known)) for name in names]
    return np.array(numbers, np.int32), list(known)


def _predictions(rows: Sequence[Scored], log_masses: np.ndarray) -> np.ndarray | None:
    """Return the tool's choices, the likeliest where it has none, None if it has none at all."""
    likeliest = np.argmax(log_masses, axis=1)
    given = [row.prediction for row in rows]
    if all(choice is None for choice in given):
        return None
    pairs = zip(given, likeliest, strict=True)
    return np.array([best if choice is None else choice for choice, best in pairs], np.int32)


def _answer_log_masses(source: str, rows: Sequence[Scored]) -> np.ndarray | None:
    """Return the mass on all choices, None if no row has one."""
    given = [row.answer_log_mass for row in rows]
    if all(mass is None for mass in given):
        return None
    if None in given:
        lacking = rows[given.index(None)].key
        raise InputError(f"{source}: {lacking} has no answer_log_mass and others have; give all")
    return np.array(given, np.float32)
