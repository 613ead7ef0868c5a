"""Samples of lm-eval: the log-likelihood of every choice of a multiple-choice task."""

from __future__ import annotations

import pathlib
import re
import string
from collections.abc import Sequence
from typing import Any

from absl import logging

from experiments.harness.errors import InputError
from experiments.logs import json_files, values
from experiments.logs.rows import Rows, Scored, stack

_NAME = re.compile(r"samples_(?P<task>.+)_\d{4}-\d\d-\d\dT[\d.-]+")
_Sample = dict[str, Any]


def read(path: str) -> Rows:
    """Read ``samples_<task>_<time>.jsonl``, or all of them in a folder, a split for each task.

    A choice's score is the sum of its tokens' log-likelihoods, which ``acc`` compares, less the
    question's largest: float32 then keeps what tells choices apart. Where a sample has ``acc`` it
    must agree. Tasks of generated text are left out, with a warning. One document in several
    tasks is resampled as one.

    Args:
        path: of the file or the folder.

    Raises:
        InputError: a damaged file, or one that contradicts itself.
    """
    place = pathlib.Path(path)
    files = sorted(place.glob("samples_*.jsonl")) if place.is_dir() else [place]
    if not files:
        raise InputError(f"{path}: no samples_*.jsonl in it; lm_eval --log_samples writes them")
    tasks: dict[str, pathlib.Path] = {}
    for file in files:
        first = tasks.setdefault(_task(file), file)
        if first != file:
            raise InputError(f"{file}: {first} is of the same task; name one of them")
    return stack(f"lmeval:{path}", [row for task in tasks for row in _read(tasks[task], task)])


def _task(file: pathlib.Path) -> str:
    """Return the task of a samples file, from its name."""
    named = _NAME.fullmatch(file.stem)
    return named["task"] if named else file.stem


def _read(file: pathlib.Path, task: str) -> list[Scored]:
    """Return the questions of a file as the first of its filters left them."""
    samples = list(json_files.lines(file))
    with json_files.reading(str(file), "samples as lm-eval writes them"):
        kept = [pair for pair in samples if pair[1].get("filter") == samples[0][1].get("filter")]
        if kept and all(isinstance(sample["filtered_resps"][0], str) for _, sample in kept):
            logging.warning("%s: generated text, no log-likelihoods; left out", file)
            return []
    rows = []
    for where, sample in kept:
        with json_files.reading(where, "a multiple-choice sample as lm-eval writes it"):
            rows.append(_scored(sample, task, f"{where}, doc_id {sample['doc_id']}"))
    return rows


def _scored(sample: _Sample, task: str, where: str) -> Scored:
    """Return a sample's row."""
    pairs = list(sample["filtered_resps"])
    if "acc_mutual_info" in sample:  # the choices again, without the question
        pairs = pairs[: len(pairs) // 2]
    if len(pairs) < 2:
        raise InputError(f"{where}: {len(pairs)} log-likelihood; one for each choice is needed")
    scores = [values.number(score, f"{where}: log-likelihood") for score, _ in pairs]
    best = max(scores)
    label = _label(sample, len(scores), where)
    if "acc" in sample and (scores.index(best) == label) != (sample["acc"] == 1):
        raise InputError(
            f"{where}: acc is {sample['acc']}, but choice {scores.index(best)} is the likeliest "
            f"and {label} the target {sample['target']!r}"
        )
    key = f"{task}/{sample['doc_id']}"
    return Scored(
        key=key,
        log_masses=tuple(score - best for score in scores),
        label=label,
        group=str(sample.get("doc_hash", key)),
        split=task,
    )


def _label(sample: _Sample, count: int, where: str) -> int:
    """Return the right choice: its index as lm-eval spells it, its text, or a letter."""
    target = str(sample["target"])
    if target.isdecimal():
        return values.choice(target, count, f"{where}: target")
    texts = _texts(sample, count)
    if texts.count(target.strip()) == 1:
        return texts.index(target.strip())
    if target in string.ascii_uppercase[:count] and len(target) == 1:
        return string.ascii_uppercase.index(target)
    raise InputError(
        f"{where}: target {target!r} is neither the index of one choice nor its text, of "
        f"{', '.join(map(repr, texts))}"
    )


def _texts(sample: _Sample, count: int) -> Sequence[str]:
    """Return the choices as the model continued with them, without surrounding spaces."""
    asked = [sample["arguments"][f"gen_args_{index}"] for index in range(count)]
    return [str(request["arg_1"]).strip() for request in asked]
