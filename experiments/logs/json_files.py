"""JSON of other tools: whatever is wrong with it is one line that says where."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from experiments.harness.errors import InputError

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def parse(content: bytes, where: str) -> Any:
    """Return what JSON text says.

    Args:
        content: the text in UTF-8.
        where: the file, and the part of it.

    Raises:
        InputError: it is not JSON.
    """
    try:
        found = json.loads(content)
        if _HALF.search(content):  # of a pair of escapes: no text, unless the other half is there
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: damaged, not JSON: {error}") from None


def lines(file: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where a line is and the object it holds; empty lines are passed over.

    Args:
        file: JSON lines.

    Raises:
        InputError: a line that is not a JSON object.
    """
    with file.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            where = f"{file}, line {number}"
            if not line.strip():
                continue
            found = parse(line, where)
            if not isinstance(found, dict):
                raise InputError(f"{where}: {line[:40]!r} is not a JSON object")
            yield where, found


@contextlib.contextmanager
def reading(where: str, what: str) -> Iterator[None]:
    """Say where a structure is not what a tool writes.

    Args:
        where: the file, and the part of it.
        what: what should be there.

    Raises:
        InputError: the body looked up something that is not there or of another type.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{where}: not {what} ({reason})") from None
