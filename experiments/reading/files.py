"""Text files that people made by hand: what is wrong in them is said with file and line."""

from __future__ import annotations

import csv
import io
import json
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.harness.errors import InputError
from llava_jax import diagnosis

_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def text(file: pathlib.Path) -> str:
    """Read a UTF-8 file, with or without a byte-order mark, with whatever ends of lines.

    Raises:
        InputError: it cannot be read, or is not UTF-8.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    if content and (what := diagnosis.of(content[: diagnosis.HEAD])):
        raise InputError(f"{file} {what}")
    try:
        return io.StringIO(content.decode("utf-8-sig"), newline=None).getvalue()
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 at byte {error.start}") from None


def json_value(file: pathlib.Path, kind: type) -> Any:
    """Read a JSON file.

    Args:
        file: its path.
        kind: that its value must have, dict or list.

    Raises:
        InputError: it is not there, not JSON, or holds something else.
    """
    content = text(file)
    if not content:
        raise InputError(f"{file} {diagnosis.of(b'')}")
    value = _parsed(content, f"{file} line ")
    if not isinstance(value, kind):
        wanted = {dict: "an object", list: "a list"}[kind]
        raise InputError(f"{file} does not hold {wanted}")
    return value


def json_lines(file: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a JSON-lines file; blank lines are passed over.

    Raises:
        InputError: a line is not a JSON object.
    """
    for number, line in enumerate(text(file).split("\n"), 1):
        if not line.strip():
            continue
        row = _parsed(line, f"{file} line ", number)
        if not isinstance(row, dict):
            raise InputError(f"{file} line {number} is not a JSON object; JSON lines are expected")
        yield number, row


def _parsed(content: str, where: str, first: int = 1) -> Any:
    """Return what JSON text says, its lines counted from the first one's number."""
    try:
        value = json.loads(content)
        if _HALF.search(content):  # of a pair of escapes: no text, unless the other half is there
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        line, reason = first + error.lineno - 1, error.msg
    except UnicodeEncodeError as error:
        line, reason = first, f"{error.object[error.start]!r} is half a character"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, nesting
        line, reason = first, str(error)
    raise InputError(f"{where}{line} is not JSON: {reason}")


def tab_separated(file: pathlib.Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (row number, cells by column) of a TSV file with a header; cells stay as written.

    Raises:
        InputError: a row has other columns than the header.
    """
    csv.field_size_limit(sys.maxsize)  # pictures are cells
    rows = csv.reader(io.StringIO(text(file), newline=""), delimiter="\t")
    number = 0
    try:
        header = next(rows, [])
        for number, cells in enumerate(rows, 1):
            if not cells:
                continue
            if len(cells) != len(header):
                raise InputError(f"{file} row {number} has {len(cells)} cells, not {len(header)}")
            yield number, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{file} behind row {number}: {error}") from None


def require(row: Any, keys: Sequence[str], where: str) -> None:
    """Refuse a row that is no object, or in which a key is absent or null.

    Raises:
        InputError: it names the place and the keys.
    """
    if not isinstance(row, dict):
        raise InputError(f"{where} is not an object")
    if absent := [key for key in keys if row.get(key) is None]:
        raise InputError(f"{where} lacks {', '.join(absent)}")
