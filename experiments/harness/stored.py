"""Answers that were stored by this or another tool, to be scored against a benchmark.

JSON lines with ``text``, and ``key`` or, as LLaVA's answer files have it, ``question_id``. One that
the two questions of a picture share (MME) is taken in their order; POPE's, which repeat in its
three splits, need ``split`` beside them.
"""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments.harness.benchmark import Example
from experiments.harness.errors import InputError
from experiments.reading import files
from experiments.scoring.answer import Answer


def read(file: pathlib.Path, examples: Sequence[Example]) -> list[Answer]:
    """Return the answers in the order of the questions; a question may lack one.

    Args:
        file: JSON lines.
        examples: the benchmark's questions.

    Raises:
        InputError: a line fits no question, a question has two answers, or there is none.
    """
    waiting = _by_name(examples)
    found: dict[str, str] = {}
    for number, row in files.json_lines(file):
        files.require(row, ("text",), f"{file} line {number}")
        name = _name(row, f"{file} line {number}")
        if not waiting.get(name):
            raise InputError(f"{file} line {number}: no question {name!r} is left to be answered")
        key = waiting[name].popleft()
        if key in found:
            raise InputError(f"{file} line {number}: question {key} has an answer already")
        found[key] = str(row["text"])
    if not found:
        raise InputError(f"{file} has no answers")
    return [e.question.answered(found[e.key]) for e in examples if e.key in found]


def _name(row: dict[str, Any], where: str) -> str:
    if "key" in row:
        return str(row["key"])
    if "question_id" not in row:
        raise InputError(f"{where} has neither key nor question_id")
    return f"{row['split']}/{row['question_id']}" if "split" in row else str(row["question_id"])


def _by_name(examples: Sequence[Example]) -> dict[str, collections.deque[str]]:
    """Return the keys that a name may mean: itself, or those that number the same name."""
    waiting: dict[str, collections.deque[str]] = collections.defaultdict(collections.deque)
    for example in examples:
        for name in {example.key, example.key.partition("#")[0]}:
            waiting[name].append(example.key)
    return waiting
