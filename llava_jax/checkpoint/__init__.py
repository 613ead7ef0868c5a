"""Loading a model's parameters from a folder, whatever its format.

Orbax costs half a second to import, so it is imported only where such a folder is read.
"""

from __future__ import annotations

import math
import pathlib
from typing import Any

from llava_jax.checkpoint import digests, huggingface, tensors
from llava_jax.checkpoint.rules import ConversionError
from llava_jax.clip_config import ClipConfig
from llava_jax.config import LlavaConfig

__all__ = [
    "ConversionError",
    "digest",
    "load",
    "load_clip",
    "num_parameters",
    "read_clip_config",
    "read_config",
]

read_config = huggingface.read_config
read_clip_config = huggingface.read_clip_config
digest = digests.digest
load_clip = huggingface.load_clip


def load(folder: pathlib.Path, cfg: LlavaConfig, dtype: Any) -> dict[str, Any]:
    """Load parameters from a Hugging Face folder or a converted one.

    Args:
        folder: with config.json and safetensors, or written by ``python -m
            llava_jax.checkpoint``.
        cfg: the model's shapes, from ``read_config``.
        dtype: of the parameters.

    Returns:
        The parameter tree.

    Raises:
        FileNotFoundError: no weights there.
        ValueError: a malformed file, or values that are not finite.
        ConversionError: the weights do not fill the model exactly.
    """
    if tensors.is_converted(folder):
        from llava_jax.checkpoint import store

        return store.restore(folder, cfg, dtype)
    return huggingface.load(folder, cfg, dtype)


def num_parameters(cfg: LlavaConfig | ClipConfig) -> int:
    """Return how many parameters a model of these shapes has."""
    return sum(
        math.prod(leaf.shape) for leaf in huggingface.flatten(huggingface.abstract(cfg)).values()
    )
