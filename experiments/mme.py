"""MME: yes or no, twice per picture, in fourteen subtasks (Fu et al. 2023, "MME").

    python -m experiments.mme --pruner=scope --alpha=0
    python -m experiments.mme --model=llava-1.5-7b-hf --data=mme --pruner=scope --budget=64,128

``--data`` is the folder ``MME_Benchmark_release_version`` or the one it lies in, with a folder per
subtask: ``x.jpg`` beside ``x.txt``, or ``images/x.jpg`` and ``questions_answers_YN/x.txt``; a
folder or hub id in the layout of ``lmms-lab/MME``; or ``scenes``, the embedded world in MME's
protocol. A folder that is no subtask is left out, with a warning.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

from absl import logging

from experiments import application, scenes
from experiments.harness.benchmark import YES_NO, Benchmark, Dataset, Example, Request
from experiments.harness.errors import InputError
from experiments.reading import counts, embedded, files, pictures
from experiments.reading.tables import Tables
from experiments.scoring import mme as scoring
from llava_jax import prompts

SPLITS = (*scoring.PERCEPTION, *scoring.COGNITION)
LABELS = ("yes", "no")
_ROWS = {2374: "MME"}
_COLUMNS = ("question_id", "question", "answer", "category", "image")
_RELEASE = "MME_Benchmark_release_version"
_REQUEST = " Please answer yes or no."
_SUFFIXES = (".jpg", ".png", ".jpeg")


def _example(
    group: str,
    number: int,
    image: str,
    split: str,
    question: str,
    answer: str,
    where: str,
    request: Request,
) -> Example:
    """Return a question of a picture, the request for its answer in LLaVA's words."""
    label = answer.strip().lower()
    if label not in LABELS:
        raise InputError(f"{where}: answer {answer!r} is not yes or no")
    question = question.strip().replace(_REQUEST, "")
    if request.prompt_style != "lmms":  # which keeps one of the two blanks that some have
        question = question.strip()
    text, index = question + prompts.SHORT_ANSWER, LABELS.index(label)
    return Example(f"{group}#{number}", image, text, YES_NO, index, split, group=group)


def _paired(found: Mapping[str, Sequence[Example]], name: str) -> list[Example]:
    """Return the questions of all pictures, which have two each."""
    for picture, examples in found.items():
        if len(examples) != 2:
            raise InputError(f"{name}: picture {picture} has {len(examples)} questions, not 2")
    if not found:
        raise InputError(f"{name} has no questions of MME's subtasks, {', '.join(SPLITS)}")
    return counts.checked((example for pair in found.values() for example in pair), _ROWS, name)


def _warn_of_unknown(names: Sequence[str], where: str) -> None:
    """Say which names are no subtasks."""
    for name in dict.fromkeys(names):
        if name not in SPLITS:
            logging.warning("%s: %s is none of MME's subtasks and is left out", where, name)


def read_scenes(request: Request) -> Dataset:
    """Ask MME's questions about the embedded world."""

    def example(row: scenes.Question, image: str) -> Example:
        group, _, number = row.key.rpartition(".")
        place = (group, int(number), image, row.part)
        return _example(*place, row.text, row.answer, row.key, request)

    return embedded.dataset("mme", request.limit, example)


def read_raw(folder: pathlib.Path, request: Request) -> Dataset:
    """Read the original files."""
    root = folder / _RELEASE if (folder / _RELEASE).is_dir() else folder
    folders = {path.name: path for path in sorted(root.glob("[!.]*")) if path.is_dir()}
    _warn_of_unknown(list(folders), str(root))
    found: dict[str, list[Example]] = {}
    for split in SPLITS:
        if split in folders:
            found |= _read_subtask(folders[split], request)
        elif set(folders).intersection(SPLITS):
            logging.warning("%s has no folder %s: the subtask is left out", root, split)
    return pictures.in_folder(_paired(found, str(root)), root, str(root))


def _read_subtask(folder: pathlib.Path, request: Request) -> dict[str, list[Example]]:
    """Read the questions of a subtask, by picture."""
    texts, images, found = folder / "questions_answers_YN", folder / "images", {}
    if not texts.is_dir():
        texts = images = folder
    for file in sorted(texts.glob("[!.]*.txt")):
        names = [images / f"{file.stem}{suffix}" for suffix in _SUFFIXES]
        image = next((name for name in names if name.is_file()), names[0])
        group = image.relative_to(folder.parent).as_posix()
        found[group] = _read_pair(file, group, folder.name, request)
    if not found:
        raise InputError(f"{texts} has no *.txt")
    return found


def _read_pair(file: pathlib.Path, group: str, split: str, request: Request) -> list[Example]:
    """Read the questions of a picture."""
    examples: list[Example] = []
    for number, line in enumerate(files.text(file).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{file} line {number}"
        question, tab, answer = line.rstrip().rpartition("\t")
        if not tab:
            raise InputError(f"{where} has no tab between question and answer")
        place = (group, len(examples), group, split)
        examples.append(_example(*place, question, answer, where, request))
    return examples


def read_hub(tables: Tables, request: Request) -> Dataset:
    """Read the tables of ``lmms-lab/MME``."""
    table = tables.open("default", "test", _COLUMNS)
    digests, splits = table.digests(), []
    found: dict[str, list[Example]] = {}
    for number, (row, image) in enumerate(zip(table.rows(_COLUMNS[:-1]), digests, strict=True)):
        group, question, answer, split = (row[name] for name in _COLUMNS[:-1])
        splits.append(split)
        if split in SPLITS:
            pair, where = found.setdefault(group, []), f"{table.name} row {number}"
            place = (group, len(pair), image, split)
            pair.append(_example(*place, question, str(answer), where, request))
    _warn_of_unknown(splits, table.name)
    place = pictures.places(table, digests)
    return pictures.in_tables(_paired(found, table.name), place, tables.name)


BENCHMARK = Benchmark(
    name="mme",
    splits=SPLITS,
    scenes=read_scenes,
    raw=read_raw,
    hub=read_hub,
    hub_id="lmms-lab/MME",
    hub_files=("data/test-*.parquet",),
    scenes_limit=60,
    score=scoring.score,
    correct=scoring.correct,
    correct_by=scoring.CORRECT_BY,
)


if __name__ == "__main__":
    application.start(BENCHMARK)
