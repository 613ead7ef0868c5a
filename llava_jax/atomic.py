"""Files that are replaced whole: after a kill or a full disk there is the old one or the new one.

A temporary file beside it, fsync, rename, fsync of the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import secrets
from collections.abc import Iterator, Mapping
from typing import IO, Any


def write(file: pathlib.Path, content: str | bytes | Mapping[str, Any]) -> None:
    """Replace a file by content: text as UTF-8, a mapping as JSON.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    if isinstance(content, Mapping):
        content = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with writing(file) as handle:
        # Names of files that are no UTF-8 come back as they were.
        text = isinstance(content, str)
        handle.write(content.encode("utf-8", "surrogateescape") if text else content)


@contextlib.contextmanager
def writing(file: pathlib.Path) -> Iterator[IO[bytes]]:
    """Yield a handle whose bytes replace a file when the block ends without an exception."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(file.parent)


def sync(folder: pathlib.Path) -> None:
    """Wait until a folder's entries are on the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
