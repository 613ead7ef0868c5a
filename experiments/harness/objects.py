"""Run folders in an object store (gs://, s3://, …), where only whole objects can be written.

A run in a store works in a folder of this machine, as any run does. What is in the store is
brought there first; whole files go back when they change; records go in segments:

    records-00003-of-00008.seg00017.<8 digits of its sha256>.jsonl

After 512 rows, after a minute, and at the end, the rows that were appended since become a segment,
a file that is never changed again, and one new object. That it is there is the commit, and writing
it twice changes nothing.
"""

from __future__ import annotations

import hashlib
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from absl import logging

from experiments.harness import records
from experiments.harness.errors import InputError, InterruptedRunError
from experiments.harness.shards import Shard
from llava_jax import atomic

_ROWS, _SECONDS = 512, 60.0
"""After so many rows, or so much time, there is a new segment."""
_SEGMENT = ".seg"


def is_url(out: str) -> bool:
    """Return whether a run folder is in an object store."""
    return "://" in out


class Store:
    """A run folder in an object store, and the folder of this machine that stands for it.

    Attributes:
        folder: of this machine.
    """

    def __init__(self, url: str, folder: pathlib.Path):
        """Connect.

        Args:
            url: as fsspec knows it.
            folder: of this machine; made if it is not there.

        Raises:
            InputError: there is no such store, or the package that knows it is not installed.
        """
        import fsspec

        self.folder = folder
        self._url = url
        try:
            files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError, OSError) as error:
            raise InputError(f"--out={url}: {error}") from None
        self._files: Any = files
        self._root = root.rstrip("/")
        self._sent: dict[str, str] = {}

    def fetch(self) -> None:
        """Bring what is in the store to this machine.

        Raises:
            InputError: it cannot be read.
        """
        try:
            self._files.invalidate_cache()
            found = self._files.find(self._root) if self._files.exists(self._root) else []
            for name in (entry.removeprefix(self._root).lstrip("/") for entry in found):
                file = (self.folder / name).resolve()
                if not file.is_relative_to(self.folder.resolve()):
                    raise InputError(f"--out={self._url} holds {name!r}, which leaves the folder")
                if not (_is_segment(file) and file.is_file()):
                    file.parent.mkdir(parents=True, exist_ok=True)
                    atomic.write(file, self._files.cat_file(f"{self._root}/{name}"))
                self._sent[name] = _sha256(file.read_bytes())
        except OSError as error:
            raise InputError(f"--out={self._url} cannot be read: {error}") from None

    def send(self) -> None:
        """Bring whole files that are new or changed to the store, seals last.

        Raises:
            InterruptedRunError: they could not be written; they are still on this machine.
        """
        files = [file for file in self.folder.rglob("*") if file.is_file() and not _is_own(file)]
        for file in sorted(files, key=lambda file: (file.name == records.SEALED, file)):
            self.send_file(file)

    def send_file(self, file: pathlib.Path) -> None:
        """Write a file of the folder as one object, if the store does not have it.

        Raises:
            InterruptedRunError: it could not be written.
        """
        content = file.read_bytes()
        name, digest = file.relative_to(self.folder).as_posix(), _sha256(content)
        if self._sent.get(name) == digest:
            return
        place = f"{self._root}/{name}"
        try:
            self._files.makedirs(place.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(place, content)
        except OSError as error:
            raise InterruptedRunError(f"{self._url}/{name} cannot be written: {error}") from None
        self._sent[name] = digest


class Segments:
    """A process's records of one setting, which go to a store piece by piece.

    Attributes:
        shard: the rows that are in no segment yet.
    """

    def __init__(self, shard: Shard, store: Store):
        self.shard = shard
        self._store = store
        content = shard.file.read_bytes()
        if any(file.read_bytes() == content for file in self._files()):
            shard.clear()  # a kill came between the two steps of _seal
            content = b""
        self._waiting = content.count(b"\n")
        self._since = time.monotonic()

    def append(
        self, rows: Sequence[records.Record], failures: Sequence[records.Failure] = ()
    ) -> None:
        """Write a batch on this machine; now and then it ends a segment.

        Raises:
            InterruptedRunError: the disk is full.
        """
        self.shard.append(rows, failures)
        self._waiting += len(rows)
        if self._waiting >= _ROWS or time.monotonic() - self._since > _SECONDS:
            self._seal()

    def sync(self) -> None:
        """Wait for the disk, and bring new segments to the store; any thread may.

        Raises:
            InterruptedRunError: the disk is full.
        """
        self.shard.sync()
        try:
            self._send()
        except InterruptedRunError as error:
            logging.warning("%s; it is tried again later", error)

    def close(self) -> None:
        """Seal and send what is left, and release the lock.

        Raises:
            InterruptedRunError: the store could not be written; the rows are on this machine.
        """
        try:
            self._seal()
            self._send()
        finally:
            self.shard.close()

    def _files(self) -> list[pathlib.Path]:
        """Return the segments of this process, whole files of this machine."""
        file = self.shard.file
        return sorted(file.parent.glob(f"{file.stem}{_SEGMENT}*.jsonl"))

    def _seal(self) -> None:
        """Make a segment of the waiting rows."""
        if content := self.shard.file.read_bytes():
            name = f"{self.shard.file.stem}{_SEGMENT}{len(self._files()):05d}"
            atomic.write(self.shard.file.with_name(f"{name}.{_sha256(content)[:8]}.jsonl"), content)
            self.shard.clear()
        self._waiting, self._since = 0, time.monotonic()

    def _send(self) -> None:
        for file in self._files():
            self._store.send_file(file)


def _is_segment(file: pathlib.Path) -> bool:
    return _SEGMENT in file.name


def _is_own(file: pathlib.Path) -> bool:
    """Return whether a file is of this machine alone: rows that wait, locks, unfinished files."""
    waiting = file.name.startswith("records-") and file.suffix == ".jsonl"
    return (waiting and not _is_segment(file)) or file.suffix == ".owner" or file.name[0] == "."


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
