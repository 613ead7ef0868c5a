"""The record format: one line per answered question, checked by CRC.

A line is canonical JSON (sorted keys, no spaces, finite numbers only) whose last field ``crc`` is
the CRC32 of the line without it. Floats carry all their digits, so tables can be made again bit
for bit. Both programs meet in this format.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import pathlib
import types
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging

from experiments.harness.errors import InputError

SCHEMA = 1
RUN, SEALED = "run.json", "SEALED"
"""Beside the records: what the run is, and that no record is missing."""

_CRC = b',"crc":"'
_LONGEST = 2**24  # bytes of a line; a longer one is no row


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """Raw evidence of one answer; no metric is ever stored.

    Attributes:
        key: the question, unique within the benchmark.
        image: its picture.
        split: the part of the benchmark it is reported in.
        label: index of the right answer, beyond log_masses if it is none of them; None if the
            question is open.
        log_masses: log of the full softmax's mass on each answer's tokens; none if it is open.
        answer_log_mass: log of the mass on all answers together; None if it is open.
        token: id of the most probable first token.
        text: generated text, None on the first-token route.
        budget: tokens asked for, K.
        kept: base64 of the kept tokens' bit mask, the first token the highest bit, CLS behind the
            last one; a token made of others has no bit of its own after a cut in the decoder. Of a
            LLaVA-NeXT all tiles' tokens are counted through, a CLS for each tile behind them.
        run: first 16 hex digits of the run's fingerprint.
        text_log_probs: log probability of each generated token, the end token included if it was
            said; None, and no field of the line, on the first-token route.
    """

    key: str
    image: str
    split: str
    label: int | None
    log_masses: tuple[float, ...]
    answer_log_mass: float | None
    token: int
    text: str | None
    budget: int
    kept: str
    run: str
    text_log_probs: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """A question that could not be answered; it never counts as done.

    Attributes:
        key: the question.
        image: its picture.
        reason: one line.
        run: first 16 hex digits of the run's fingerprint.
    """

    key: str
    image: str
    reason: str
    run: str


def pack_mask(kept: np.ndarray, num_tokens: int) -> str:
    """Return the base64 bit mask of kept tokens int[K] out of N; N is CLS, below 0 is none."""
    mask = np.zeros(max(num_tokens, kept.max(initial=-1) + 1), bool)
    mask[kept[kept >= 0]] = True
    return base64.b64encode(np.packbits(mask).tobytes()).decode()


def unpack_mask(text: str, num_tokens: int) -> np.ndarray:
    """Return bool[num_tokens] of a packed mask."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8))[:num_tokens].astype(bool)


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical(value: Any) -> bytes:
    """Return canonical JSON bytes: sorted keys, no spaces."""
    return _CANONICAL.encode(value).encode()


def canonical_copy(value: Any) -> Any:
    """Return a value as it comes back from JSON: tuples as lists."""
    return json.loads(canonical(value))


def to_line(row: Record | Failure) -> bytes:
    """Return a row's line, newline included.

    Raises:
        ValueError: a number is not finite.
    """
    fields = {"v": SCHEMA} | {name: getattr(row, name) for name in row.__dataclass_fields__}
    if fields.get("text_log_probs", ()) is None:
        del fields["text_log_probs"]
    body = canonical(fields)
    return body[:-1] + _CRC + f'{zlib.crc32(body):08x}"}}\n'.encode()


def from_line(line: bytes) -> dict[str, Any] | None:
    """Return the fields of a line without its newline, None if it is torn, altered or foreign."""
    body, mark, tail = line.rpartition(_CRC)
    body += b"}"
    if not mark or tail != f'{zlib.crc32(body):08x}"}}'.encode():
        return None
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):  # a checksum can be had by anyone
        return None
    return fields if isinstance(fields, dict) and fields.pop("v", None) == SCHEMA else None


