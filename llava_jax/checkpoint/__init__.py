"""Loading a model's parameters from a folder, whatever its format.

Orbax costs half a second to import, so it is imported only where such a folder is read.
"""

from __future__ import annotations

import math
import pathlib
from typing import Any

import numpy as np
from jax.sharding import Mesh

from llava_jax import quantize, sharding
from llava_jax.checkpoint import digests, huggingface, tensors
from llava_jax.checkpoint.rules import ConversionError
from llava_jax.clip_config import ClipConfig
from llava_jax.config import LlavaConfig

__all__ = [
    "ConversionError",
    "digest",
    "load",
    "load_clip",
    "num_bytes",
    "num_parameters",
    "quantization_of",
    "read_clip_config",
    "read_config",
]

read_config = huggingface.read_config
read_clip_config = huggingface.read_clip_config
digest = digests.digest
load_clip = huggingface.load_clip
quantization_of = tensors.quantization_of


def load(
    folder: pathlib.Path,
    cfg: LlavaConfig,
    dtype: Any,
    *,
    quantization: str | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """Load parameters from a Hugging Face folder or a converted one.

    Args:
        folder: with config.json and safetensors, or written by ``python -m
            llava_jax.checkpoint``.
        cfg: the model's shapes, from ``read_config``.
        dtype: of the parameters that are not quantised.
        quantization: ``int8`` or ``int4`` for the decoder's matrices, None for none. An Orbax
            folder must have been converted with it.
        mesh: of devices that share the model; None for the default device.

    Returns:
        The parameter tree.

    Raises:
        FileNotFoundError: no weights there.
        ValueError: a malformed file, values that are not finite, or another quantisation.
        ConversionError: the weights do not fill the model exactly.
    """
    how = {"quantization": quantization, "mesh": mesh}
    if tensors.is_orbax(folder):
        from llava_jax.checkpoint import store

        return store.restore(folder, cfg, dtype, **how)
    return huggingface.load(folder, cfg, dtype, **how)


def num_parameters(cfg: LlavaConfig | ClipConfig) -> int:
    """Return how many parameters a model of these shapes has."""
    return sum(
        math.prod(leaf.shape) for leaf in huggingface.flatten(huggingface.abstract(cfg)).values()
    )


def num_bytes(cfg: LlavaConfig, dtype: Any, quantization: str | None = None, parts: int = 1) -> int:
    """Return the bytes of a model's parameters on a device that packs small integers.

    Args:
        cfg: the model's shapes.
        dtype: of what is not quantised.
        quantization: of the decoder's matrices, None for none.
        parts: devices along the mesh's model axis.
    """
    size, total = np.dtype(dtype).itemsize, 0
    for path, leaf in huggingface.flatten(huggingface.abstract(cfg)).items():
        how = quantize.of(path, quantization)
        whole = quantize.num_bytes(leaf.shape, how) if how else math.prod(leaf.shape) * size
        total += whole // (parts if sharding.MODEL in sharding.spec(path) else 1)
    return total
