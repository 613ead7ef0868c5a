"""What people read: any text in any encoding, and nothing in it that a terminal would obey."""

from __future__ import annotations

import io
import logging as python_logging
import os
import sys

from absl import logging


def inert(text: str) -> str:
    """Return a text whose control characters, and marks of direction, are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _InertFormatter(logging.PythonFormatter):
    """Writes a message in one line that no terminal obeys."""

    def format(self, record: python_logging.LogRecord) -> str:
        return inert(super().format(record))


def say_anything() -> None:
    """Let stdout and stderr escape what their encoding has no letter for, and logs what obeys."""
    logging.get_absl_handler().setFormatter(_InertFormatter())
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _open_standard_streams() -> None:
    """Lead to nowhere what was closed, lest a log is written into a file with its number."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