def read(file: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yield the fields of every valid line of a file; damaged ones are passed over and counted."""
    return (fields for fields, _ in _lines(file))


def _lines(file: pathlib.Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield fields and bytes of every valid line of a file."""
    if not file.is_file():
        return
    damaged = 0
    with file.open("rb") as handle:
        while line := handle.readline(_LONGEST):
            whole = line.endswith(b"\n")
            fields = from_line(line[:-1]) if whole else None
            if fields is not None:
                yield fields, line
            elif whole or len(line) == _LONGEST:  # not the torn tail of a process that was killed
                damaged += 1
    if damaged:
        logging.warning("%s: %d damaged lines are passed over", file, damaged)


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the record files of a setting's folder: one per process, or its sealed segments."""
    return sorted(folder.glob("records-*.jsonl"))


def read_records(folder: pathlib.Path) -> dict[str, Record]:
    """Read all record files of a setting's folder, the first valid line of a key winning.

    Raises:
        InputError: two different records of one key, rows of another run, or rows that are no
            records.
    """
    found: dict[str, Record] = {}
    for file in files(folder):
        for fields in read(file):
            record = _record(fields, file)
            first = found.setdefault(record.key, record)
            if first is not record and first != record:
                raise InputError(f"{file}: two different records of {record.key!r}")
    if len(runs := {record.run for record in found.values()}) > 1:
        raise InputError(f"{folder}: records of several runs: {sorted(runs)}")
    return found


def read_lines(folder: pathlib.Path) -> dict[str, bytes]:
    """Return the first valid line of every key of a setting's folder, newline included.

    Raises:
        InputError: two different records of one key.
    """
    found: dict[str, bytes] = {}
    for file in files(folder):
        for fields, line in _lines(file):
            key = _record(fields, file).key
            if found.setdefault(key, line) != line:
                raise InputError(f"{file}: two different records of {key!r}")
    return found


def are_there(folder: pathlib.Path) -> bool:
    """Return whether a setting's folder has a record."""
    return any(True for file in files(folder) for _ in read(file))


def read_failures(folder: pathlib.Path) -> set[str]:
    """Return the keys of all questions that failed once, whether or not they were answered since.

    Raises:
        InputError: a row without a key.
    """
    keys = set()
    for file in sorted(folder.glob("failures-*.jsonl")):
        for fields in read(file):
            if not isinstance(fields.get("key"), str):
                raise InputError(f"{file}: a row without a key")
            keys.add(fields["key"])
    return keys


def _record(fields: dict[str, Any], file: pathlib.Path) -> Record:
    """Return a line's record.

    Raises:
        InputError: the fields are not a record's; their checksum was right, so somebody wrote them.
    """
    for name in _LISTS:
        if type(value := fields.get(name)) is list:
            fields[name] = tuple(value)
    where = f"{file}: the row of {fields.get('key')!r:.80} is no record"
    try:
        record = Record(**fields)
    except TypeError as error:  # absent or unknown fields
        raise InputError(f"{where}: {str(error).partition('() ')[2]}") from None
    for name, kinds in _KINDS.items():
        if type(value := getattr(record, name)) not in kinds:
            raise InputError(f"{where}: {name} cannot be {value!r:.80}")
    for name in _LISTS:
        if not all(map(_is_number, value := getattr(record, name) or ())):
            raise InputError(f"{where}: {name} cannot be {value!r:.80}")
    if not _is_number(record.answer_log_mass or 0.0):
        raise InputError(f"{where}: answer_log_mass cannot be {record.answer_log_mass!r:.80}")
    if not 0 <= (record.label or 0) < _MOST_CHOICES:
        raise InputError(f"{where}: label cannot be {record.label}")
    return record


def _is_number(value: Any) -> bool:
    return type(value) in (float, int) and abs(value) <= _LARGEST


_MOST_CHOICES = 1024
_LARGEST = float(np.finfo(np.float32).max)
_LISTS = ("log_masses", "text_log_probs")
_KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("key", "image", "split", "kept", "run"), (str,)),
    **dict.fromkeys(("token", "budget"), (int,)),
    "label": (int, types.NoneType),
    "text": (str, types.NoneType),
    "log_masses": (tuple,),
    "answer_log_mass": (float, int, types.NoneType),
    "text_log_probs": (tuple, types.NoneType),
}
"""What each field of a record may be."""
