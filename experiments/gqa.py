"""GQA: what is where in the picture? A word or two (Hudson & Manning 2019), testdev_balanced.

    python -m experiments.gqa --pruner=scope --alpha=0
    python -m experiments.gqa --model=llava-1.5-7b-hf --data=gqa --pruner=scope --budget=64,128

``--data`` is a folder with ``testdev_balanced_questions.json`` and the pictures in ``images/``, or
that file under any name; a folder or hub id in the layout of ``lmms-lab/GQA``; or ``scenes``, the
embedded world in GQA's form. Results are split by structural type: ``query``, ``verify``,
``choose``, ``logical``, ``compare``, and ``other`` for any that GQA does not have.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from experiments import application, scenes
from experiments.harness.benchmark import Benchmark, Dataset, Example, Request
from experiments.reading import counts, embedded, files, pictures
from experiments.reading.tables import Tables
from experiments.scoring import gqa as scoring
from llava_jax import prompts

SPLITS = ("query", "verify", "choose", "logical", "compare", "other")
_ROWS = {12578: "GQA's testdev_balanced"}
_QUESTIONS = "testdev_balanced_questions.json"
_KEYS = ("imageId", "question", "answer")
_SPLIT = "testdev"  # of both tables


def _example(key: str, image: str, question: str, answer: str, split: str) -> Example:
    """Return an open question with its one right answer."""
    text = question + prompts.SHORT_ANSWER
    return Example(key, image, text, (), None, split, references=(answer,))


def _examples(rows: Iterable[tuple[str, Any]], name: str) -> Iterator[Example]:
    """Yield the questions of rows by question id."""
    for key, row in rows:
        files.require(row, _KEYS, f"{name}, question {key}")
        image, question, answer = (str(row[column]) for column in _KEYS)
        yield _example(key, _picture(image), question, answer, _split(row.get("types")))


def _picture(image: str) -> str:
    """Return the name of a picture's file, its id in both layouts."""
    return f"{image}.jpg"


def _split(types: Any) -> str:
    """Return a question's structural type."""
    found = types.get("structural") if isinstance(types, dict) else None
    return found if found in SPLITS else "other"


def read_scenes(request: Request) -> Dataset:
    """Ask GQA's questions about the embedded world."""

    def example(row: scenes.Question, image: str) -> Example:
        return _example(row.key, image, row.text, row.answer, row.part)

    return embedded.dataset("gqa", request.limit, example)


def read_raw(folder: pathlib.Path, request: Request) -> Dataset:
    """Read the original file."""
    del request  # LLaVA's words and lmms-eval's are the same
    file = folder if folder.is_file() else folder / _QUESTIONS
    rows = files.json_value(file, dict).items()
    examples = counts.checked(_examples(rows, str(file)), _ROWS, str(file))
    return pictures.in_folder(examples, file.parent / "images", str(folder))


def read_hub(tables: Tables, request: Request) -> Dataset:
    """Read the tables of ``lmms-lab/GQA``, one of questions and one of pictures."""
    del request
    columns = ("id", *_KEYS, "types")
    asked = tables.open("testdev_balanced_instructions", _SPLIT, columns)
    shown = tables.open("testdev_balanced_images", _SPLIT, ("id", "image"))
    rows = ((str(row["id"]), row) for row in asked.rows(columns))
    examples = counts.checked(_examples(rows, asked.name), _ROWS, asked.name)
    place = pictures.places(shown, [_picture(row["id"]) for row in shown.rows(["id"])])
    return pictures.in_tables(examples, place, tables.name)


BENCHMARK = Benchmark(
    name="gqa",
    splits=SPLITS,
    scenes=read_scenes,
    raw=read_raw,
    hub=read_hub,
    hub_id="lmms-lab/GQA",
    hub_files=("testdev_balanced_*/testdev-*.parquet",),
    scenes_limit=60,
    score=scoring.score,
    correct=scoring.correct,
    correct_by=scoring.CORRECT_BY,
    open=True,
)


if __name__ == "__main__":
    application.start(BENCHMARK)
