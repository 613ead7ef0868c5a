"""Text that may be anyone's, made harmless: in HTML, and in JSON inside of HTML."""

from __future__ import annotations

import html
import json
from typing import Any

from experiments.harness.terminal import inert

_LONGEST, _SHORT = 4000, 120
_IN_SCRIPTS = {ord(c): f"\\u{ord(c):04x}" for c in "<>&"}


def line(text: str) -> str:
    """Return a text as HTML of one line, its control characters and marks of direction shown."""
    return html.escape(inert(text), quote=True)


def lines(text: str) -> str:
    """Return a text as HTML whose line ends are kept; one that no one would read is cut."""
    more = f" … ({len(text) - _LONGEST} more characters)" if len(text) > _LONGEST else ""
    return "\n".join(line(part) for part in (text[:_LONGEST] + more).split("\n"))


def short(text: str) -> str:
    """Return an answer as plain text of one line, a long one cut."""
    return inert(text if len(text) <= _SHORT else f"{text[:_SHORT]}…")


def json_text(value: Any) -> str:
    """Return JSON that no HTML parser takes for the end of its script element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.translate(_IN_SCRIPTS)
