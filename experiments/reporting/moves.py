"""Two settings row by row: whose evidence moved, by how much, and what became of the numbers.

Two rows of a key are the same if all their evidence is, bit for bit or within a tolerance: log
masses, first token, text, and the log probabilities of its tokens. Which tokens were kept is
counted apart. Axis legend: C choices, M tokens of a text.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.harness import questions, records
from experiments.harness.errors import InputError
from experiments.harness.records import Record
from experiments.reporting import evaluation, predictions
from experiments.reporting.evaluation import Scorer

METRICS = ("accuracy", "ece", "brier", "nll", "aurc")


@dataclasses.dataclass(frozen=True)
class Move:
    """A question that two settings answered differently.

    Attributes:
        key: of the question.
        image: its picture.
        split: the part of the benchmark it is reported in.
        said: what either took for the answer: a text, or the likeliest choice (its
            index, if the run is older than the questions file).
        log_prob: change of the right choice's log probability among the choices, second − first;
            None where the question has no choices or none of them is right.
        confidence: change of the answer's probability.
        evidence: whether more than the kept tokens differs.
        kept: whether the kept tokens differ.
    """

    key: str
    image: str
    split: str
    said: tuple[str, str]
    log_prob: float | None
    confidence: float
    evidence: bool
    kept: bool

    @property
    def flipped(self) -> bool:
        """Whether the answer is another."""
        return self.said[0] != self.said[1]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two settings beside each other.

    Attributes:
        names: of their folders.
        identity: what was run differently, ``name: first → second``.
        only: keys that one of them alone has: (of the first, of the second).
        moves: rows of which evidence or kept tokens differ, sorted by key.
        num_same: rows that are the same.
        metrics: metric → its two values, None where there is no number; empty if all evidence is
            the same.
    """

    names: tuple[str, str]
    identity: tuple[str, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]
    moves: tuple[Move, ...]
    num_same: int
    metrics: Mapping[str, tuple[float | None, float | None]]

    @property
    def differs(self) -> bool:
        """Whether a row moved or is in one only."""
        return bool(self.moves or any(self.only))


def compare(
    one: pathlib.Path, other: pathlib.Path, scorer: Callable[[str], Scorer], tolerance: float = 0.0
) -> Pair:
    """Compare two settings' folders.

    Args:
        one: of the first setting.
        other: of the second.
        scorer: benchmark's name → benchmark.
        tolerance: difference of log masses and log probabilities up to which a row is the same.

    Raises:
        InputError: a folder is no setting's, or its records cannot be measured.
    """
    run, run_now = (_read_run(folder) for folder in (one, other))
    first, second = (records.read_records(folder) for folder in (one, other))
    both = sorted(first.keys() & second.keys())
    choices = _choices(one.parent, run)
    moves = [
        move
        for key in both
        if (move := _move(first[key], second[key], choices.get(key, ()), tolerance))
    ]
    only = (tuple(sorted(first.keys() - second)), tuple(sorted(second.keys() - first)))
    moved = any(only) or any(move.evidence for move in moves)
    return Pair(
        names=(one.name, other.name),
        identity=tuple(
            line for part in _PARTS for line in _differences(run[part], run_now[part], part)
        ),
        only=only,
        moves=tuple(moves),
        num_same=len(both) - len(moves),
        metrics=_metrics(one, other, scorer) if moved else {},
    )


_PARTS = ("identity", "versions")


def _read_run(folder: pathlib.Path) -> dict[str, Any]:
    """Return a run.json that has what is compared."""
    try:
        run = predictions.read_run(folder)
        if not all(isinstance(run[part], dict) for part in _PARTS):
            raise TypeError(_PARTS)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise InputError(f"{folder / records.RUN} does not describe a setting") from None
    return run


