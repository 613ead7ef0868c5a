"""POPE: is there a thing in the picture? (Li et al. 2023, "Evaluating Object Hallucination").

    python -m experiments.pope --pruner=scope --alpha=0
    python -m experiments.pope --model=llava-1.5-7b-hf --data=pope --pruner=scope --budget=64,128

``--data`` is a folder with ``coco/coco_pope_{random,popular,adversarial}.json`` (JSON lines) and
the pictures in ``val2014/``; a folder or hub id in the layout of ``lmms-lab/POPE``; or ``scenes``,
the embedded world in POPE's protocol.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

from absl import logging

from experiments import application, scenes
from experiments.harness.benchmark import YES_NO, Benchmark, Dataset, Example, Request
from experiments.harness.errors import InputError
from experiments.reading import counts, embedded, files, pictures
from experiments.reading.tables import Table, Tables
from experiments.scoring import pope as scoring
from llava_jax import prompts

SPLITS = ("random", "popular", "adversarial")
LABELS = ("yes", "no")
_ROWS = {3000: "POPE", 2910: "the random split that LLaVA-1.5 was evaluated on"}
_KEYS = ("question_id", "image", "text", "label")
_COLUMNS = ("question_id", "question", "answer", "category", "image")


def _example(
    split: str, number: Any, image: str, question: str, label: Any, where: str, request: Request
) -> Example:
    """Return a question, whose label is yes or no in any case."""
    answer = str(label).strip().lower()
    if answer not in LABELS:
        raise InputError(f"{where}, question_id {number}: label {label!r} is not yes or no")
    question = question.strip() if request.prompt_style == "lmms" else question
    key, text = f"{split}/{number}", question + prompts.SHORT_ANSWER
    return Example(key, image, text, YES_NO, LABELS.index(answer), split)


def read_scenes(request: Request) -> Dataset:
    """Ask POPE's questions about the embedded world."""

    def example(row: scenes.Question, image: str) -> Example:
        number = row.key.removeprefix(f"{row.part}/")
        return _example(row.part, number, image, row.text, row.answer, row.key, request)

    return embedded.dataset("pope", request.limit, example)


def read_raw(folder: pathlib.Path, request: Request) -> Dataset:
    """Read the original files."""
    names = {split: folder / "coco" / f"coco_pope_{split}.json" for split in SPLITS}
    if not any(file.is_file() for file in names.values()):
        raise InputError(f"--data={folder} has no coco/coco_pope_*.json")
    examples: list[Example] = []
    for split, file in names.items():
        if not file.is_file():
            logging.warning("no %s: the split %s is left out", file, split)
            continue
        examples += counts.checked(_read_split(file, split, request), _ROWS, str(file))
    return pictures.in_folder(examples, folder / "val2014", str(folder))


def _read_split(file: pathlib.Path, split: str, request: Request) -> Iterator[Example]:
    """Yield the questions of one file."""
    for number, row in files.json_lines(file):
        where = f"{file} line {number}"
        files.require(row, _KEYS, where)
        name, image, text = row["question_id"], str(row["image"]), str(row["text"])
        yield _example(split, name, image, text, row["label"], where, request)


def read_hub(tables: Tables, request: Request) -> Dataset:
    """Read the tables of ``lmms-lab/POPE``: a config per split, or one with a column for it."""
    if tables.has("Full", SPLITS[0]):
        opened = [tables.open("Full", split, _COLUMNS) for split in SPLITS]
    else:
        opened = [tables.open("default", "test", _COLUMNS)]
    place: dict[str, tuple[Table, int]] = {}
    examples: list[Example] = []
    for table in opened:
        images = table.digests()
        place = pictures.places(table, images) | place
        for number, (row, image) in enumerate(zip(table.rows(_COLUMNS[:-1]), images, strict=True)):
            split, name, text = row["category"], row["question_id"], row["question"]
            where = f"{table.name} row {number}"
            if split not in SPLITS:
                raise InputError(f"{where}: category {split!r} is none of {', '.join(SPLITS)}")
            examples.append(_example(split, name, image, text, row["answer"], where, request))
    examples = counts.checked(examples, {9000: "POPE"}, tables.name)
    return pictures.in_tables(examples, place, tables.name)


BENCHMARK = Benchmark(
    name="pope",
    splits=SPLITS,
    scenes=read_scenes,
    raw=read_raw,
    hub=read_hub,
    hub_id="lmms-lab/POPE",
    hub_files=("Full/*.parquet",),
    scenes_limit=60,
    score=scoring.score,
    correct=scoring.correct,
    correct_by=scoring.CORRECT_BY,
    max_new_tokens=128,
)


if __name__ == "__main__":
    application.start(BENCHMARK)
