"""Single values of a log, checked: the error says where it is and what would be right."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from experiments.harness.errors import InputError

_LARGEST = float(np.finfo(np.float32).max)
_RIGHT = {"1", "1.0", "true", "yes", "c"}
_WRONG = {"0", "0.0", "false", "no", "i", "n"}


def number(value: Any, name: str) -> float:
    """Return a value as a finite number.

    Args:
        value: a number or its text.
        name: where it is and what it is called.

    Raises:
        InputError: it is not one, or too large for float32.
    """
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not abs(found) <= _LARGEST:
        raise InputError(f"{name} is {value!r}; a finite number is needed")
    return found


def probability(value: Any, name: str) -> float:
    """Return a value as a number in [0, 1].

    Args:
        value: a number or its text.
        name: where it is and what it is called.

    Raises:
        InputError: it is not one.
    """
    found = number(value, name)
    if not 0 <= found <= 1:
        raise InputError(f"{name} is {value!r}; a probability in [0, 1] is needed")
    return found


def choice(value: Any, size: int, name: str) -> int:
    """Return a value as the index of a choice.

    Args:
        value: a number or its text.
        size: choices there are.
        name: where it is and what it is called.

    Raises:
        InputError: it is not one.
    """
    found = number(value, name)
    if found not in range(size):
        raise InputError(f"{name} is {value!r}; the index of a choice, 0 to {size - 1}, is needed")
    return int(found)


def correctness(value: Any, name: str) -> bool:
    """Return whether a value says right or wrong.

    Args:
        value: 0 or 1, true or false, yes or no, or inspect's C, I and N.
        name: where it is and what it is called.

    Raises:
        InputError: it says neither.
    """
    word = str(value).strip().lower()
    if word not in _RIGHT | _WRONG:
        raise InputError(f"{name} is {value!r}; 1 (right) or 0 (wrong) is needed")
    return word in _RIGHT
