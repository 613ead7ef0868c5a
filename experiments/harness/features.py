"""What the vision tower said of pictures, kept on disk: the second run never asks it again.

    <folder>/<two digits>/<key>.<output>      a line {"crc", "dtype", "shape"}, then the bytes

``key`` is the sha256 of all that decides the output: the picture's content, the weights, the
preprocessing and the dtype. Each output has a file of its own, so that one which a new pruner asks
for is computed and added. Files are complete or not there, carry a CRC, and may be deleted at any
time, by anyone: what is missing or damaged is computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from experiments.harness import records

_FREED = 0.9  # of the limit is left when a full cache has been emptied


class FeatureCache:
    """A folder of vision outputs that never grows much beyond a limit.

    Attributes:
        folder: where they are; made when the first one is kept.
        limit: bytes; 0 keeps nothing and finds nothing.
    """

    def __init__(self, folder: pathlib.Path, limit: int, identity: Mapping[str, Any]):
        self.folder = folder
        self.limit = limit
        self._identity = records.canonical(identity)
        self._size = sum(size for _, size, _ in self._files()) if limit else 0

    def get(self, picture: str | None, outputs: Sequence[str]) -> dict[str, np.ndarray] | None:
        """Return all outputs of a picture, or None if one is missing or damaged.

        Args:
            picture: digest of its content.
            outputs: names.
        """
        if not self.limit or picture is None:
            return None
        try:
            return {name: self._read(self._file(picture, name)) for name in outputs}
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def put(self, picture: str | None, outputs: Mapping[str, np.ndarray]) -> None:
        """Keep outputs of a picture, in the place of what was there.

        Args:
            picture: digest of its content.
            outputs: name → array.
        """
        if not self.limit or picture is None:
            return
        try:
            for name, value in outputs.items():
                self._write(self._file(picture, name), value)
        except OSError as error:  # answers do not depend on it
            logging.warning("features are not kept any more: %s", error)
            self.limit = 0
        if self._size > self.limit > 0:
            self._shrink()

    def _read(self, file: pathlib.Path) -> np.ndarray:
        head, _, body = file.read_bytes().partition(b"\n")
        content = json.loads(head)
        dtype, shape = content["dtype"], content["shape"]
        if content != _head(body, dtype, shape):
            raise ValueError(f"{file} is damaged")
        os.utime(file)  # the least recently used go first
        return np.frombuffer(body, dtype).reshape(shape)

    def _write(self, file: pathlib.Path, value: np.ndarray) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        body = value.tobytes()
        try:
            with temporary.open("wb") as handle:
                head = _head(body, value.dtype.name, list(value.shape))
                handle.writelines((records.canonical(head), b"\n", body))
            replaced = file.stat().st_size if file.exists() else 0
            self._size += temporary.stat().st_size - replaced
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)

    def _file(self, picture: str, output: str) -> pathlib.Path:
        key = hashlib.sha256(self._identity + picture.encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.{output}"

    def _files(self) -> list[tuple[int, int, str]]:
        """Return (time of last use, bytes, path) of every file, what a kill left included."""
        found = []
        for file in self.folder.glob("??/*"):
            try:
                status = file.stat()
            except FileNotFoundError:  # another process made room
                continue
            found.append((status.st_mtime_ns, status.st_size, str(file)))
        return found

    def _shrink(self) -> None:
        """Delete the least recently used files until nine tenths of the limit are left."""
        files = sorted(self._files())
        self._size = sum(size for _, size, _ in files)
        for _, size, file in files:
            if self._size <= _FREED * self.limit:
                break
            pathlib.Path(file).unlink(missing_ok=True)
            self._size -= size


def _head(body: bytes, dtype: str, shape: list[int]) -> dict[str, Any]:
    """Return the first line of a file, whose checksum covers all of it."""
    crc = zlib.crc32(body, zlib.crc32(f"{dtype}{shape}".encode()))
    return {"crc": crc, "dtype": dtype, "shape": shape}
