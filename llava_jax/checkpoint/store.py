"""Converted checkpoints: an Orbax tree beside the model's own small files."""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp

from llava_jax.checkpoint import huggingface, tensors
from llava_jax.config import LlavaConfig

_PARAMS = "params"  # Orbax keeps unfinished saves beside it, under names that begin so
_UNFINISHED = f".{tensors.CONVERTED}"
_SMALL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model")
_SMALL_FILES += ("preprocessor_config.json",)


def convert(src: pathlib.Path, dst: pathlib.Path, dtype: Any) -> dict[str, Any]:
    """Convert a Hugging Face folder into an Orbax folder.

    The marker ``conversion.json`` is written last, so a folder without it is not complete.

    Args:
        src: Hugging Face folder.
        dst: folder to make; an incomplete one is replaced.
        dtype: of the stored parameters.

    Returns:
        The contents of ``conversion.json``.

    Raises:
        FileExistsError: dst is complete already, or holds something else.
    """
    if tensors.is_converted(dst):
        raise FileExistsError(f"{dst} already holds a converted checkpoint")
    found = {path.name for path in dst.iterdir()} if dst.exists() else set()
    if any(not name.startswith(_PARAMS) for name in found - {*_SMALL_FILES, _UNFINISHED}):
        raise FileExistsError(f"{dst} holds other files; name a new folder")
    params = huggingface.load(src, huggingface.read_config(src), dtype)
    dst.mkdir(parents=True, exist_ok=True)
    for name in _SMALL_FILES:
        if (src / name).is_file():
            shutil.copyfile(src / name, dst / name)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((dst / _PARAMS).absolute(), params, force=True)
    record = {
        "format": 1,
        "dtype": str(jax.tree.leaves(params)[0].dtype),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "source_files": [file.name for file in tensors.files(src)],
    }
    (dst / _UNFINISHED).write_text(json.dumps(record, indent=2) + "\n")
    (dst / _UNFINISHED).replace(dst / tensors.CONVERTED)
    return record


def restore(folder: pathlib.Path, cfg: LlavaConfig, dtype: Any) -> dict[str, Any]:
    """Restore a converted checkpoint in the asked dtype.

    Raises:
        ValueError: the stored tree is not the model's.
    """
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding),
        huggingface.abstract(cfg),
    )
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore((folder / _PARAMS).absolute(), target)
