"""Torch's archives of tensors (``pytorch_model*.bin``), read without torch; nothing of them is run.

``torch.save`` writes a zip whose entries are stored as they are: ``data.pkl`` says how the tensors
are called and shaped, ``data/0``, ``data/1``, … are their storages, mapped where they lie. Source
of the format: torch/serialization.py (``_save``).
"""

from __future__ import annotations

import math
import pathlib
import re
import struct
import zipfile
import zlib
from typing import IO, Any

import ml_dtypes
import numpy as np

from llava_jax import diagnosis
from llava_jax.checkpoint import rules, tensors, unpickling

_DTYPES = dict(zip(unpickling.FLOATS, ("f8", "f4", "f2", ml_dtypes.bfloat16), strict=True))
_LONGEST = 1 << 22  # bytes of an entry that is read; data.pkl of a 13B's shard has 60 thousand
_PICKLE = r"[^/]+/data\.pkl"
_ZIP, _LOCAL_HEADER = b"PK\x03\x04", struct.Struct("<4s22xHH")


def read(file: pathlib.Path, ignored: str) -> dict[str, tensors.Tensor]:
    """List the tensors of a state dict that ``torch.save`` wrote.

    Args:
        file: the archive.
        ignored: pattern of keys to leave out, whatever their dtype.

    Returns:
        key → tensor; tensors may share bytes.

    Raises:
        ValueError: it is no such archive, asks for anything but tensors and dictionaries, or
            has tensors that are no contiguous floats within the file.
    """
    with file.open("rb") as handle:
        head = handle.read(diagnosis.HEAD)
        if not head.startswith(_ZIP):
            what = diagnosis.of(head) or "is no archive of torch.save"
            raise ValueError(f"{file} {what}")
        try:
            archive = _Archive(handle)
            state = unpickling.state_dict(archive.read("data.pkl"))
            return _tensors(file, archive, state, ignored)
        except (zipfile.BadZipFile, NotImplementedError, struct.error) as error:
            raise ValueError(f"{file} is no whole zip archive: {error}") from None
        except ValueError as error:
            raise ValueError(f"{file}: {error!s:.2000}") from None


TORCH = tensors.Format("pytorch_model.bin", "pytorch_model.bin.index.json", read)


class _Archive:
    """The entries of a zip archive of torch, by their names within its one folder."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        with zipfile.ZipFile(handle) as archive:
            entries, self._end = archive.infolist(), archive.start_dir
        names = [entry.filename for entry in entries]
        roots = [name.partition("/")[0] for name in names if re.fullmatch(_PICKLE, name)]
        if len(roots) != 1 or len(set(names)) < len(names):
            raise ValueError("a zip archive, but not with one data.pkl and every entry once")
        self._entries = {entry.filename.removeprefix(f"{roots[0]}/"): entry for entry in entries}
        if "byteorder" in self._entries and (order := self.read("byteorder")) != b"little":
            raise ValueError(f"byte order {order[:20]!r}; only little is read")

    def place(self, name: str) -> tuple[int, int]:
        """Return an entry's first byte within the file, and how many it has.

        Raises:
            ValueError: it is not there, not stored as it is, or not within the file.
        """
        if name not in self._entries:
            raise ValueError(f"there is no entry {name[:80]!r}")
        entry = self._entries[name]
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise ValueError(f"{name} is compressed or encrypted; torch.save stores it as it is")
        self._handle.seek(max(entry.header_offset, 0))
        sign, *lengths = _LOCAL_HEADER.unpack(self._handle.read(_LOCAL_HEADER.size))
        start = entry.header_offset + _LOCAL_HEADER.size + sum(lengths)
        if sign != _ZIP or start + entry.file_size > self._end:
            raise ValueError(f"{name} does not lie within the file")
        return start, entry.file_size

    def read(self, name: str) -> bytes:
        """Return the content of a small entry.

        Raises:
            ValueError: it is not small, or not what was written.
        """
        start, size = self.place(name)
        if size > _LONGEST:
            raise ValueError(f"{name} has {size} bytes, more than {_LONGEST}")
        self._handle.seek(start)
        content = self._handle.read(size)
        if zlib.crc32(content) != self._entries[name].CRC:
            raise ValueError(f"the bits of {name} have changed, fetch it anew")
        return content


def _tensors(
    file: pathlib.Path, archive: _Archive, state: dict[str, Any], ignored: str
) -> dict[str, tensors.Tensor]:
    """Find the bytes of a state dict's tensors; all that is wrong with them is said together."""
    found, wrong = {}, []
    for key, value in state.items():
        if re.fullmatch(ignored, key):
            continue
        try:
            found[key] = _tensor(file, archive, value)
        except ValueError as error:
            wrong.append(f"{key}: {error}")
    if wrong:
        raise ValueError(rules.some(wrong))
    return found


def _tensor(file: pathlib.Path, archive: _Archive, value: Any) -> tensors.Tensor:
    """Return where a tensor's bytes lie."""
    if not isinstance(value, unpickling.View):
        raise ValueError(f"{unpickling.kind_of(value)} is no tensor")
    storage, shape = value.storage, value.shape
    if storage.kind not in _DTYPES:
        raise ValueError(f"{storage.kind} is not one of {', '.join(_DTYPES)}")
    if not value.contiguous:
        raise ValueError(f"shape {shape} in steps of {value.steps} is not contiguous")
    dtype = np.dtype(_DTYPES[storage.kind])
    place, size = archive.place(storage.entry)
    if size != storage.size * dtype.itemsize:
        raise ValueError(f"{storage.entry} has {size} bytes, not {storage.size} of {dtype}")
    if value.start + math.prod(shape) > storage.size:
        part = f"shape {shape} from {value.start} on"
        raise ValueError(f"{part} reaches out of its storage of {storage.size}")
    return tensors.Tensor(file, dtype, shape, place + value.start * dtype.itemsize)
