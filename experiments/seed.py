"""SEED-Bench: one of four options, about pictures and videos (Li et al. 2023).

    python -m experiments.seed --pruner=scope --alpha=0
    python -m experiments.seed --model=llava-1.5-7b-hf --data=seed_bench --pruner=scope --budget=64
    python -m experiments.seed --data=lmms-lab/SEED-Bench --seed_frame=middle

``--data`` is a folder with ``SEED-Bench.json``, the pictures in ``SEED-Bench-image/`` and a frame
per video question in ``SEED-Bench-video-image/``, or that file under any name; a folder or hub id
in the layout of ``lmms-lab/SEED-Bench``; or ``scenes``, the embedded world in SEED-Bench's form.

The model sees one frame of a video. LLaVA takes the middle one, and only that is in a folder of the
original files; the hub has several, and a runner that hands its model the first picture takes the
first. ``--seed_frame=auto`` follows either; numbers of one do not compare with the other's.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from experiments import application, scenes
from experiments.harness.benchmark import Benchmark, Dataset, Example, OwnFlag, Request
from experiments.harness.errors import InputError
from experiments.reading import counts, embedded, files, lettered, pictures
from experiments.reading.tables import Tables
from experiments.scoring import seed as scoring

SPLITS = ("image", "video")
TYPES = (
    "Scene Understanding",
    "Instance Identity",
    "Instance Attributes",
    "Instance Location",
    "Instances Counting",
    "Spatial Relation",
    "Instance Interaction",
    "Visual Reasoning",
    "Text Understanding",
    "Action Recognition",
    "Action Prediction",
    "Procedure Understanding",
)
"""Types 1 to 12 of questions; the hub's tables have their numbers only."""
_ROWS = {
    19242: "SEED-Bench, 14233 questions about pictures and 5009 about videos",
    17990: "the hub's SEED-Bench, 14233 questions about pictures and 3757 about videos",
}
_QUESTIONS = "SEED-Bench.json"
_OPTIONS = ("choice_a", "choice_b", "choice_c", "choice_d")
_KEYS = ("question_id", "question_type_id", "data_id", "data_type", "question", "answer", *_OPTIONS)
_FRAME = OwnFlag(
    ("auto", "first", "middle"), "of a video; auto: first of the hub's, middle of the original's"
)
_INDEX = {"auto": 0, "first": 0, "middle": -1}


def _frame(request: Request) -> str:
    """Return which frame of a video is shown."""
    return request.own.get("seed_frame", _FRAME.values[0])


def _examples(
    rows: Iterable[Any], types: Mapping[str, str], name: str, request: Request
) -> Iterator[Example]:
    """Yield the questions of rows, whose pictures are named as in the original layout."""
    for number, row in enumerate(rows, 1):
        files.require(row, _KEYS, f"{name} row {number}")
        where, kind = f"{name}, question_id {row['question_id']}", str(row["question_type_id"])
        if kind not in types:
            raise InputError(f"{where}: question_type_id {kind} is unknown")
        if row["data_type"] not in SPLITS:
            raise InputError(f"{where}: data_type {row['data_type']!r} is not image or video")
        yield lettered.example(
            str(row["question_id"]),
            _picture(row),
            str(row["question"]),
            [str(row[option]) for option in _OPTIONS],
            str(row["answer"]),
            row["data_type"],
            request,
            category=types[kind],
            where=where,
        )


def _picture(row: Mapping[str, Any]) -> str:
    """Return where the original layout has a row's picture, its id in both layouts."""
    if row["data_type"] == "video":
        return f"SEED-Bench-video-image/{row['question_type_id']}_{row['question_id']}.png"
    return f"SEED-Bench-image/{row['data_id']}"


def read_scenes(request: Request) -> Dataset:
    """Ask SEED-Bench's questions about the embedded world."""

    def example(row: scenes.Question, image: str) -> Example:
        options, answer = row.options, row.answer
        return lettered.example(
            row.key, image, row.text, options, answer, SPLITS[0], request, category=row.part
        )

    return embedded.dataset("seed", request.limit, example)


def read_raw(folder: pathlib.Path, request: Request) -> Dataset:
    """Read the original file."""
    file = folder if folder.is_file() else folder / _QUESTIONS
    content = files.json_value(file, dict)
    files.require(content, ("questions", "question_type"), str(file))
    rows, names = content["questions"], content["question_type"]
    if not isinstance(rows, list) or not isinstance(names, dict):
        raise InputError(f"{file}: questions is not a list, or question_type not an object")
    types = {str(number): name for name, number in names.items()}
    examples = counts.checked(_examples(rows, types, str(file), request), _ROWS, str(file))
    if _frame(request) == "first" and any(example.split == "video" for example in examples):
        raise InputError(f"--seed_frame=first: beside {file} are the videos' middle frames only")
    return pictures.in_folder(examples, file.parent, f"{folder}, middle frames of videos")


def read_hub(tables: Tables, request: Request) -> Dataset:
    """Read the table of ``lmms-lab/SEED-Bench``, whose rows have a picture or a video's frames."""
    table = tables.open("default", "test", [*_KEYS, "image"])
    types = {str(number): name for number, name in enumerate(TYPES, 1)}
    found = _examples(table.rows(_KEYS), types, table.name, request)
    examples = counts.checked(found, _ROWS, table.name)
    place = pictures.places(table, [example.image for example in examples])
    frame = _INDEX[_frame(request)]
    source = f"{tables.name}, {'middle' if frame else 'first'} frames of videos"
    return pictures.in_tables(examples, place, source, frame=frame)


BENCHMARK = Benchmark(
    name="seed",
    splits=SPLITS,
    scenes=read_scenes,
    raw=read_raw,
    hub=read_hub,
    hub_id="lmms-lab/SEED-Bench",
    hub_files=("data/test-*.parquet",),
    scenes_limit=60,
    score=scoring.score,
    correct=scoring.correct,
    correct_by=scoring.CORRECT_BY,
    lettered=True,
    flags={"seed_frame": _FRAME},
)


if __name__ == "__main__":
    application.start(BENCHMARK)
