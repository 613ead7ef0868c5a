"""The questions of a run, beside its records: what a scorer must know of them.

    <out>/questions-<16 digits of the data's sha256>.jsonl      a line per question

Settings with the same questions share the file. Records stay as they are: what is right is not
evidence of what a model said.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.harness.errors import InputError
from experiments.scoring.answer import Answer
from llava_jax import atomic

_SHA256 = re.compile("[0-9a-f]{16,64}")


@dataclasses.dataclass(frozen=True)
class Question:
    """What was asked.

    Attributes:
        key: unique within the benchmark.
        image: its picture.
        text: what the user said.
        split: the part of the benchmark it is reported in.
        category: a finer part.
        group: of questions that are scored together.
        choices: the answers, each by its first spelling.
        right: the right one as scorers spell it; empty if the question is open.
        options: texts of the lettered options.
        references: right answers of an open question.
    """

    key: str
    image: str
    text: str
    split: str
    category: str
    group: str
    choices: tuple[str, ...]
    right: str
    options: tuple[str, ...]
    references: tuple[str, ...]

    def answered(self, text: str) -> Answer:
        """Return the question with an answer, for a scorer."""
        return Answer(
            self.key,
            text,
            self.right,
            self.split,
            self.category,
            self.group,
            self.options,
            self.references,
        )


def path(out: pathlib.Path, data: str) -> pathlib.Path:
    """Return the file of a run folder's questions, by the sha256 of its data.

    Raises:
        InputError: that is no sha256.
    """
    if not _SHA256.fullmatch(data):
        raise InputError(f"{out}: the data's sha256 cannot be {data[:80]!r}")
    return out / f"questions-{data[:16]}.jsonl"


def write(out: pathlib.Path, data: str, questions: Iterable[Question]) -> None:
    """Write the questions, unless they are there."""
    file = path(out, data)
    if not file.exists():
        lines = (json.dumps(dataclasses.asdict(question)) for question in questions)
        atomic.write(file, "\n".join([*lines, ""]))


def read(out: pathlib.Path, data: str) -> Mapping[str, Question]:
    """Return the questions by key.

    Raises:
        InputError: the file is not there or not what ``write`` writes.
    """
    file = path(out, data)
    try:
        rows = map(json.loads, file.read_text("utf-8").splitlines())
        found = [Question(**{name: _value(value) for name, value in row.items()}) for row in rows]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{file} cannot be read: {reason}; the same command writes it") from None
    return {question.key: question for question in found}


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
