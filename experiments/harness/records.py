"""The record format: one line per answered question, append-only, checked by CRC.

A line is canonical JSON (sorted keys, no spaces, finite numbers only) whose last field ``crc`` is
the CRC32 of the line without it. A batch is one write followed by fdatasync. Floats carry all
their digits, so tables can be made again bit for bit. Both programs meet in this format.
"""

from __future__ import annotations

import base64
import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import socket
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.harness.errors import InputError, InterruptedRunError

SCHEMA = 1
RUN, SEALED = "run.json", "SEALED"
"""Beside the records: what the run is, and that no record is missing."""

_CRC = b',"crc":"'


@dataclasses.dataclass(frozen=True)
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
            last one; a token made of others has no bit of its own after a cut in the decoder.
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


@dataclasses.dataclass(frozen=True)
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


def canonical(value: Any) -> bytes:
    """Return canonical JSON bytes: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def canonical_copy(value: Any) -> Any:
    """Return a value as it comes back from JSON: tuples as lists."""
    return json.loads(canonical(value))


def to_line(row: Record | Failure) -> bytes:
    """Return a row's line, newline included.

    Raises:
        ValueError: a number is not finite.
    """
    fields = {"v": SCHEMA} | dataclasses.asdict(row)
    if fields.get("text_log_probs", ()) is None:
        del fields["text_log_probs"]
    body = canonical(fields)
    return body[:-1] + _CRC + f'{zlib.crc32(body):08x}"}}\n'.encode()


def from_line(line: bytes) -> dict[str, Any] | None:
    """Return the fields of a line without its newline, None if it is torn or altered."""
    body, mark, tail = line.rpartition(_CRC)
    body += b"}"
    if not mark or tail != f'{zlib.crc32(body):08x}"}}'.encode():
        return None
    fields = json.loads(body)
    return fields if fields.pop("v", None) == SCHEMA else None


def read(file: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yield the fields of every valid line of a file; damaged lines are passed over."""
    if file.is_file():
        with file.open("rb") as handle:
            for line in handle:
                if line.endswith(b"\n") and (fields := from_line(line[:-1])) is not None:
                    yield fields


def read_records(folder: pathlib.Path) -> dict[str, Record]:
    """Read all record shards of a setting's folder, the first valid line of a key winning.

    Raises:
        InputError: two different records of one key, or rows of another run.
    """
    found: dict[str, Record] = {}
    for file in sorted(folder.glob("records-*.jsonl")):
        for fields in read(file):
            record = Record(**fields | _tuples(fields))
            first = found.setdefault(record.key, record)
            if first != record:
                raise InputError(f"{file}: two different records of {record.key}")
    if len(runs := {record.run for record in found.values()}) > 1:
        raise InputError(f"{folder}: records of several runs: {sorted(runs)}")
    return found


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that JSON turned into lists."""
    return {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}


class Writer:
    """Appends rows to one shard and holds its lock for the life of the process."""

    def __init__(self, folder: pathlib.Path, shard: int = 0, num_shards: int = 1):
        name = f"{shard:05d}-of-{num_shards:05d}"
        self._rows = _Appender(folder / f"records-{name}.jsonl")
        self._failures = folder / f"failures-{name}.jsonl"
        self._known = {(row["key"], row["reason"]) for row in read(self._failures)}

    def append(self, rows: Sequence[Record], failures: Sequence[Failure] = ()) -> None:
        """Make a batch durable.

        Raises:
            InterruptedRunError: the disk is full; what was written before stays valid.
        """
        self._rows.write(rows)
        new = [row for row in failures if (row.key, row.reason) not in self._known]
        if new:
            appender = _Appender(self._failures)
            appender.write(new)
            appender.close()
            self._known |= {(row.key, row.reason) for row in new}

    def close(self) -> None:
        """Release the lock."""
        self._rows.close()


class _Appender:
    """An append-only file under flock; a torn last line is cut off when it is opened."""

    def __init__(self, file: pathlib.Path):
        self._file = file
        self._owner = file.with_suffix(".owner")
        self._fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            owner = self._owner.read_text() if self._owner.is_file() else "another process"
            raise InputError(f"{file} is being written by {owner}") from None
        self._owner.write_text(f"{socket.gethostname()}, process {os.getpid()}")
        self._cut_torn_tail()

    def _cut_torn_tail(self) -> None:
        content = self._file.read_bytes()
        end = content.rfind(b"\n") + 1
        if end != len(content):
            os.ftruncate(self._fd, end)

    def write(self, rows: Iterable[Record | Failure]) -> None:
        """Append rows in one write and wait until they are on the disk."""
        data = b"".join(map(to_line, rows))
        if not data:
            return
        try:
            while data:
                data = data[os.write(self._fd, data) :]
            os.fdatasync(self._fd)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise InterruptedRunError(f"no space left for {self._file}") from None
            raise

    def close(self) -> None:
        self._owner.unlink(missing_ok=True)
        os.close(self._fd)


def write_atomically(file: pathlib.Path, content: str | Mapping[str, Any]) -> None:
    """Replace a file by content (JSON for a mapping): the old one or the new one, never half."""
    if not isinstance(content, str):
        content = json.dumps(content, indent=2, allow_nan=False) + "\n"
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with temporary.open("w") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(file)
    directory = os.open(file.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
