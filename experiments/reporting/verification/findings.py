"""What does not agree in a run folder, and how a file of it is read that may say anything."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

MOST = 20
"""Findings of one kind that are named; more are counted."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that does not agree with the rest of a run folder.

    Attributes:
        file: where it is.
        place: in the file, such as a line and its row; empty for the file as a whole.
        what: is wrong with it, to be read after file and place.
    """

    file: pathlib.Path
    place: str
    what: str

    def __str__(self) -> str:
        """Return one line; it may hold what a terminal obeys, as file names do."""
        return f"{self.file}: {f'{self.place} ' if self.place else ''}{self.what}"


def some(findings: list[Finding]) -> list[Finding]:
    """Return the first findings of a kind, and how many more there are."""
    if len(findings) <= MOST:
        return findings
    more = Finding(findings[0].file, "", f"and {len(findings) - MOST} more of these")
    return [*findings[:MOST], more]


def content(file: pathlib.Path) -> bytes | Finding:
    """Return a file's bytes, or that it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        return Finding(file, "", f"cannot be read: {error.strerror}")


def mapping(file: pathlib.Path) -> tuple[dict[str, Any], list[Finding]]:
    """Read a file that ``atomic.write`` wrote from a mapping.

    Returns:
        (the mapping, empty if there is none; what is wrong: no JSON, or not the very bytes that
        its content is written with, as where a space became another).
    """
    data = content(file)
    if isinstance(data, Finding):
        return {}, [data]
    try:
        found = json.loads(data)
        written = (json.dumps(found, indent=2, allow_nan=False) + "\n").encode()
    except (ValueError, RecursionError) as error:
        return {}, [Finding(file, "", f"is no JSON: {error}")]
    if not isinstance(found, dict):
        return {}, [Finding(file, "", "is no JSON object")]
    if written != data:
        place = where(data, first_difference(data, written))
        return found, [Finding(file, place, "is not as it was written")]
    return found, []


def first_difference(one: bytes, other: bytes) -> int:
    """Return the first place where two texts differ, the shorter one's end if nowhere else."""
    same, end = 0, min(len(one), len(other))
    while same < end:
        middle = (same + end + 1) // 2
        if one[same:middle] == other[same:middle]:
            same = middle
        else:
            end = middle - 1
    return same


def where(data: bytes, offset: int) -> str:
    """Return the line and byte of a place, lines counted from 1 and bytes from 0."""
    line = data.count(b"\n", 0, offset) + 1
    return f"line {line}, byte {offset}"


def is_misspelt(stored: Any, digest: str) -> bool:
    """Return whether a stored digest is this one with some of its digits changed.

    Two unrelated digests of 64 hex digits agree in about 4 of them: one that agrees in half was
    changed itself, and what it is the digest of was not.
    """
    if not isinstance(stored, str) or len(stored) != len(digest):
        return False
    same = sum(a == b for a, b in zip(stored, digest, strict=True))
    return len(digest) / 2 <= same < len(digest)


def unlike(stored: Any, digest: str) -> str:
    """Say how a digest is not the one that it should be."""
    if is_misspelt(stored, digest):
        place = first_difference(stored.encode(), digest.encode())
        return f"was altered itself: {digest} is right, its digit {place + 1} is another"
    return f"is {stored!s:.16}…, not {digest:.16}…"
