"""Zip archives whose members may be compressed with Zstandard, as inspect writes them."""

from __future__ import annotations

import pathlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

from experiments.harness.errors import InputError

_ZSTANDARD = 93  # APPNOTE.TXT 4.4.5; zipfile has it from Python 3.14 on
_HEADER = struct.Struct("<4s22xHH")  # APPNOTE.TXT 4.3.7: signature, …, lengths of name and extra
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(EOFError, OSError, ValueError, RuntimeError),  # a seek to before the beginning, a password
)


def members(file: pathlib.Path, folder: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the members of a folder, in the archive's order.

    Args:
        file: the archive.
        folder: their common beginning.

    Raises:
        InputError: a damaged archive, or a Zstandard member and no module to read it.
    """
    where = "directory"
    with file.open("rb") as handle:
        try:
            with zipfile.ZipFile(file) as archive:
                last = {info.filename: info for info in archive.infolist()}  # the last of a name
                for where, info in last.items():
                    if where.startswith(folder):
                        if info.compress_type == _ZSTANDARD:
                            yield where, _zstandard_member(handle, info)
                        else:
                            yield where, archive.read(info)
        except _DAMAGE as error:
            raise InputError(f"{file}, {where}: damaged zip archive: {error}") from None


def _zstandard_member(handle: IO[bytes], info: zipfile.ZipInfo) -> bytes:
    """Return the content of a member from its own bytes in the archive."""
    try:
        import zstandard
    except ImportError:
        name = handle.name
        raise InputError(f"{name}: compressed with Zstandard; pip install zstandard") from None
    handle.seek(info.header_offset)
    signature, name_length, extra_length = _HEADER.unpack(handle.read(_HEADER.size))
    if signature != b"PK\x03\x04":
        raise zipfile.BadZipFile("no local header where the directory points to")
    handle.seek(name_length + extra_length, 1)
    frames = handle.read(info.compress_size)
    try:
        reader = zstandard.ZstdDecompressor().stream_reader(frames, read_across_frames=True)
        content = reader.read(info.file_size)
    except zstandard.ZstdError as error:
        raise zipfile.BadZipFile(str(error)) from None
    if zlib.crc32(content) != info.CRC:
        raise zipfile.BadZipFile("bad CRC-32")
    return content
