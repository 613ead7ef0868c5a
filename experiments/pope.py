"""POPE: is there a thing in the picture? (Li et al. 2023, "Evaluating Object Hallucination").

    python -m experiments.pope --pruner=scope --alpha=0
    python -m experiments.pope --model=llava-1.5-7b-hf --data=pope --pruner=scope --budget=64,128

``--data`` is a folder with ``coco/coco_pope_{random,popular,adversarial}.json`` (JSON lines) and
the pictures in ``val2014/``, or ``scenes``, the embedded world in POPE's protocol.
"""

from __future__ import annotations

import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging
from PIL import Image

from experiments import application, scenes
from experiments.harness.benchmark import Benchmark, Dataset, Example
from experiments.harness.errors import InputError
from llava_jax import images, prompts

SPLITS = ("random", "popular", "adversarial")
LABELS = ("yes", "no")
CHOICES = (("Yes", "yes"), ("No", "no"))
"""The paper sums both spellings of an answer (§3.2)."""

_SCENES, _SCENES_IMAGES, _SCENES_LIMIT = "scenes", 500, 60
_ROWS = {"random": (3000, 2910), "popular": (3000,), "adversarial": (3000,)}
_KEYS = ("question_id", "image", "text", "label")


def load(data: str, limit: int | None = None) -> Dataset:
    """Return POPE's questions from a folder, or those of the embedded scenes.

    Args:
        data: the folder, or ``scenes``.
        limit: pictures, from the first; None for all.

    Raises:
        InputError: a file is missing or malformed; it names the file, the line or the question.
    """
    if data == _SCENES:
        return _load_scenes(min(limit or _SCENES_IMAGES, _SCENES_IMAGES))
    return _load_folder(pathlib.Path(data)).first_images(limit)


def _example(split: str, number: Any, image: str, text: str, label: str) -> Example:
    user_text = text + prompts.SHORT_ANSWER
    return Example(f"{split}/{number}", image, user_text, CHOICES, LABELS.index(label), split)


def _load_folder(folder: pathlib.Path) -> Dataset:
    """Read the original files."""
    if not folder.is_dir():
        raise InputError(f"--data={folder} is not a folder (nor {_SCENES!r})")
    files = {split: folder / "coco" / f"coco_pope_{split}.json" for split in SPLITS}
    if not any(file.is_file() for file in files.values()):
        raise InputError(f"--data={folder} has no coco/coco_pope_*.json")
    examples: list[Example] = []
    for split, file in files.items():
        if not file.is_file():
            logging.warning("no %s: the split %s is left out", file, split)
            continue
        found = _read_split(file, split)
        if len(found) not in _ROWS[split]:
            logging.warning("%s has %d rows, POPE's has %s", file, len(found), _ROWS[split])
        examples += found
    pictures = folder / "val2014"
    _check_pictures(pictures, examples)
    return Dataset(
        tuple(examples),
        read_image=lambda image: images.read(pictures / image),
        image_digest=lambda image: images.digest(pictures / image),
        source=str(folder),
    )


def _check_pictures(pictures: pathlib.Path, examples: Sequence[Example]) -> None:
    """Refuse pictures outside the picture folder, and a folder that is not there."""
    root = pictures.resolve()
    for example in examples:
        if "\0" in example.image or not (root / example.image).resolve().is_relative_to(root):
            name = f"question {example.key}: picture {example.image!r}"
            raise InputError(f"{name} lies outside {pictures}")
    if not pictures.is_dir():
        raise InputError(f"{pictures.parent} has no folder {pictures.name} with the pictures")


def _read_split(file: pathlib.Path, split: str) -> list[Example]:
    """Read one question file."""
    examples: dict[str, Example] = {}
    for number, row in _rows(file):
        where = f"{file} line {number}"
        if absent := [key for key in _KEYS if key not in row]:
            raise InputError(f"{where} lacks {', '.join(absent)}")
        label = str(row["label"]).lower()
        if label not in LABELS:
            identity = f"question_id {row['question_id']}"
            raise InputError(f"{where}, {identity}: label {row['label']!r} is not yes or no")
        example = _example(split, row["question_id"], str(row["image"]), str(row["text"]), label)
        if example.key in examples:
            raise InputError(f"{where}: question_id {row['question_id']} occurs twice")
        examples[example.key] = example
    if not examples:
        raise InputError(f"{file} has no questions")
    return list(examples.values())


def _rows(file: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, JSON object) of a JSON-lines file; blank lines are passed over."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 at byte {error.start}") from None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{file} line {number} is not JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise InputError(f"{file} line {number} is not a JSON object; JSON lines are expected")
        yield number, row


def _load_scenes(count: int) -> Dataset:
    """Ask POPE's questions about the first pictures of the embedded test world."""
    world = scenes.world("test")
    examples, index_of = [], {}
    for index in range(count):
        image = f"test-{index:05d}"
        index_of[image] = index
        for row in scenes.MINIATURES["pope"].questions(world, index):
            number = row.key.removeprefix(f"{row.part}/")
            examples.append(_example(row.part, number, image, row.text, row.answer))

    @functools.lru_cache(maxsize=_SCENES_LIMIT)
    def pixels(image: str) -> np.ndarray:
        return scenes.scene(world, index_of[image]).image

    return Dataset(
        tuple(examples),
        read_image=lambda image: Image.fromarray(pixels(image)),
        image_digest=lambda image: hashlib.sha256(pixels(image).tobytes()).hexdigest(),
        source=f"embedded scenes, version {scenes.VERSION}",
    )


BENCHMARK = Benchmark(
    name="pope",
    load=load,
    splits=SPLITS,
    default_limit=lambda data: _SCENES_LIMIT if data == _SCENES else None,
)


if __name__ == "__main__":
    application.start(BENCHMARK)
