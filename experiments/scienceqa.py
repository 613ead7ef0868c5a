"""ScienceQA-IMG: which option answers a pupil's question? (Lu et al. 2022, "Learn to Explain").

    python -m experiments.scienceqa --pruner=scope --alpha=0
    python -m experiments.scienceqa --data=lmms-lab/ScienceQA --options=abcd --mode=paper

``--data`` is a folder with ``problems.json``, ``pid_splits.json`` and the pictures in
``images/test/``; a folder or hub id in the layout of ``lmms-lab/ScienceQA``; or ``scenes``, the
embedded world in ScienceQA's form. The test questions that have a picture are asked; they have two
to five options. A split is a subject; one that is none of the three is ``other``.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from experiments import application, scenes
from experiments.harness.benchmark import Benchmark, Dataset, Example, Request
from experiments.harness.errors import InputError
from experiments.reading import counts, embedded, files, lettered, pictures
from experiments.reading.tables import Tables
from experiments.scoring import scienceqa as scoring

OTHER = "other"
SPLITS = ("natural science", "social science", "language science", OTHER)
_ROWS = {2017: "ScienceQA-IMG's test split"}
_COLUMNS = ("question", "choices", "answer", "hint", "subject", "category", "image")


def _example(key: str, image: str, row: Mapping[str, Any], where: str, request: Request) -> Example:
    """Return a question, its context above it if it has one."""
    choices, subject = row["choices"], row.get("subject")
    if not isinstance(choices, list):
        raise InputError(f"{where}: choices {choices!r} are not a list")
    context = f"Context: {row['hint']}\n" if row.get("hint") else ""
    return lettered.example(
        key,
        image,
        f"{context}{row['question']}",
        [str(choice) for choice in choices],
        row["answer"],
        subject if subject in SPLITS else OTHER,
        request,
        category=str(row.get("category") or ""),
        where=where,
    )


def read_scenes(request: Request) -> Dataset:
    """Ask ScienceQA's kind of questions about the embedded world, whose subject is none of its."""

    def example(row: scenes.Question, image: str) -> Example:
        return lettered.example(
            row.key, image, row.text, row.options, row.answer, OTHER, request, category=row.part
        )

    return embedded.dataset("scienceqa", request.limit, example)


def read_raw(folder: pathlib.Path, request: Request) -> Dataset:
    """Read the original files."""
    file = folder / "problems.json"
    problems, examples = files.json_value(file, dict), []
    for pid in _test_pids(folder / "pid_splits.json"):
        where = f"{file}, pid {pid}"
        if pid not in problems:
            raise InputError(f"{where} is not there, but pid_splits.json names it")
        row = problems[pid]
        files.require(row, _COLUMNS[:3], where)
        if row.get("image"):
            examples.append(_example(pid, f"{pid}/{row['image']}", row, where, request))
    found = counts.checked(examples, _ROWS, str(file))
    return pictures.in_folder(found, folder / "images" / "test", str(folder))


def _test_pids(file: pathlib.Path) -> list[str]:
    """Return the ids of the test split in its order."""
    splits = files.json_value(file, dict)
    files.require(splits, ("test",), str(file))
    if not isinstance(splits["test"], list):
        raise InputError(f"{file}: test is not a list")
    return [str(pid) for pid in splits["test"]]


def read_hub(tables: Tables, request: Request) -> Dataset:
    """Read the tables of ``lmms-lab/ScienceQA``; they have no ids, a question's key is its row."""
    table = tables.open("ScienceQA-IMG", "test", _COLUMNS)
    digests = table.digests()
    examples = [
        _example(str(number), image, row, f"{table.name} row {number}", request)
        for number, (row, image) in enumerate(zip(table.rows(_COLUMNS[:-1]), digests, strict=True))
        if image
    ]
    found = counts.checked(examples, _ROWS, table.name)
    return pictures.in_tables(found, pictures.places(table, digests), tables.name)


BENCHMARK = Benchmark(
    name="scienceqa",
    splits=SPLITS,
    scenes=read_scenes,
    raw=read_raw,
    hub=read_hub,
    hub_id="lmms-lab/ScienceQA",
    hub_files=("ScienceQA-IMG/test-*.parquet",),
    scenes_limit=200,
    score=scoring.score,
    correct=scoring.correct,
    correct_by=scoring.CORRECT_BY,
    lettered=True,
)


if __name__ == "__main__":
    application.start(BENCHMARK)
