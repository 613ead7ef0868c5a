"""Changes after which a text is still one: values of its JSON, lines, cells."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import atheris

_MARK = "\x01changed\x01"
_VALUES = (
    *(b"null", b"true", b"-1", b"0.5", b"7", b"1e999", b"NaN", b"[]", b"{}", b"[null]", b"[[1]]"),
    *(b'""', b'"x"', b'"A"', b'"yes"', b'"\\ud800"', b'"\\u0000"', b'"../../x"', b'{"a":1}'),
    *(
        b"9" * 400,
        b"9" * 5000,
        b"[" * 3000 + b"]" * 3000,
        b"-0.0",
        b"1e-400",
        b"18446744073709551616",
    ),
)


def change(data: bytes, longest: int, seed: int) -> bytes:
    """Return an input that differs: by a value of its JSON, by lines or cells, or by any bytes.

    Args:
        data: the input; a byte may stand before the text.
        longest: bytes of the result, at most.
        seed: of the choice.
    """
    rng = random.Random(seed)
    kind = rng.choice((_json, _lines, _cells, None))
    changed = kind(data, rng) if kind else None
    if changed is None or len(changed) > longest:
        return atheris.Mutate(data, longest)
    return changed


def _json(data: bytes, rng: random.Random) -> bytes | None:
    """Replace, remove or rename one value of a JSON text, or of one of its lines."""
    first, lines = data[:1], data[1:].split(b"\n")
    if data[:1] in (b"{", b"["):
        first, lines = b"", data.split(b"\n")
    number = rng.randrange(len(lines))
    for content in (b"\n".join(lines), lines[number]):
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            continue
        places = list(_places(value))
        if not places:
            return None
        holder, step = rng.choice(places)
        _replace(holder, step, rng)
        text = json.dumps(value).encode().replace(json.dumps(_MARK).encode(), rng.choice(_VALUES))
        whole = content is not lines[number]
        return first + (
            text if whole else b"\n".join([*lines[:number], text, *lines[number + 1 :]])
        )
    return None


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (container, key or index) inside a value."""
    if isinstance(value, dict | list):
        for step in value if isinstance(value, dict) else range(len(value)):
            yield value, step
            yield from _places(value[step])


def _replace(holder: Any, step: Any, rng: random.Random) -> None:
    match rng.randrange(4):
        case 0:
            del holder[step]
        case 1 if isinstance(holder, dict):
            holder[f"{step}x"] = holder.pop(step)
        case 2 if isinstance(holder, list):
            holder.append(holder[step])
        case _:
            holder[step] = _MARK


def _lines(data: bytes, rng: random.Random) -> bytes:
    """Remove, repeat or exchange lines."""
    return _shuffled(data, b"\n", rng)


def _cells(data: bytes, rng: random.Random) -> bytes:
    """Remove, repeat or exchange cells of a line."""
    lines = data.split(b"\n")
    number = rng.randrange(len(lines))
    lines[number] = _shuffled(lines[number], rng.choice((b",", b"\t")), rng)
    return b"\n".join(lines)


def _shuffled(text: bytes, mark: bytes, rng: random.Random) -> bytes:
    parts = text.split(mark)
    one, other = rng.randrange(len(parts)), rng.randrange(len(parts))
    match rng.randrange(3):
        case 0:
            del parts[one]
        case 1:
            parts.insert(other, parts[one])
        case 2:
            parts[one], parts[other] = parts[other], parts[one]
    return mark.join(parts)
