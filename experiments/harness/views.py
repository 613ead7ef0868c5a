"""How a picture is shown to a model: as one square, or, to a LLaVA-NeXT, in tiles.

Axis letters: T tiles, S side in pixels, N visual tokens of a square or a tile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from PIL import Image

from experiments.harness import tiling
from experiments.harness.config import RunConfig
from experiments.harness.errors import UsageError
from llava_jax import anyres, images
from llava_jax.anyres import Layout
from llava_jax.config import LlavaConfig, LlavaNextConfig

_SQUARE: Mapping[str, images.Mode] = {"pad": "pad", "center_crop": "center_crop"}
_TILED: Mapping[str, anyres.Convention] = {"anyres": "llava", "anyres_huggingface": "huggingface"}


def by_model(config: RunConfig, cfg: LlavaConfig) -> RunConfig:
    """Return the flags with what they leave to the kind of model.

    Args:
        config: the flags.
        cfg: the model.

    Raises:
        UsageError: a flag of the other kind of model.
    """
    tiled = isinstance(cfg, LlavaNextConfig)
    known = tuple(_TILED if tiled else _SQUARE)
    chosen = config.preprocessing or known[0]
    model = f"{config.model} is a {'LLaVA-NeXT' if tiled else 'LLaVA-1.5'}"
    if chosen not in known:
        raise UsageError(f"--preprocessing={chosen}: {model}, which takes {' or '.join(known)}")
    if config.tiles and not tiled:
        raise UsageError(f"--tiles={config.tiles}: {model}, which sees a picture as one square")
    if config.positions != "contiguous" and tiled:
        raise UsageError(
            f"--positions={config.positions}: {model}, whose tokens are on no single grid; "
            "contiguous is offered"
        )
    tiles = (config.tiles or tiling.EACH) if tiled else None
    return dataclasses.replace(config, preprocessing=chosen, tiles=tiles)


def pixels(picture: Image.Image, cfg: LlavaConfig, preprocessing: str) -> np.ndarray:
    """Return a picture as the vision tower takes it.

    Args:
        picture: an RGB picture.
        cfg: the model.
        preprocessing: of a LLaVA-NeXT ``anyres`` or ``anyres_huggingface``, else ``pad`` or
            ``center_crop``.

    Returns:
        float32[S, S, 3]; of a LLaVA-NeXT float32[T, S, S, 3].

    Raises:
        ImageError: it does not fit into memory.
    """
    if isinstance(cfg, LlavaNextConfig):
        return anyres.tiles(picture, cfg, _TILED[preprocessing])
    return images.preprocess(picture, cfg.vision.image_size, _SQUARE[preprocessing])


def layout(size: anyres.Size, cfg: LlavaConfig, preprocessing: str) -> Layout | None:
    """Return the layout of a picture's tiles from its width and height; None of one square."""
    if isinstance(cfg, LlavaNextConfig):
        return anyres.layout(size, cfg, _TILED[preprocessing])
    return None


def num_tokens(cfg: LlavaConfig, layout: Layout | None) -> int:
    """Return the visual tokens of a picture: N, or T · N of one in tiles."""
    return cfg.vision.num_tokens * (layout.num_tiles if layout else 1)


def most_tokens(cfg: LlavaConfig) -> int:
    """Return the most visual tokens that a picture can have: N, or T · N of the largest grid."""
    if not isinstance(cfg, LlavaNextConfig):
        return cfg.vision.num_tokens
    side = cfg.vision.image_size
    tiles = max((width // side) * (height // side) for width, height in cfg.grid_pinpoints)
    return cfg.vision.num_tokens * (1 + tiles)
