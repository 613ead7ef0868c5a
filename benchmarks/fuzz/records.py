"""The record reader: what it takes is a record, and nothing that was altered is taken."""

from __future__ import annotations

import pathlib
import zlib
from collections.abc import Iterator

from experiments.harness import records
from experiments.harness.errors import InputError

_RUN = "0123456789abcdef"
_FIRST = records.Record("r/1", "a.jpg", "r", 1, (-0.1, -2.5), -0.01, 7, "é", 3, "4A==", _RUN)
_SAID = records.Record("r/2", "b.jpg", "r", None, (), None, 7, "", 3, "4A==", _RUN, (-0.5, -3.0))


class Records:
    """The first byte says whether the rest is a file, or the body of a line whose CRC is right."""

    longest = 4096

    def __init__(self, folder: pathlib.Path):
        self._folder = folder / "setting"
        self._folder.mkdir()
        self._file = self._folder / "records-00000-of-00001.jsonl"
        self._own = {records.to_line(row)[:-1] for row in (_FIRST, _SAID)}

    def seeds(self) -> Iterator[bytes]:
        for line in self._own:
            yield b"\0" + line + b"\n"
            yield b"\1" + line.rpartition(b',"crc"')[0] + b"}"
        yield b"\0" + b"\n".join([*self._own, b""])
        for body in (b"[[[[]]]]", b'{"v":1}', b'{"key":"\\ud800","v":1}', b'{"token":1e9,"v":1}'):
            yield b"\1" + body

    def __call__(self, data: bytes) -> None:
        sealed, content = data[:1] == b"\1", data[1:]
        if sealed:
            content = content[:-1] + b',"crc":"%08x"}\n' % zlib.crc32(content)
        for line in content.split(b"\n"):
            fields = records.from_line(line)
            if fields is not None and not sealed:
                assert line in self._own, f"an altered line is taken: {line!r}"
        self._file.write_bytes(content)
        try:
            found = records.read_records(self._folder)
        except InputError:
            return
        for key, row in found.items():
            assert key == row.key
            again = records.from_line(records.to_line(row)[:-1])
            assert again is not None, f"a record that cannot be written again: {row}"
