"""What a file is that its name promises otherwise, in plain words, from its first bytes."""

from __future__ import annotations

import pathlib
import re

HEAD = 512
"""Bytes that are looked at."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Suffixes of weights that torch pickled."""
PICKLE = (
    "is a pickle, which can run code when it is opened; where it is trusted, "
    "save_pretrained of transformers writes it as safetensors"
)

_WHOLE = "the download did not finish"
_SIGNS = (
    (rb"version https://git-lfs", "is a Git LFS pointer, not the file: run git lfs pull there"),
    (rb"\s*<(!doctype\s+html|html|head|body)\b", "is a web page that was saved in its place"),
    (rb"\x80[\x02-\x05][^\0]", PICKLE),
    (rb"PK\x03\x04(?s:.{26,200}?)data\.pkl", PICKLE),
    (rb"PK\x03\x04", "is a zip archive; unpack it"),
    (rb"\x1f\x8b\x08", "is compressed by gzip; unpack it"),
    (rb"\0{64}", f"begins with nothing but zeros: {_WHOLE}"),
)


def of(head: bytes) -> str | None:
    """Say what content is that could not be read as what it should be.

    Args:
        head: the first bytes, ``HEAD`` of them where there are as many.

    Returns:
        What stands behind "the file" in a sentence; None if it is nothing known.
    """
    if not head:
        return f"is empty: {_WHOLE}"
    head = head.removeprefix(b"\xef\xbb\xbf")
    found = (said for sign, said in _SIGNS if re.match(sign, head, re.IGNORECASE))
    return next(found, None)


def of_file(file: pathlib.Path) -> str | None:
    """Say what a file is that could not be read; None if it cannot be opened either."""
    try:
        with file.open("rb") as handle:
            return of(handle.read(HEAD))
    except OSError:
        return None
