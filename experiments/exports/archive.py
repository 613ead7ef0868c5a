"""Files that are there whole or not at all: an archive appears under its name when it is closed."""

from __future__ import annotations

import pathlib
import zipfile
from collections.abc import Iterable

from experiments.harness.errors import InputError
from llava_jax import atomic

_BEGINNING = (1980, 1, 1, 0, 0, 0)  # no clock: the same members are the same bytes


def write(file: pathlib.Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Replace a file by a deflated zip archive.

    Args:
        file: the archive.
        members: name and content, in the archive's order.

    Raises:
        InputError: its folder is not there.
        OSError: it cannot be written; the old file stays.
    """
    if not file.parent.is_dir():
        raise InputError(f"{file}: there is no folder {file.parent}")
    with (
        atomic.writing(file) as handle,
        zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name, _BEGINNING), content, zipfile.ZIP_DEFLATED)
