"""What torch pickles of a state dict, told without running it.

A pickle is a program for a stack machine. The machine here has no instruction that imports or
calls: a name of the program stands for itself, and only the names that state dicts need are
admitted. Sources: Python's ``pickletools``; torch/_utils.py for what the names make.
"""

from __future__ import annotations

import dataclasses
import pickletools
from collections.abc import Sequence
from typing import Any

FLOATS = ("DoubleStorage", "FloatStorage", "HalfStorage", "BFloat16Storage")
_OTHERS = ("LongStorage", "IntStorage", "ShortStorage", "CharStorage", "ByteStorage", "BoolStorage")
_KINDS = {f"torch {kind}": kind for kind in (*FLOATS, *_OTHERS)}
_DICT = "collections OrderedDict"
_TENSOR, _PARAMETER = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
_ADMITTED = {_DICT, _TENSOR, _PARAMETER, *_KINDS}
_MOST_AXES, _MOST = 8, 1 << 48  # of a tensor; numbers beyond are no sizes


@dataclasses.dataclass(frozen=True)
class _Name:
    """Something that a pickle would import."""

    name: str


@dataclasses.dataclass(frozen=True)
class Storage:
    """Values in one entry of the archive."""

    kind: str
    entry: str
    size: int


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor: a part of a storage, counted in values."""

    storage: Storage
    start: int
    shape: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def contiguous(self) -> bool:
        """Whether the values lie in the order of the indices, without gaps."""
        dense = 1
        for size, step in zip(reversed(self.shape), reversed(self.steps), strict=True):
            if size != 1 and step != dense:
                return False
            dense *= size
        return True


_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}


def state_dict(content: bytes) -> dict[str, Any]:
    """Return the dictionary that a pickle describes.

    Args:
        content: ``data.pkl`` of an archive of torch.

    Returns:
        key → ``View`` where the pickle has a tensor; or what it has there: a dictionary, a tuple,
        a number, a text, None.

    Raises:
        ValueError: it is no whole pickle, holds no dictionary, or asks for anything else.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for instruction, value, _ in pickletools.genops(content):
            _step(instruction.name, value, stack, memo)
        found = stack.pop()
    except LookupError:
        raise ValueError("data.pkl takes what is not on its stack") from None
    if type(found) is not dict:
        raise ValueError(f"data.pkl holds {kind_of(found)}, not a dictionary of tensors")
    return found


def _step(name: str, value: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    """Follow one instruction."""
    match name:
        case "PROTO" | "FRAME" | "STOP":
            pass
        case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE" | "MARK":
            stack.append(_CONSTANTS[name])
        case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE" | "SHORT_BINUNICODE":
            stack.append(value)
        case "EMPTY_DICT":
            stack.append({})
        case "TUPLE":
            stack.append(_pop_to_mark(stack))
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            stack.append(_pop(stack, int(name[-1])))
        case "BINPUT" | "LONG_BINPUT":
            memo[value] = stack[-1]
        case "MEMOIZE":
            memo[len(memo)] = stack[-1]
        case "BINGET" | "LONG_BINGET":
            stack.append(memo[value])
        case "GLOBAL":
            stack.append(_admit(value))
        case "STACK_GLOBAL":
            stack.append(_admit(" ".join(part for part in _pop(stack, 2) if type(part) is str)))
        case "BINPERSID":
            stack.append(_storage(stack.pop()))
        case "REDUCE":
            stack.append(_made(*_pop(stack, 2)))
        case "SETITEM":
            _set(_pop(stack, 2), stack[-1])
        case "SETITEMS":
            _set(_pop_to_mark(stack), stack[-1])
        case "BUILD":  # the dictionary's attributes, of which _metadata is one
            stack.pop()
        case _:
            raise ValueError(f"data.pkl has the instruction {name}, which no state dict needs")


def _pop(stack: list[Any], count: int) -> tuple[Any, ...]:
    """Take the last values off the stack, in the order in which they came."""
    taken = [stack.pop() for _ in range(count)]
    return tuple(reversed(taken))


def _pop_to_mark(stack: list[Any]) -> tuple[Any, ...]:
    """Take all values since the last mark off the stack, and the mark."""
    taken = []
    while (value := stack.pop()) is not _MARK:
        taken.append(value)
    return tuple(reversed(taken))


def _admit(name: str) -> _Name:
    """Let a module and an attribute of it stand for themselves, if tensors need them."""
    if name not in _ADMITTED:
        where = ".".join(name.split(" "))
        raise ValueError(f"data.pkl asks for {where!r:.100}, which no tensor needs; it was not run")
    return _Name(name)


def _storage(about: Any) -> Storage:
    """Read what stands for a storage: ("storage", its kind, entry, device, number of values)."""
    match about:
        case ("storage", _Name(name), str(entry), str(), size) if name in _KINDS:
            if _are_sizes((size,)) and entry.isalnum():
                return Storage(_KINDS[name], f"data/{entry}", size)
    raise ValueError(f"data.pkl has no storage where one should be: {kind_of(about)}")


def _made(target: Any, given: Any) -> dict[str, Any] | View:
    """Return what a call of an admitted name stands for."""
    match target, given:
        case _Name(name), () if name == _DICT:
            return {}
        case _Name(name), (View() as view, _, _) if name == _PARAMETER:
            return view
        case _Name(name), (Storage() as stored, start, shape, steps, _, _) if name == _TENSOR:
            if _are_sizes((start,)) and _are_sizes(shape, steps):
                return View(stored, start, shape, steps)
    raise ValueError(f"data.pkl makes something else than a tensor: {kind_of((target, given))}")


def _are_sizes(*several: Any) -> bool:
    """Return whether all are tuples of as many numbers that count something."""
    return (
        all(type(sizes) is tuple and len(sizes) <= _MOST_AXES for sizes in several)
        and len({len(sizes) for sizes in several}) == 1
        and all(type(x) is int and 0 <= x < _MOST for sizes in several for x in sizes)
    )


def _set(pairs: Sequence[Any], target: Any) -> None:
    """Put keys and values, in turn, into a dictionary."""
    if type(target) is not dict or len(pairs) % 2:
        raise ValueError("data.pkl puts values into something else than a dictionary")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if not (isinstance(key, str) and key.isprintable()) or key in target:
            raise ValueError(f"data.pkl has a key that is no name, or twice: {kind_of(key)}")
        target[key] = value


def kind_of(value: Any) -> str:
    """Describe a value by the kinds of its parts; a hostile one's whole text may have no end."""
    parts = value if type(value) is tuple else (value,)
    kinds = (repr(part[:40]) if type(part) is str else type(part).__name__ for part in parts[:6])
    return f"({', '.join(kinds)})" if type(value) is tuple else next(kinds)
