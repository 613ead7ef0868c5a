"""From a published checkpoint to a folder in the form that the model is run from.

Two forms, both beside the model's own small files:

    orbax         params/                 restores into any mesh, any dtype; may be quantised
    safetensors   model.safetensors       tensors at multiples of 64 bytes: mapped on CPU, not read

Every tensor is checked and converted by itself. ``SHA256SUMS`` says what the files are, and the
marker ``conversion.json`` is written last: a folder without it is not complete.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import pathlib
import re
import shutil
from typing import Any, Literal

import numpy as np

from llava_jax import atomic, sums
from llava_jax.checkpoint import aligned, digests, huggingface, original, store, tensors
from llava_jax.config import LlavaConfig, from_hf

Form = Literal["orbax", "safetensors"]


@dataclasses.dataclass(frozen=True)
class Published:
    """A checkpoint as its authors publish it.

    Attributes:
        folder: of it.
        cfg: the model's shapes.
        config: contents of the config.json that describes it to everybody else.
        sources: path → tensor of every parameter, in the tree's order.
        files: that hold them.
    """

    folder: pathlib.Path
    cfg: LlavaConfig
    config: dict[str, Any]
    sources: dict[str, tensors.Tensor]
    files: list[pathlib.Path]

    @classmethod
    def find(cls, folder: pathlib.Path, vision_tower: pathlib.Path | None = None) -> Published:
        """Read what a checkpoint is from its small files and its weights' headers.

        Args:
            folder: Hugging Face's, or of LLaVA's own code.
            vision_tower: CLIP's folder beside the latter.

        Raises:
            FileNotFoundError: no config.json, no weights.
            ValueError: it is another model, or a file is malformed.
            ConversionError: the weights do not fill the model exactly.
        """
        if vision_tower is not None:
            config, sources, files = original.describe(folder, vision_tower)
            return cls(folder, from_hf(config), config, sources, files)
        cfg = huggingface.read_config(folder)
        sources = huggingface.plan(folder, cfg)
        config = huggingface.read_content(folder)
        return cls(folder, cfg, config, sources, tensors.files(folder))

    def digest(self) -> str:
        """Return a sha256 over the weight files, whose folders may say what they are.

        Raises:
            ValueError: a file is not what its folder says it is.
        """
        folders = dict.fromkeys(file.parent for file in self.files)
        parts = [
            digests.of_files(folder, (file for file in self.files if file.parent == folder))
            for folder in folders
        ]
        return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


_SMALL_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
_SMALL_FILES += ("preprocessor_config.json",)
_NAMES = ("config.json", *_SMALL_FILES, sums.NAME, tensors.CONVERTED, tensors.SINGLE)
_OWN = re.compile(rf"{tensors.PARAMS}.*|\.?({'|'.join(map(re.escape, _NAMES))})(\.[0-9a-f]{{8}})?")
"""Names of what a conversion writes, whole or cut short."""


def convert(
    src: pathlib.Path,
    dst: pathlib.Path,
    dtype: Any,
    form: Form = "orbax",
    quantization: str | None = None,
    vision_tower: pathlib.Path | None = None,
) -> dict[str, Any]:
    """Convert a checkpoint.

    Args:
        src: Hugging Face folder, or one of LLaVA's own code.
        dst: folder to make; an incomplete one is replaced.
        dtype: of the stored parameters.
        form: of the weights.
        quantization: name out of ``quantize.BITS``: the decoder's matrices become integers.
        vision_tower: CLIP's folder, for a checkpoint of LLaVA's own code.

    Returns:
        The contents of ``conversion.json``.

    Raises:
        FileExistsError: dst is complete already, or holds something else.
        ValueError: src cannot be loaded, is not what it says it is, or is to be quantised in a
            form that has no integers.
    """
    if quantization and form != "orbax":
        raise ValueError(f"{form} holds no {quantization} weights; orbax does")
    left = _left_of_another(dst)
    published = Published.find(src, vision_tower)
    digest = published.digest()
    if form == "orbax":
        leaves = huggingface.read(src, published.cfg, published.sources, dtype, quantization)
        params = huggingface.place(leaves, published.cfg, mesh=None)
        _empty(dst, left)
        store.save(dst, params)
    else:
        _empty(dst, left)
        _write_aligned(published, dst, np.dtype(dtype))
    for name in _SMALL_FILES:
        if (src / name).is_file():
            atomic.write(dst / name, (src / name).read_bytes())
    atomic.write(dst / "config.json", published.config)
    sums.write(dst, (path for path in dst.rglob("*") if path.is_file()))
    record = {
        "format": 1,
        "form": form,
        "dtype": np.dtype(dtype).name,
        "quantization": quantization,
        "parameters": sum(math.prod(tensor.shape) for tensor in published.sources.values()),
        "source_files": [file.name for file in published.files],
        "source_sha256": digest,
    }
    atomic.write(dst / tensors.CONVERTED, record)
    return record


def _left_of_another(dst: pathlib.Path) -> list[pathlib.Path]:
    """Return what a conversion that was cut short left in a folder.

    Raises:
        FileExistsError: it was not cut short, or the folder holds something else.
    """
    if (dst / tensors.CONVERTED).is_file():
        raise FileExistsError(f"{dst} already holds a converted checkpoint")
    left = list(dst.iterdir()) if dst.exists() else []
    if not all(_OWN.fullmatch(path.name) for path in left):
        raise FileExistsError(f"{dst} holds other files; name a new folder")
    return left


def _empty(dst: pathlib.Path, left: list[pathlib.Path]) -> None:
    """Make the folder, without what is left of another conversion."""
    for path in left:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    dst.mkdir(parents=True, exist_ok=True)


def _write_aligned(published: Published, dst: pathlib.Path, dtype: np.dtype) -> None:
    """Write the weights as one safetensors file under the hub's own keys."""
    cfg, sources = published.cfg, published.sources
    shapes = {path: tensor.shape for path, tensor in sources.items()}
    paths = aligned.order(shapes, dtype)
    ordered = {path: sources[path] for path in paths}
    leaves = huggingface.read(published.folder, cfg, ordered, dtype)
    keys = {path: huggingface.key_map(cfg).key_of(path) for path in paths}
    aligned.write(
        dst / tensors.SINGLE,
        {keys[path]: shapes[path] for path in paths},
        dtype,
        (value for _, value in leaves),
    )
