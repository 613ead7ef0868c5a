"""A checkpoint's weight files, and whether they are what their folder says they are."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Iterable

from llava_jax import sums
from llava_jax.checkpoint import tensors


def digest(folder: pathlib.Path) -> str:
    """Return a sha256 over the names and bytes of a checkpoint's weight files.

    Raises:
        FileNotFoundError: no weights there.
        ValueError: a file is not what the folder says it is.
    """
    converted = tensors.is_orbax(folder)
    found = of_files(folder, (_converted if converted else tensors.files)(folder))
    if converted and (absent := sums.absent(folder)):
        raise ValueError(f"{folder / sums.NAME} lists {absent[0]}, which is not there")
    return found


def of_files(folder: pathlib.Path, files: Iterable[pathlib.Path]) -> str:
    """Return a sha256 over the names and bytes of some files of a folder.

    Raises:
        ValueError: a file is not what the folder says it is.
    """
    found = {file: sums.of_file(file) for file in files}
    sums.verify(folder, found)
    total = hashlib.sha256()
    for file, sha256 in found.items():
        total.update(f"{file.relative_to(folder)} {sha256}\n".encode())
    return total.hexdigest()


def _converted(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the files of a converted checkpoint."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / sums.NAME)
