"""Where a process's records go: a file that it alone appends to.

    records-00003-of-00008.jsonl     of process 3 of 8, one line per answer
    failures-00003-of-00008.jsonl    questions that could not be answered

A batch is one write: from then on it survives ``kill -9``. It is counted when fdatasync has come
back, and survives a power cut. The file is locked as long as its process lives, and a lock dies
with its owner.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterable, Iterator, Sequence

from experiments.harness import records
from experiments.harness.errors import NO_SPACE, InputError, InterruptedRunError
from experiments.harness.records import Failure, Record
from llava_jax import atomic

_BLOCK = 2**16


def path(folder: pathlib.Path, process: int, count: int) -> pathlib.Path:
    """Return the record file of one of several processes."""
    return folder / f"records-{process:05d}-of-{count:05d}.jsonl"


def refuse_busy(file: pathlib.Path) -> None:
    """Refuse a record file that another process holds.

    Raises:
        InputError: it names host and process.
    """
    if file.is_file():
        number = os.open(file, os.O_RDWR)
        try:
            _lock(number, file)
        finally:
            os.close(number)


class Shard:
    """A process's records of one setting.

    Attributes:
        file: where its rows are.
    """

    def __init__(self, folder: pathlib.Path, process: int = 0, count: int = 1):
        self.file = path(folder, process, count)
        self._rows = _Appender(self.file)
        self._failures = folder / self.file.name.replace("records", "failures")
        self._known = {(row.get("key"), row.get("reason")) for row in records.read(self._failures)}

    def append(self, rows: Sequence[Record], failures: Sequence[Failure] = ()) -> None:
        """Write a batch.

        Raises:
            InterruptedRunError: the disk is full; what was written before stays valid.
        """
        self._rows.write(rows)
        new = [row for row in failures if (row.key, row.reason) not in self._known]
        if new:
            appender = _Appender(self._failures)
            try:
                appender.write(new)
                appender.sync()
            finally:
                appender.close()
            self._known |= {(row.key, row.reason) for row in new}

    def sync(self) -> None:
        """Wait until what was written is on the disk; any thread may.

        Raises:
            InterruptedRunError: the disk is full.
        """
        self._rows.sync()

    def clear(self) -> None:
        """Forget the rows: they are kept elsewhere."""
        self._rows.clear()

    def close(self) -> None:
        """Wait for the disk and release the lock.

        Raises:
            InterruptedRunError: the disk is full.
        """
        try:
            self._rows.sync()
        finally:
            self._rows.close()


class _Appender:
    """An append-only file under flock; a torn last line is cut off when it is opened."""

    def __init__(self, file: pathlib.Path):
        self._file = file
        self._owner = file.with_suffix(".owner")
        self._number = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            _lock(self._number, file)
            self._owner.write_text(f"{socket.gethostname()}, process {os.getpid()}", "utf-8")
            self._cut_torn_tail()
            atomic.sync(file.parent)
        except BaseException:
            os.close(self._number)
            raise

    def _cut_torn_tail(self) -> None:
        """Cut the file behind its last newline."""
        end = size = os.fstat(self._number).st_size
        while end:
            begin = max(end - _BLOCK, 0)
            if newline := os.pread(self._number, end - begin, begin).rfind(b"\n") + 1:
                end = begin + newline
                break
            end = begin
        if end != size:
            os.ftruncate(self._number, end)

    def write(self, rows: Iterable[Record | Failure]) -> None:
        """Append rows in one write."""
        data = b"".join(map(records.to_line, rows))
        with self._space():
            while data:
                data = data[os.write(self._number, data) :]

    def sync(self) -> None:
        """Wait until all is on the disk."""
        with self._space():
            os.fdatasync(self._number)

    @contextlib.contextmanager
    def _space(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in NO_SPACE:
                raise InterruptedRunError(f"no space left for {self._file}") from None
            raise

    def clear(self) -> None:
        os.ftruncate(self._number, 0)

    def close(self) -> None:
        self._owner.unlink(missing_ok=True)
        os.close(self._number)


def _lock(number: int, file: pathlib.Path) -> None:
    """Lock an open file.

    Raises:
        InputError: another process holds it.
    """
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = file.with_suffix(".owner")
        name = owner.read_text("utf-8") if owner.is_file() else "another process"
        raise InputError(f"{file} is being written by {name}") from None
