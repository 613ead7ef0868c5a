"""MMBench: one of two to four options, asked in every rotation (Liu et al. 2023, "MMBench").

    python -m experiments.mmbench --pruner=scope --alpha=0
    python -m experiments.mmbench --data=mmbench_dev_20230712.tsv --pruner=scope --budget=64,128

``--data`` is a TSV file of MMBench, pictures in base64 or by the index of the row that has them; a
folder with one such file, or with one ``mmbench_dev_*.tsv`` among several; a folder or hub id in
the layout of ``lmms-lab/MMBench``; or ``scenes``, the embedded world in MMBench's form. A cell that
is empty or ``nan`` is missing; ``None`` is a text. A split is an l2-category; one that is none of
the six is ``other``. Rows whose indices differ by millions are rotations of one question.
"""

from __future__ import annotations

import base64
import collections
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from experiments import application, scenes
from experiments.harness.benchmark import Benchmark, Dataset, Example, Request
from experiments.harness.errors import InputError
from experiments.reading import counts, embedded, files, lettered, pictures
from experiments.reading.tables import Tables
from experiments.scoring import mmbench as scoring
from llava_jax import prompts

OTHER = "other"
SPLITS = (
    "coarse_perception",
    "finegrained_perception (instance-level)",
    "finegrained_perception (cross-instance)",
    "attribute_reasoning",
    "relation_reasoning",
    "logic_reasoning",
    OTHER,
)
_SCENES_SPLIT = {
    "image_scene": SPLITS[0],
    "object_localization": SPLITS[1],
    "attribute_recognition": SPLITS[1],
    "spatial_relationship": SPLITS[2],
}
"""Category of the embedded questions → l2-category."""
_ROWS = {4377: "the dev split of 2023-07-12", 4329: "the English dev split"}
_LETTERS = "ABCD"
_DIGITS = 18  # of an index
_COLUMNS = ("index", "question", *_LETTERS, "answer", "category", "image")
_OPTIONAL = ("hint", "l2-category", "L2-category")


def _cell(row: Mapping[str, Any], name: str) -> str:
    """Return a cell's text, empty if it is missing."""
    text = str(row.get(name) or "")
    return "" if text == "nan" else text


def _example(row: Mapping[str, Any], image: str, where: str, request: Request) -> Example:
    """Return a rotation of a question."""
    index, split = str(row["index"]), _cell(row, "l2-category") or _cell(row, "L2-category")
    if not index.isdecimal() or len(index) > _DIGITS:
        raise InputError(f"{where:.200}: it is not a number, of at most {_DIGITS} digits")
    options = [_cell(row, letter) for letter in _LETTERS]
    while options and not options[-1]:
        options.pop()
    if "" in options:
        raise InputError(f"{where}: option {_LETTERS[options.index('')]} is missing among others")
    hint, question = _cell(row, "hint"), _cell(row, "question")
    gap, post = "\n", prompts.OPTION_LETTER
    if request.prompt_style == "lmms":
        gap, question, post = " ", f"{question} There are several options:", f"\n{post}"
    return lettered.example(
        index,
        image,
        f"{hint}{gap}{question}" if hint else question,
        options,
        str(row["answer"]),
        split if split in SPLITS else OTHER,
        request,
        post=post,
        category=_cell(row, "category"),
        group=str(int(index) % scenes.CIRCULAR),
        where=where,
    )


def _rotations(examples: Sequence[Example], name: str) -> Sequence[Example]:
    """Return the questions, no index twice, and say how many rotations they have."""
    examples = counts.checked(examples, _ROWS, name)
    groups = collections.Counter(example.group for example in examples)
    sizes = sorted(collections.Counter(groups.values()).items())
    found = ", ".join(f"{groups} of {size} rows" for size, groups in sizes)
    logging.info("%s has %d questions: %s", name, len(groups), found)
    if max(groups.values()) == 1:
        logging.warning("%s has no rotations: circular accuracy is not possible", name)
    return examples


def read_scenes(request: Request) -> Dataset:
    """Ask MMBench's kind of questions about the embedded world, in every rotation."""

    def example(row: scenes.Question, image: str) -> Example:
        cells = {"index": row.key, "question": row.text, "answer": row.answer}
        cells |= {"category": row.part, "l2-category": _SCENES_SPLIT[row.part]}
        cells |= dict(zip(_LETTERS, row.options, strict=False))
        return _example(cells, image, f"index {row.key}", request)

    return embedded.dataset("mmbench", request.limit, example)


def read_raw(folder: pathlib.Path, request: Request) -> Dataset:
    """Read a TSV file, or the one that a folder has."""
    file = _file(folder)
    rows = list(files.tab_separated(file))
    for number, row in rows:
        files.require(row, _COLUMNS, f"{file} row {number}")
    cells = {row["index"]: row["image"] for _, row in rows}
    contents: dict[str, bytes] = {}
    examples: list[Example] = []
    for _, row in rows:
        where = f"{file}, index {row['index']}"
        content = _content(row["image"], cells, where)
        image = hashlib.sha256(content).hexdigest()[:16]
        contents.setdefault(image, content)
        examples.append(_example(row, image, where, request))
    found = _rotations(examples, str(file))
    return pictures.stored(found, contents.__getitem__, str(file), upright=False)


def _file(data: pathlib.Path) -> pathlib.Path:
    """Return the TSV file that is meant."""
    if not data.is_dir():
        return data
    found = sorted(file for file in data.glob("*.tsv") if file.name.lower().startswith("mmbench"))
    dev = [file for file in found if file.name.startswith("mmbench_dev_")]
    chosen = found if len(found) == 1 else dev
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(file.name for file in found)
    several = f"several, {names}; name one of them" if found else "no mmbench*.tsv"
    raise InputError(f"--data={data} has {several}")


def _content(cell: str, cells: Mapping[str, str], where: str) -> bytes:
    """Return the picture of a row, which may be that of another row by its index."""
    content = "".join(cells.get(cell, cell).split())
    if not content or content.isdecimal():
        raise InputError(f"{where}: picture {cell!r} is not base64 and no row that has one")
    try:
        return base64.b64decode(content, validate=True)
    except ValueError as error:
        raise InputError(f"{where}: its picture is not base64: {error}") from None


def read_hub(tables: Tables, request: Request) -> Dataset:
    """Read the tables of ``lmms-lab/MMBench``."""
    table = tables.open("en", "dev", _COLUMNS)
    columns = [*_COLUMNS[:-1], *(name for name in _OPTIONAL if name in table.columns)]
    digests = table.digests()
    examples = [
        _example(row, image, f"{table.name}, index {row['index']}", request)
        for row, image in zip(table.rows(columns), digests, strict=True)
    ]
    found = _rotations(examples, table.name)
    return pictures.in_tables(found, pictures.places(table, digests), tables.name)


BENCHMARK = Benchmark(
    name="mmbench",
    splits=SPLITS,
    scenes=read_scenes,
    raw=read_raw,
    hub=read_hub,
    hub_id="lmms-lab/MMBench",
    hub_files=("en/dev-*.parquet",),
    scenes_limit=100,
    score=scoring.score,
    correct=scoring.correct,
    correct_by=scoring.CORRECT_BY,
    lettered=True,
)


if __name__ == "__main__":
    application.start(BENCHMARK)
