"""Safetensors whose tensors begin at multiples of 64 bytes, so that JAX maps them where they lie.

The format allows it, its usual writers do not care: they align to 8 bytes. The header is padded
with spaces, and tensors whose size is no multiple of 64 bytes come last. On CPU a model that is
written so is loaded in no time and takes no memory that the system cannot take back.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np

from llava_jax import atomic

ALIGNMENT = 64
"""Bytes; an array that begins at a multiple of it need not be copied by XLA's CPU client."""
_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def order(shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype) -> list[str]:
    """Return the tensors' keys in the order of the file: those that fill 64 bytes evenly first."""
    return sorted(shapes, key=lambda key: math.prod(shapes[key]) * dtype.itemsize % ALIGNMENT != 0)


def write(
    file: pathlib.Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: np.dtype,
    values: Iterable[np.ndarray],
) -> None:
    """Write a safetensors file, holding one tensor at a time.

    Args:
        file: replaced when the last tensor is written, and not if ``values`` raises.
        shapes: key → shape.
        dtype: of every tensor: float32, float16 or bfloat16.
        values: the tensors in the order of ``order``.

    Raises:
        ValueError: a value has another shape or dtype than was said.
    """
    keys = order(shapes, dtype)
    with atomic.writing(file) as handle:
        handle.write(_header(keys, shapes, dtype))
        for key, value in zip(keys, values, strict=True):
            if value.shape != shapes[key] or value.dtype != dtype:
                said = f"{dtype}{list(shapes[key])}"
                raise ValueError(f"{key} is {value.dtype}{list(value.shape)}, not {said}")
            handle.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)


def _header(keys: list[str], shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype) -> bytes:
    """Return a file's beginning: the length of its JSON, and the JSON padded to the alignment."""
    content: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for key in keys:
        end = start + math.prod(shapes[key]) * dtype.itemsize
        offsets = [start, end]
        content[key] = {
            "dtype": _NAMES[dtype.name],
            "shape": list(shapes[key]),
            "data_offsets": offsets,
        }
        start = end
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
