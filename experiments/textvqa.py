"""TextVQA: what is written in the picture? (Singh et al. 2019, "Towards VQA Models That Can Read").

    python -m experiments.textvqa --pruner=scope --alpha=0
    python -m experiments.textvqa --model=llava-1.5-7b-hf --data=textvqa --pruner=scope --budget=64
    python -m experiments.textvqa --data=textvqa --textvqa_ocr=off

``--data`` is a folder with ``TextVQA_0.5.1_val.json``, ``TextVQA_Rosetta_OCR_v0.2_val.json`` and
the pictures in ``train_images/``, or the first of these files under any name; a folder or hub id in
the layout of ``lmms-lab/textvqa``; or ``scenes``, the embedded world with a sign in each picture.

``--textvqa_ocr=on`` shows the model the words that an OCR system found, as LLaVA's published
numbers do: 58.2 for the 7B model, about 46 without. No OCR system ever saw the embedded world, and
the sign's own word would be the answer: there the list of words is always empty.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from experiments import application, scenes
from experiments.harness.benchmark import Benchmark, Dataset, Example, OwnFlag, Request
from experiments.harness.errors import InputError
from experiments.reading import counts, embedded, files, pictures
from experiments.reading.tables import Tables
from experiments.scoring import textvqa as scoring
from llava_jax import prompts

SPLITS = ("val",)
REFERENCES = 10
_ROWS = {5000: "TextVQA's val 0.5.1"}
_QUESTIONS = "TextVQA_0.5.1_val.json"
_WORDS = "TextVQA_Rosetta_OCR_v0.2_val.json"
_KEYS = ("question_id", "image_id", "question")
_OCR = OwnFlag(("on", "off"), "show the words that an OCR system found, as LLaVA does")


def _with_ocr(request: Request) -> bool:
    """Return whether questions show an OCR system's words."""
    return request.own.get("textvqa_ocr", _OCR.values[0]) == "on"


def _example(
    key: str,
    image: str,
    question: str,
    words: Sequence[str] | None,
    references: Sequence[str],
    request: Request,
) -> Example:
    """Return an open question with its ten right answers; no words are an empty line."""
    shown = f"\nReference OCR token: {', '.join(words or ())}" if _with_ocr(request) else ""
    text = question.capitalize() + shown + prompts.SHORT_ANSWER
    return Example(key, image, text, (), None, SPLITS[0], references=tuple(map(str, references)))


def _checked(rows: Iterable[Any], name: str) -> list[dict[str, Any]]:
    """Return rows that have all they need."""
    found = []
    for number, row in enumerate(rows, 1):
        files.require(row, _KEYS, f"{name} row {number}")
        where = f"{name}, question_id {row['question_id']}"
        answers = row.get("answers")
        count = len(answers) if isinstance(answers, list) else 0
        if count != REFERENCES:
            raise InputError(f"{where}: {count} answers, not {REFERENCES}")
        found.append(row)
    return found


def _of_row(row: Mapping[str, Any], words: Sequence[str] | None, request: Request) -> Example:
    """Return a row's question."""
    key, image, question = (str(row[column]) for column in _KEYS)
    return _example(key, _picture(image), question, words, row["answers"], request)


def _picture(image: str) -> str:
    """Return the name of a picture's file, its id in both layouts."""
    return f"{image}.jpg"


def read_scenes(request: Request) -> Dataset:
    """Ask for the word on the sign in a picture of the embedded world."""

    def example(row: scenes.Question, image: str) -> Example:
        return _example(row.key, image, row.text, (), (row.answer,) * REFERENCES, request)

    def picture(world: scenes.World, index: int) -> np.ndarray:
        return scenes.with_sign(scenes.scene(world, index).image, scenes.sign(world, index))

    return embedded.dataset("textvqa", request.limit, example, picture)


def read_raw(folder: pathlib.Path, request: Request) -> Dataset:
    """Read the original files."""
    file = folder if folder.is_file() else folder / _QUESTIONS
    rows = _checked(_data(file), str(file))
    words = _words(file.parent / _WORDS, rows) if _with_ocr(request) else {}
    found = (_of_row(row, words.get(str(row["image_id"])), request) for row in rows)
    examples = counts.checked(found, _ROWS, str(file))
    return pictures.in_folder(examples, file.parent / "train_images", str(folder))


def _data(file: pathlib.Path) -> list[Any]:
    """Return what one of TextVQA's files lists."""
    found = files.json_value(file, dict).get("data")
    if not isinstance(found, list):
        raise InputError(f"{file} has no list called data")
    return found


def _words(file: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return what the OCR system found, by picture; warn of pictures that it did not see."""
    if not file.is_file():
        raise InputError(f"no {file}; --textvqa_ocr=off asks without its words")
    found: dict[str, list[str]] = {}
    for number, row in enumerate(_data(file), 1):
        files.require(row, ("image_id", "ocr_tokens"), f"{file} row {number}")
        words = row["ocr_tokens"]
        if not isinstance(words, list):
            raise InputError(f"{file} row {number}: ocr_tokens {words!r:.80} are not a list")
        found[str(row["image_id"])] = list(map(str, words))
    if absent := {str(row["image_id"]) for row in rows} - set(found):
        logging.warning("%s lacks %d pictures, such as %s", file, len(absent), min(absent))
    return found


def read_hub(tables: Tables, request: Request) -> Dataset:
    """Read the table of ``lmms-lab/textvqa``."""
    columns = [*_KEYS, "answers", *(["ocr_tokens"] if _with_ocr(request) else [])]
    table = tables.open("default", "validation", [*columns, "image"])
    rows = _checked(table.rows(columns), table.name)
    found = (_of_row(row, row.get("ocr_tokens"), request) for row in rows)
    examples = counts.checked(found, _ROWS, table.name)
    place = pictures.places(table, [example.image for example in examples])
    return pictures.in_tables(examples, place, tables.name)


BENCHMARK = Benchmark(
    name="textvqa",
    splits=SPLITS,
    scenes=read_scenes,
    raw=read_raw,
    hub=read_hub,
    hub_id="lmms-lab/textvqa",
    hub_files=("data/validation-*.parquet",),
    scenes_limit=60,
    score=scoring.score,
    correct=scoring.correct,
    correct_by=scoring.CORRECT_BY,
    max_new_tokens=128,
    open=True,
    flags={"textvqa_ocr": _OCR},
)


if __name__ == "__main__":
    application.start(BENCHMARK)
