"""Where pictures lie: in a folder, in tables, or in the embedded world."""

from __future__ import annotations

import hashlib
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

from PIL import Image

from experiments.harness.benchmark import Dataset, Example
from experiments.harness.errors import InputError
from experiments.reading.tables import Table
from llava_jax import images

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""No file of a benchmark is called so; nor is there a line to say it in."""


def in_folder(examples: Sequence[Example], folder: pathlib.Path, source: str) -> Dataset:
    """Return questions whose picture ids are paths below a folder.

    EXIF orientation is ignored, as LLaVA's file route does.

    Args:
        examples: the questions.
        folder: of the pictures.
        source: what was read, for people.

    Raises:
        InputError: a path leaves the folder, or has characters that are no text.
    """
    root = folder.resolve()
    for example in examples:
        name = f"question {example.key}: picture {example.image!r:.200}"
        if _CONTROL.search(example.image):
            raise InputError(f"{name} has characters that are no text")
        if not _is_below(root, example.image):
            raise InputError(f"{name} lies outside {folder}")
    return Dataset(
        tuple(examples),
        read_image=lambda image: images.read(folder / image),
        image_digest=lambda image: images.digest(folder / image),
        source=source,
        place=str(folder),
    )


def _is_below(root: pathlib.Path, name: str) -> bool:
    """Return whether a name leads to a place below a folder, links followed."""
    try:
        return (root / name).resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # links in a ring
        return False


def stored(
    examples: Sequence[Example], content: Callable[[str], bytes], source: str, *, upright: bool
) -> Dataset:
    """Return questions whose pictures are bytes that are fetched by id.

    Args:
        examples: the questions.
        content: picture id → its file; nothing if it is not there.
        source: what was read, for people.
        upright: turn pictures as their EXIF orientation says, as ``datasets`` does.
    """

    def read(image: str) -> Image.Image:
        found = content(image)
        if not found:
            raise images.ImageError(f"picture {image} is not in {source}")
        return images.decode(found, image, upright=upright)

    def digest(image: str) -> str | None:
        found = content(image)
        return hashlib.sha256(found).hexdigest() if found else None

    return Dataset(tuple(examples), read, digest, source, place=source)


def in_tables(
    examples: Sequence[Example],
    place: Mapping[str, tuple[Table, int]],
    source: str,
    *,
    frame: int = 0,
) -> Dataset:
    """Return questions whose pictures are cells of tables.

    Args:
        examples: the questions.
        place: picture id → table and row.
        source: what was read, for people.
        frame: which, where a row has several; −1 is the one in the middle.
    """

    def content(image: str) -> bytes:
        if image not in place:
            return b""
        table, row = place[image]
        return table.picture(row, frame=frame)

    return stored(examples, content, source, upright=True)


def places(table: Table, images: Sequence[str]) -> dict[str, tuple[Table, int]]:
    """Return where each picture is first, given the picture of every row."""
    return {image: (table, row) for row, image in reversed(list(enumerate(images)))}
