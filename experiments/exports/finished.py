"""A finished setting as its folder holds it: records, questions and run.json."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import importlib
import math
import operator
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.exports.tasks import TASKS
from experiments.harness import questions, records
from experiments.harness.benchmark import Benchmark
from experiments.harness.errors import InputError
from experiments.reporting import predictions
from experiments.scoring.answer import Answer


@dataclasses.dataclass(frozen=True)
class Row:
    """A question that was answered.

    Attributes:
        number: its place among the benchmark's questions, from 0.
        question: what was asked.
        record: the evidence.
        text: what was said; on the first-token route the likeliest choice.
        correct: whether that is right.
        confidence: probability of the text; on the first-token route of the likeliest choice
            among the choices.
    """

    number: int
    question: questions.Question
    record: records.Record
    text: str
    correct: bool
    confidence: float

    @property
    def answer(self) -> Answer:
        """The answer as scorers take it."""
        return self.question.answered(self.text)

    @property
    def right(self) -> str:
        """The right choice as the question spells it; empty if the question is open."""
        label, choices = self.record.label, self.question.choices
        return self.question.right if label is None or label >= len(choices) else choices[label]


@dataclasses.dataclass(frozen=True)
class Finished:
    """A setting with all its answers.

    Attributes:
        name: of the setting's folder.
        run: contents of its run.json.
        benchmark: that was asked.
        rows: in the benchmark's order.
        model: what the log calls it: the model's name and the setting's.
        when: it was answered.
    """

    name: str
    run: Mapping[str, Any]
    benchmark: Benchmark
    rows: tuple[Row, ...]
    model: str
    when: datetime.datetime

    @property
    def generated(self) -> bool:
        """Whether the answers are texts that the model said."""
        return self.run["identity"]["confidence"]["route"] == "generate"


def read(
    folder: pathlib.Path,
    *,
    model: str | None = None,
    when: datetime.datetime | None = None,
    allow_failed: bool = False,
) -> Finished:
    """Read a setting's folder.

    Args:
        folder: ``<out>/<setting>``.
        model: what to call the model; None for the first digits of its weights' sha256.
        when: it was answered; None for the time of its last record.
        allow_failed: go on although answers are missing.

    Raises:
        InputError: no run, not a known benchmark's, or not complete.
    """
    run, benchmark = _run(folder)
    identity = run["identity"]
    found = records.read_records(folder)
    if foreign := {record.run for record in found.values()} - {run["fingerprint"][:16]}:
        raise InputError(f"{folder} has records of another run {foreign.pop()}")
    missing = run["expected"]["rows"] - len(found)
    if not found or (missing and not allow_failed):
        raise InputError(
            f"{folder}: {missing} answers are missing; the command that began it goes on with it "
            "(--allow_failed exports those that are there)"
        )
    asked = questions.read(folder.parent, identity["data"]["sha256"])
    if unknown := found.keys() - asked.keys():
        raise InputError(f"{folder} has an answer to {min(unknown)}, which is no question of it")
    numbered = [(i, asked[key], found[key]) for i, key in enumerate(asked) if key in found]
    return Finished(
        name=folder.name,
        run=run,
        benchmark=benchmark,
        rows=tuple(_row(i, question, record, benchmark) for i, question, record in numbered),
        model=f"{model or 'llava_jax-' + identity['weights'][:8]}/{folder.name}",
        when=when or _last_record(folder),
    )


_FIELDS = {
    "fingerprint": str,
    "setting": dict,
    "expected.rows": int,
    "identity.benchmark": str,
    "identity.confidence.route": str,
    "identity.data.sha256": str,
    "identity.dtype": str,
    "identity.weights": str,
}
"""What is used of a run.json, by its way there."""


def _run(folder: pathlib.Path) -> tuple[dict[str, Any], Benchmark]:
    """Return a folder's run.json and the benchmark that it names."""
    try:
        run = predictions.read_run(folder)
        for name, kind in _FIELDS.items():
            value = functools.reduce(operator.getitem, name.split("."), run)
            if not isinstance(value, kind):
                raise TypeError(f"{name} is {value!r}")
    except OSError as error:
        raise InputError(f"--run={folder} is no setting's folder: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}/{records.RUN} does not describe a run: {error!r}") from None
    name = run["identity"]["benchmark"]
    if name not in TASKS:
        raise InputError(f"{folder}/{records.RUN}: no benchmark is called {name!r}")
    return run, importlib.import_module(f"experiments.{name}").BENCHMARK


def _row(
    number: int, question: questions.Question, record: records.Record, benchmark: Benchmark
) -> Row:
    """Return a question with its answer and what that is worth."""
    if record.text is not None:
        said, confidence = record.text, _of_text(record)
        correct = benchmark.correct(question.answered(said))
        return Row(number, question, record, said, correct, confidence)
    best = int(np.argmax(record.log_masses))
    confidence = math.exp(record.log_masses[best] - np.logaddexp.reduce(record.log_masses))
    said, correct = question.choices[best], best == record.label
    return Row(number, question, record, said, correct, min(confidence, 1.0))


def _of_text(record: records.Record) -> float:
    """Return the probability of a text as results.json measures it."""
    alone = predictions.of_text([record], [record.split], {record.key: True}, per_token=False)
    return math.exp(alone.log_masses[0, 0])


def _last_record(folder: pathlib.Path) -> datetime.datetime:
    """Return when the last record was written, to the second."""
    last = max(file.stat().st_mtime for file in folder.glob("records-*.jsonl"))
    return datetime.datetime.fromtimestamp(int(last), datetime.UTC)
