"""Safetensors files as read-only memory maps, one or a sharded set."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import re

import ml_dtypes
import numpy as np
import safetensors

_DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": ml_dtypes.bfloat16}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CONVERTED = "conversion.json"
"""Last file written of a converted checkpoint: without it the folder is not complete."""


def is_converted(folder: pathlib.Path) -> bool:
    """Say whether a folder holds a complete converted checkpoint."""
    return (folder / CONVERTED).is_file()


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor on disk.

    Attributes:
        file: the safetensors file.
        dtype: numpy (or ml_dtypes) dtype.
        shape: its shape.
        offset: first byte within the file.
    """

    file: pathlib.Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """Map the tensor; pages are read when they are touched."""
        raw = np.memmap(self.file, np.uint8, "r", self.offset, (self.nbytes,))
        return raw.view(self.dtype).reshape(self.shape)


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the safetensors files of a Hugging Face folder, in name order.

    Raises:
        FileNotFoundError: there are none, or the index names one that is not there.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        pickles = [p.name for p in sorted(folder.glob("*.bin"))]
        hint = f"; {pickles[0]} is a pickle: save it as safetensors first" if pickles else ""
        raise FileNotFoundError(f"no {SINGLE} and no {INDEX} in {folder}{hint}")
    names = sorted(set(_index(folder).values()))
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder / INDEX} names files that are not there: {absent}")
    return [folder / name for name in names]


def _index(folder: pathlib.Path) -> dict[str, str]:
    """Return the index's key → file name."""
    try:
        return json.loads((folder / INDEX).read_text())["weight_map"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{folder / INDEX} has no weight_map") from None


def tensors(folder: pathlib.Path, ignored: str) -> dict[str, Tensor]:
    """List every tensor of a folder by its key.

    Args:
        folder: with safetensors.
        ignored: pattern of keys to leave out, whatever their dtype.

    Returns:
        key → tensor.

    Raises:
        ValueError: a file is malformed, two files hold one key, a dtype is not a float, or the
            index disagrees with the files.
    """
    found: dict[str, Tensor] = {}
    for file in files(folder):
        for key, tensor in _header(file, ignored).items():
            if key in found:
                raise ValueError(f"{key} is in {found[key].file.name} and in {file.name}")
            found[key] = tensor
    if (folder / INDEX).is_file() and not (folder / SINGLE).is_file():
        named = {k: f for k, f in _index(folder).items() if not re.fullmatch(ignored, k)}
        wrong = [k for k, f in named.items() if k not in found or found[k].file.name != f]
        if wrong:
            raise ValueError(f"{folder / INDEX} misplaces {len(wrong)} tensors, first {wrong[0]}")
    return found


def _header(file: pathlib.Path, ignored: str) -> dict[str, Tensor]:
    """Parse one file's header after the safetensors library has accepted the file."""
    try:
        with safetensors.safe_open(file, framework="numpy"):
            pass
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file} is not a valid safetensors file: {error}") from None
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(length))
    header.pop("__metadata__", None)
    header = {key: info for key, info in header.items() if not re.fullmatch(ignored, key)}
    if wrong := {k: v["dtype"] for k, v in header.items() if v["dtype"] not in _DTYPES}:
        raise ValueError(f"{file}: dtype not one of {list(_DTYPES)}: {wrong}")
    return {
        key: Tensor(
            file,
            np.dtype(_DTYPES[info["dtype"]]),
            tuple(info["shape"]),
            8 + length + info["data_offsets"][0],
        )
        for key, info in header.items()
    }
