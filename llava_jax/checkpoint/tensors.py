"""Tensors in files as read-only memory maps; safetensors, one file or a sharded set."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from llava_jax import diagnosis

_DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": ml_dtypes.bfloat16}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PARAMS = "params"
"""Orbax's folder in a converted checkpoint; its unfinished saves have names that begin so."""
CONVERTED = "conversion.json"
"""Last file written of a converted checkpoint: without it the folder is not complete."""


def is_orbax(folder: pathlib.Path) -> bool:
    """Say whether a folder holds a complete converted checkpoint in Orbax's form."""
    return (folder / CONVERTED).is_file() and (folder / PARAMS).is_dir()


def quantization_of(folder: pathlib.Path) -> str | None:
    """Return how the weights in a folder are quantised, None for not at all.

    Raises:
        ValueError: its ``conversion.json`` is not a conversion's.
    """
    if not is_orbax(folder):
        return None
    try:
        return json.loads((folder / CONVERTED).read_bytes()).get("quantization")
    except (ValueError, AttributeError, RecursionError):
        raise ValueError(f"{folder / CONVERTED} is not what a conversion writes") from None


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor on disk.

    Attributes:
        file: that holds it.
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


@dataclasses.dataclass(frozen=True)
class Format:
    """How a folder keeps its weights.

    Attributes:
        single: name of the file, where there is one.
        index: name of the list that says which file holds which key, where there are several.
        read: (file, pattern of keys to leave out) to the file's key → tensor.
    """

    single: str
    index: str
    read: Callable[[pathlib.Path, str], dict[str, Tensor]]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON whose names differ; the library takes the last of a name."""
    names = collections.Counter(name for name, _ in pairs)
    if twice := [name for name, times in names.items() if times > 1]:
        raise ValueError(f"{twice[0]} occurs twice")
    return dict(pairs)


def _header(file: pathlib.Path, ignored: str) -> dict[str, Tensor]:
    """Parse one file's header after the safetensors library has accepted the file."""
    try:
        with safetensors.safe_open(file, framework="numpy"):
            pass
    except safetensors.SafetensorError as error:
        what = diagnosis.of_file(file) or f"is not a valid safetensors file: {error}"
        raise ValueError(f"{file} {what}") from None
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        text = handle.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_once)
    except ValueError as error:
        raise ValueError(f"{file} is not a valid safetensors file: {error}") from None
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


SAFETENSORS = Format(SINGLE, INDEX, _header)


def files(folder: pathlib.Path, form: Format = SAFETENSORS) -> list[pathlib.Path]:
    """Return the files of a folder's weights, in name order.

    Raises:
        FileNotFoundError: there are none, or the index names one that is not there.
    """
    if (folder / form.single).is_file():
        return [folder / form.single]
    index = folder / form.index
    if not index.is_file():
        absent = f"no {form.single} and no {form.index} in {folder}"
        raise FileNotFoundError(f"{absent}{_hint(folder)}")
    names = sorted(set(_index(index).values()))
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{index} names files that are not there: {absent}")
    return [folder / name for name in names]


def _hint(folder: pathlib.Path) -> str:
    """Say what there is in a folder that has no weights, if it is known."""
    pickles = sorted(p.name for p in folder.glob("*") if p.suffix in diagnosis.PICKLES)
    if pickles:
        return f"; {pickles[0]} {diagnosis.PICKLE}"
    if any(folder.glob(f"{PARAMS}*")):
        return "; its conversion did not finish: python -m llava_jax.checkpoint does it again"
    return ""


def _index(file: pathlib.Path) -> dict[str, str]:
    """Return the index's key → file name."""
    try:
        found = json.loads(file.read_bytes())["weight_map"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ValueError(f"{file} {diagnosis.of_file(file) or 'has no weight_map'}") from None
    names = found.values() if isinstance(found, dict) else [found]
    if wrong := [name for name in names if not _is_name(name)]:
        raise ValueError(f"{file}: {wrong[0]!r:.80} is no file of its folder")
    return found


def _is_name(name: Any) -> bool:
    """Return whether a value is the name of a file, and no way to another folder."""
    return isinstance(name, str) and pathlib.PurePath(name).parts == (name,) and name != ".."


def tensors(folder: pathlib.Path, ignored: str, form: Format = SAFETENSORS) -> dict[str, Tensor]:
    """List every tensor of a folder by its key.

    Args:
        folder: with weights.
        ignored: pattern of keys to leave out, whatever their dtype.
        form: of the weights.

    Returns:
        key → tensor.

    Raises:
        ValueError: a file is malformed, two files hold one key, a dtype is not a float, or the
            index disagrees with the files.
    """
    found: dict[str, Tensor] = {}
    for file in files(folder, form):
        for key, tensor in form.read(file, ignored).items():
            if key in found:
                raise ValueError(f"{key} is in {found[key].file.name} and in {file.name}")
            found[key] = tensor
    index = folder / form.index
    if index.is_file() and not (folder / form.single).is_file():
        named = {k: f for k, f in _index(index).items() if not re.fullmatch(ignored, k)}
        wrong = [k for k, f in named.items() if k not in found or found[k].file.name != f]
        if wrong:
            raise ValueError(f"{index} misplaces {len(wrong)} tensors, first {wrong[0]}")
    return found
