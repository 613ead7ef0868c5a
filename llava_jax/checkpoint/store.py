"""Converted checkpoints: an Orbax tree beside the model's own small files."""

from __future__ import annotations

import pathlib
import re
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from llava_jax import atomic, sums
from llava_jax.checkpoint import digests, finite, huggingface, tensors
from llava_jax.config import LlavaConfig

_SMALL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model")
_SMALL_FILES += ("preprocessor_config.json",)
_NAMES = "|".join(map(re.escape, (*_SMALL_FILES, sums.NAME, tensors.CONVERTED)))
_OWN = re.compile(rf"{tensors.PARAMS}.*|{_NAMES}|\.({_NAMES})\.[0-9a-f]{{8}}")
"""Names of what a conversion writes, whole or cut short."""


def convert(src: pathlib.Path, dst: pathlib.Path, dtype: Any) -> dict[str, Any]:
    """Convert a Hugging Face folder into an Orbax folder.

    ``SHA256SUMS`` says what its files are. The marker ``conversion.json`` is written last, so a
    folder without it is not complete.

    Args:
        src: Hugging Face folder.
        dst: folder to make; an incomplete one is replaced.
        dtype: of the stored parameters.

    Returns:
        The contents of ``conversion.json``.

    Raises:
        FileExistsError: dst is complete already, or holds something else.
        ValueError: src cannot be loaded, or is not what it says it is.
    """
    if tensors.is_converted(dst):
        raise FileExistsError(f"{dst} already holds a converted checkpoint")
    left = list(dst.iterdir()) if dst.exists() else []
    if not all(_OWN.fullmatch(path.name) for path in left):
        raise FileExistsError(f"{dst} holds other files; name a new folder")
    source = digests.digest(src)
    params = huggingface.load(src, huggingface.read_config(src), dtype)
    for path in left:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    dst.mkdir(parents=True, exist_ok=True)
    for name in _SMALL_FILES:
        if (src / name).is_file():
            atomic.write(dst / name, (src / name).read_bytes())
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((dst / tensors.PARAMS).absolute(), params)
    for path in (dst / tensors.PARAMS).rglob("*"):
        atomic.sync(path)
    sums.write(dst, (path for path in dst.rglob("*") if path.is_file()))
    record = {
        "format": 1,
        "dtype": str(jax.tree.leaves(params)[0].dtype),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "source_files": [file.name for file in tensors.files(src)],
        "source_sha256": source,
    }
    atomic.write(dst / tensors.CONVERTED, record)
    return record


def restore(folder: pathlib.Path, cfg: LlavaConfig, dtype: Any) -> dict[str, Any]:
    """Restore a converted checkpoint in the asked dtype.

    Raises:
        ValueError: the stored tree is not the model's, or values are not finite.
    """
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding),
        huggingface.abstract(cfg),
    )
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            params = checkpointer.restore((folder / tensors.PARAMS).absolute(), target)
    except jax.errors.JaxRuntimeError:  # the device is full
        raise
    except Exception as error:  # whatever a damaged file makes of Orbax
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{folder / tensors.PARAMS} cannot be restored: {reason:.200}") from None
    bad = finite.Bad()
    for path, leaf in huggingface.flatten(params).items():
        # Of its only shard: JAX would keep the whole array's copy on the host.
        bad.look(path, np.asarray(leaf.addressable_data(0)))
    bad.refuse(folder)
    return params
