"""Whether a model's files have the bits that its folder says they have.

Two sources say so: a file ``SHA256SUMS`` in the format of coreutils, and the hub's local cache,
where a file is a link to one that is called by the sha256 of its content.
"""

from __future__ import annotations

import hashlib
import pathlib
import re
from collections.abc import Iterable, Mapping

from llava_jax import atomic

NAME = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def of_file(file: pathlib.Path) -> str:
    """Return the sha256 of a file's content."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def verify(folder: pathlib.Path, found: Mapping[pathlib.Path, str]) -> None:
    """Compare files with what their folder says of them.

    Args:
        folder: of the model.
        found: file of the folder → its sha256.

    Raises:
        ValueError: some differ, which are named; or ``SHA256SUMS`` is not a list of sums.
    """
    listed = _listed(folder)
    wrong = []
    for file, sha256 in found.items():
        claims = {NAME: listed.get(_name(folder, file)), "the hub": _blob(file)}
        for who, right in claims.items():
            if right and right != sha256:
                wrong.append(f"{file} has sha256 {sha256[:12]}…, {who} says {right[:12]}…")
    if wrong:
        raise ValueError(f"{'; '.join(wrong)}: its bits have changed, fetch it anew")


def write(folder: pathlib.Path, files: Iterable[pathlib.Path]) -> None:
    """Write ``SHA256SUMS`` about files of a folder; ``sha256sum -c`` reads it too."""
    sums = sorted((_name(folder, file), of_file(file)) for file in files)
    atomic.write(folder / NAME, "".join(f"{sha256}  {name}\n" for name, sha256 in sums))


def absent(folder: pathlib.Path) -> list[str]:
    """Return the files that ``SHA256SUMS`` lists and the folder does not have."""
    return sorted(name for name in _listed(folder) if not (folder / name).is_file())


def _name(folder: pathlib.Path, file: pathlib.Path) -> str:
    return file.relative_to(folder).as_posix()


def _listed(folder: pathlib.Path) -> dict[str, str]:
    """Return name → sha256 as the folder's list has it; nothing without a list.

    Raises:
        ValueError: ``SHA256SUMS`` is not a list of sums.
    """
    file = folder / NAME
    if not file.is_file():
        return {}
    found = {}
    for number, line in enumerate(file.read_text("utf-8", "replace").splitlines(), 1):
        if not (parts := _LINE.fullmatch(line)):
            raise ValueError(f"{file} line {number} is not '<sha256>  <file>': {line[:80]!r}")
        found[pathlib.PurePosixPath(parts[2]).as_posix()] = parts[1].lower()
    return found


def _blob(file: pathlib.Path) -> str | None:
    """Return the sha256 that a file of the hub's cache is stored under; small ones have none."""
    if not file.is_symlink():
        return None
    blob = file.resolve()
    return blob.name if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) else None
