"""Weights that are no numbers: found in the bits, at the speed of memory, nothing compiled."""

from __future__ import annotations

import pathlib

import numpy as np

from llava_jax.checkpoint import rules

_AT_ONCE = 1 << 18  # values whose doubled bits stay in a core's cache


def count_bad(values: np.ndarray) -> int:
    """Return how many values are NaN or infinite: all bits of the exponent are set.

    Args:
        values: of a float dtype, ml_dtypes' included; is not copied.
    """
    kind = np.dtype(f"u{values.dtype.itemsize}")
    bits = values.reshape(-1).view(kind)
    # Doubled, the sign falls off, and what is not finite is at least infinity.
    infinity = 2 * int(np.array(np.inf, values.dtype).view(kind))
    room = np.empty(min(_AT_ONCE, bits.size), kind)
    bad = 0
    for start in range(0, bits.size, _AT_ONCE):
        part = bits[start : start + _AT_ONCE]
        doubled = np.add(part, part, out=room[: part.size])
        if doubled.max() >= infinity:
            bad += int(np.count_nonzero(doubled >= infinity))
    return bad


class Bad:
    """Tensors that have values which are not finite."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def look(self, name: str, values: np.ndarray) -> None:
        """Look at a tensor's values, in the dtype that the model is run in."""
        if count := count_bad(values):
            dtype = values.dtype.name
            self._found.append(
                f"{name} has {count} of {values.size} that are NaN or Inf in {dtype}"
            )

    def refuse(self, folder: pathlib.Path) -> None:
        """Refuse the folder if a tensor that was looked at has such values.

        Raises:
            ConversionError: names the tensors, and how many values of each.
        """
        if self._found:
            count = f"{len(self._found)} tensors"
            raise rules.ConversionError(
                f"weights of {folder} are no finite numbers ({count}): {rules.some(self._found)}"
            )
