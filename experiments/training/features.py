"""The tower's hidden states of whole pools, computed once and kept in half precision."""

from __future__ import annotations

import functools
import pathlib
import zlib
from typing import Any

import jax
import numpy as np

from experiments import scenes
from experiments.training.pictures import Pool
from llava_jax import images, model
from llava_jax.config import LlavaConfig

_BATCH = 16


def hidden_states(
    params: dict[str, Any], source: Pool, cfg: LlavaConfig, folder: pathlib.Path
) -> np.ndarray:
    """Return layer −2 of a pool, CLS first: float16[E, 1+N, Dv], mapped if computed before."""
    seen = f"{source.world.name}-{source.start}-{len(source)}"
    file = folder / f"{scenes.VERSION}-{seen}-{_digest(params['vision']):08x}.npy"
    if not file.exists():
        encode = jax.jit(functools.partial(model.encode, cfg=cfg, outputs=("hidden",)))
        shape = (len(source), 1 + cfg.vision.num_tokens, cfg.vision.width)
        found = np.empty(shape, np.float16)
        for begin in range(0, len(source), _BATCH):
            part = slice(begin, begin + _BATCH)
            found[part] = encode(params, images.normalise(source.images[part])).require("hidden")
        folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial.npy")
        np.save(partial, found)
        partial.rename(file)
    return np.load(file, mmap_mode="r")


def _digest(tower: dict[str, Any]) -> int:
    """Return a checksum of a tower's weights."""
    total = 0
    for leaf in jax.tree.leaves(tower):
        total = zlib.crc32(np.asarray(leaf).tobytes(), total)
    return total