def _choices(out: pathlib.Path, run: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
    """Return key → its choices; none if the run is older than the questions file."""
    try:
        asked = questions.read(out, run["identity"]["data"]["sha256"])
    except (InputError, LookupError, TypeError):
        return {}
    return {key: question.choices for key, question in asked.items()}


def _differences(one: Any, other: Any, name: str) -> Iterator[str]:
    """Yield ``name: first → second`` for every leaf that differs."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            yield from _differences(one.get(key), other.get(key), f"{name}.{key}")
    elif one != other:
        yield f"{name}: {_short(one)} → {_short(other)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _move(one: Record, other: Record, choices: Sequence[str], tolerance: float) -> Move | None:
    """Return what moved between two answers to a question, None if they are the same."""
    evidence, kept = not _same(one, other, tolerance), one.kept != other.kept
    if not (evidence or kept):
        return None
    (said, confidence), (said_now, confidence_now) = (_answer(row, choices) for row in (one, other))
    right, right_now = _right(one), _right(other)
    known = right is not None and right_now is not None
    return Move(
        key=one.key,
        image=one.image,
        split=one.split,
        said=(said, said_now),
        log_prob=right_now - right if known else None,
        confidence=confidence_now - confidence,
        evidence=evidence,
        kept=kept,
    )


def _same(one: Record, other: Record, tolerance: float) -> bool:
    """Return whether all evidence but the kept tokens is the same."""
    numbers = [
        (*row.log_masses, *(row.text_log_probs or ()), row.answer_log_mass or 0.0)
        for row in (one, other)
    ]
    fixed = [(row.label, row.token, row.text, len(row.log_masses)) for row in (one, other)]
    if fixed[0] != fixed[1] or len(numbers[0]) != len(numbers[1]):
        return False
    return all(abs(a - b) <= tolerance for a, b in zip(*numbers, strict=True))


def _answer(row: Record, choices: Sequence[str]) -> tuple[str, float]:
    """Return what a row took for the answer, and its probability."""
    if row.text is not None:
        return row.text, math.exp(min(math.fsum(row.text_log_probs or ()), 0.0))
    if not row.log_masses:
        return "", math.nan
    best = int(np.argmax(row.log_masses))
    said = choices[best] if best < len(choices) else str(best)
    return said, math.exp(row.log_masses[best] - np.logaddexp.reduce(row.log_masses))


def _right(row: Record) -> float | None:
    """Return the right choice's log probability among the choices."""
    if row.label is None or row.label >= len(row.log_masses):
        return None
    return float(row.log_masses[row.label] - np.logaddexp.reduce(row.log_masses))


def _metrics(
    one: pathlib.Path, other: pathlib.Path, scorer: Callable[[str], Scorer]
) -> dict[str, tuple[float | None, float | None]]:
    """Return metric → its values on either setting's rows."""
    found = []
    for folder in (one, other):
        try:
            benchmark = scorer(str(_read_run(folder)["identity"]["benchmark"]))
            found.append(evaluation.of_setting(folder, benchmark, "default")["metrics"])
        except (LookupError, TypeError, AttributeError, ArithmeticError):
            raise InputError(f"{folder / records.RUN} does not describe a setting") from None
    return {name: (found[0][name]["value"], found[1][name]["value"]) for name in METRICS}


def table(pairs: Sequence[Pair]) -> str:
    """Return CSV lines of every row that moved, spelt so that no spreadsheet takes one as formula.

    Args:
        pairs: of settings.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("first", "second", "key", "image", "split", "first_said", "second_said", "flipped")
    writer.writerow([*names, "evidence", "kept", "log_prob_change", "confidence_change"])
    for pair in pairs:
        for m in pair.moves:
            words = (*pair.names, m.key, m.image, m.split, *m.said)
            marks = (int(m.flipped), int(m.evidence), int(m.kept))
            log_prob = "" if m.log_prob is None else repr(m.log_prob)
            writer.writerow([*map(_no_formula, words), *marks, log_prob, repr(m.confidence)])
    return text.getvalue()


def _no_formula(word: str) -> str:
    return f"'{word}" if word[:1] in ("=", "+", "-", "@", "\t", "\r") and word[:1] else word
