"""A sealed setting's rows: the record files, the table beside them, and the seal over both.

The seal has a digest of every file and one of the sorted rows. The rows are there twice, as lines
with a checksum each and as records.parquet: what is damaged in one copy is named by the other.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from experiments.harness import records
from experiments.reporting.verification import findings
from experiments.reporting.verification.findings import Finding

TABLE = "records.parquet"
_KEY = re.compile(rb'"key":("(?:[^"\\]|\\.)*")')
_LINES = re.compile(rb"[^\n]*\n|[^\n]+")
_SEAL = {"rows": int, "sha256": str, "files": dict}


@dataclasses.dataclass(frozen=True)
class Rows:
    """What became of a setting's rows.

    Attributes:
        lines: the first valid line of every key, newline included.
        findings: what does not agree.
        num_files: of rows, the table and the seal included.
    """

    lines: Mapping[str, bytes]
    findings: list[Finding]
    num_files: int


@dataclasses.dataclass(frozen=True)
class _Line:
    """A line of a record file, counted from 1; its key if it is valid."""

    number: int
    offset: int
    data: bytes
    key: str | None


def check(folder: pathlib.Path) -> Rows:
    """Compare a setting's rows with its seal, and where they differ its two copies of them.

    Args:
        folder: of the setting.
    """
    seal, found = _seal(folder / records.SEALED)
    names = [file.name for file in records.files(folder)]
    names += [TABLE] if (folder / TABLE).exists() else []
    read = {name: findings.content(folder / name) for name in names}
    found += [data for data in read.values() if isinstance(data, Finding)]
    files = {name: data for name, data in read.items() if isinstance(data, bytes)}
    altered, others = _compare_files(folder, seal, files)
    found += others
    split = {name: _split(data) for name, data in files.items() if name != TABLE}
    lines: dict[str, bytes] = {}
    for line in (line for part in split.values() for line in part if line.key is not None):
        lines.setdefault(str(line.key), line.data)
    torn = {folder / name: split[name] for name in altered if name in split}
    if torn:
        copy = _table(files[TABLE]) if TABLE in files and TABLE not in altered else ""
        found += _compare_lines(torn, lines, copy if isinstance(copy, dict) else {})
    elif seal and not others:
        found += _compare_sum(folder / records.SEALED, seal, lines)
    if TABLE in altered:
        found += _compare_table(folder / TABLE, files[TABLE], lines)
    return Rows(lines, found, len(names) + 1)


def _seal(file: pathlib.Path) -> tuple[dict[str, Any], list[Finding]]:
    """Return the contents of a seal, empty if it is none."""
    if not file.exists():
        what = "is not there: the setting is not finished; the run's own command again finishes it"
        return {}, [Finding(file, "", what)]
    seal, found = findings.mapping(file)
    if found and not seal:
        return {}, found
    if {name: type(value) for name, value in seal.items()} != _SEAL:
        what = "is no seal: it has not just rows, sha256 and files"
        return {}, [*found, Finding(file, "", what)]
    return seal, found


def _compare_files(
    folder: pathlib.Path, seal: Mapping[str, Any], files: Mapping[str, bytes]
) -> tuple[list[str], list[Finding]]:
    """Compare every file with the digest in the seal.

    Returns:
        (names of the files that were altered, findings about the others and the seal).
    """
    if not seal:
        return [], []
    file, sealed = folder / records.SEALED, seal["files"]
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    altered, found = [], []
    for name, digest in sealed.items():
        if name in digests:
            if findings.is_misspelt(digest, digests[name]):
                found.append(Finding(file, f"files.{name}", findings.unlike(digest, digests[name])))
            elif digest != digests[name]:
                altered.append(name)
        elif digest in digests.values():
            found.append(Finding(file, f"files.{name}", "has the digest of a file of another name"))
        else:
            found.append(Finding(folder / name, "", "was sealed and is not there"))
    for name in digests.keys() - sealed.keys():
        if files[name] and digests[name] not in sealed.values():
            found.append(Finding(folder / name, "", "was not there when the folder was sealed"))
    return altered, found


def _split(data: bytes) -> list[_Line]:
    """Return the lines of a record file."""
    found, offset = [], 0
    for number, line in enumerate(_LINES.findall(data), 1):
        fields = records.from_line(line[:-1]) if line.endswith(b"\n") else None
        key = fields.get("key") if fields else None
        found.append(_Line(number, offset, line, key if isinstance(key, str) else None))
        offset += len(line)
    return found


def _compare_lines(
    altered: Mapping[pathlib.Path, Sequence[_Line]],
    lines: Mapping[str, bytes],
    copy: Mapping[str, bytes],
) -> list[Finding]:
    """Find the rows for which record files differ from what was sealed.

    Args:
        altered: the files' lines.
        lines: all valid ones.
        copy: the rows as they were sealed; empty if the table does not tell.
    """
    found, missing = [], copy.keys() - lines.keys()
    named: set[str] = set()
    for file, parts in altered.items():
        own = []
        for line in parts:
            if line.key is None:
                keys = _keys(line.data, copy, missing) if len(own) < findings.MOST else []
                named.update(keys)
                own.append(_damaged(file, line, keys, copy))
            elif copy and copy.get(line.key) != line.data:
                what = _other_row(line.data, copy.get(line.key))
                own.append(Finding(file, f"line {line.number} ({line.key})", what))
        if not own and missing <= named:
            own.append(Finding(file, "", _NO_ROW if copy else _NO_COPY))
        found += findings.some(own)
    lost = sorted(missing - named) if len(found) < findings.MOST else []
    file = next(iter(altered))
    return found + findings.some([Finding(file, key, "is a row that is missing") for key in lost])


_NO_ROW = "is not what was sealed, though it has those rows: in another order, or twice"
_NO_COPY = f"is not what was sealed; without {TABLE} its rows cannot be named"


def _keys(data: bytes, copy: Mapping[str, bytes], missing: Collection[str]) -> list[str]:
    """Return the keys of a damaged line: those it has, else that of the likest missing row."""
    read = set()
    for word in _KEY.findall(data):
        try:
            read.add(json.loads(word))
        except ValueError:
            continue
    if not copy:
        return sorted(read)
    if known := read & (set(missing) or copy.keys()):
        return sorted(known)
    return [max(sorted(missing), key=lambda key: _alike(data, copy[key]))] if missing else []


def _alike(one: bytes, other: bytes) -> int:
    """Return how many bytes two lines have in common at their ends."""
    ends = findings.first_difference(one[::-1], other[::-1])
    return findings.first_difference(one, other) + ends


def _damaged(
    file: pathlib.Path, line: _Line, keys: Sequence[str], copy: Mapping[str, bytes]
) -> Finding:
    """Say which line is damaged, whose it is, and where."""
    row = copy.get(keys[0]) if len(keys) == 1 else None
    inside = findings.first_difference(line.data, row) if row else 0
    name = f" ({', '.join(keys)})" if keys else ""
    place = f"line {line.number}{name}, byte {line.offset + inside}"
    return Finding(file, place, "is damaged: its checksum does not fit")


def _other_row(line: bytes, sealed: bytes | None) -> str:
    """Say how a valid line differs from the row that was sealed."""
    if sealed is None:
        return "is a row that was not sealed"
    now, then = (records.from_line(x[:-1]) or {} for x in (line, sealed))
    names = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
    return f"is another row than was sealed, with a checksum that fits: {', '.join(names)}"


def _compare_table(file: pathlib.Path, data: bytes, lines: Mapping[str, bytes]) -> list[Finding]:
    """Find the rows for which a table that was altered differs from the record files."""
    copy = _table(data)
    if isinstance(copy, str):
        return [Finding(file, "", f"was altered and cannot be read: {copy}")]
    keys = sorted(key for key in copy.keys() | lines.keys() if copy.get(key) != lines.get(key))
    if not keys:
        return [Finding(file, "", "was altered, though its rows are those of the record files")]
    what = "is not the row of the record files"
    return findings.some([Finding(file, f"row {key}", what) for key in keys])


def _table(data: bytes) -> dict[str, bytes] | str:
    """Return a table's rows as lines, by key, or why there are none."""
    import pyarrow as pa
    import pyarrow.parquet

    found = {}
    try:
        for row in pyarrow.parquet.read_table(pa.BufferReader(data)).to_pylist():
            crc = row.pop("crc")
            if row["text_log_probs"] is None:
                del row["text_log_probs"]
            found[str(row["key"])] = records.canonical(row)[:-1] + f',"crc":"{crc}"}}\n'.encode()
    except Exception as error:  # whatever Arrow says of bytes that may be anything
        return str(error)
    return found


def _compare_sum(
    file: pathlib.Path, seal: Mapping[str, Any], lines: Mapping[str, bytes]
) -> list[Finding]:
    """Compare the rows with the seal's digest of them and their number."""
    total = hashlib.sha256()
    for key in sorted(lines):
        total.update(lines[key])
    found = []
    if seal["rows"] != len(lines):
        found.append(Finding(file, "rows", f"is {seal['rows']}, there are {len(lines)}"))
    if seal["sha256"] != total.hexdigest():
        found.append(Finding(file, "sha256", findings.unlike(seal["sha256"], total.hexdigest())))
    return found
