"""LLaVA-NeXT's view of a picture: tiles of its own resolution beside the whole, squashed.

    picture ─ resolution ─► fitted into one of a few grids of tiles, black around it
            ─ tiles ─► float32[T, S, S, 3], tile 0 the whole picture
            ─ layout ─► Layout, all that later stages know of its geometry

Two peers agree on nearly every size: haotian-liu/LLaVA (llava/mm_utils.py, llava_arch.py), which
published the numbers, and Hugging Face's transformers (models/llava_next). ``Convention`` says
where they do not.

Axis letters: T tiles, S side of a tile in pixels, n its side in visual tokens, N = n² visual tokens
of a tile, M tokens of a picture's sequence.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image

from llava_jax import images
from llava_jax.config import LlavaNextConfig

Convention = Literal["llava", "huggingface"]
"""``llava`` reads a pinpoint as (width, height). ``huggingface`` reads (height, width), so that of
equally good ones another comes first: pictures smaller than a tile may be tiled the other way. It
also rounds to seven digits where it unpads: 352 × 748 has 52 rows, not LLaVA's 50."""
CONVENTIONS: tuple[Convention, ...] = ("llava", "huggingface")

Size = tuple[int, int]
"""Width and height."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the visual tokens of a picture's tiles lie; hashable, so static under ``jax.jit``.

    Attributes:
        grid: rows and columns of tiles, tile 0 not counted.
        side: visual tokens n along a tile.
        padding: rows of tokens at the top, and as many at the bottom, that show no picture; columns
            at the left and at the right.
    """

    grid: tuple[int, int]
    side: int
    padding: tuple[int, int]

    @property
    def num_tiles(self) -> int:
        """Tiles T, the whole picture among them."""
        return 1 + math.prod(self.grid)

    @property
    def tile_tokens(self) -> int:
        """Visual tokens N of a tile."""
        return self.side**2

    @property
    def map_shape(self) -> tuple[int, int]:
        """Rows and columns of the tiles' tokens side by side."""
        rows, columns = self.grid
        return rows * self.side, columns * self.side

    @property
    def window_shape(self) -> tuple[int, int]:
        """Rows H and columns W of the map that show the picture."""
        (rows, columns), (top, left) = self.map_shape, self.padding
        return rows - 2 * top, columns - 2 * left

    @property
    def num_tokens(self) -> int:
        """Tokens M of the whole sequence: N + H · (W + 1), each row with its newline."""
        rows, columns = self.window_shape
        return self.tile_tokens + rows * (columns + 1)


def resolution(
    size: Size, pinpoints: Sequence[tuple[int, int]], convention: Convention = "llava"
) -> Size:
    """Choose the size of canvas that shows most of a picture, of those the least wasteful.

        argmax min(⌊w·s⌋·⌊h·s⌋, w·h),  s = min(W / w, H / h);  then argmin W·H;  then the first

    Args:
        size: of the picture.
        pinpoints: sizes to choose from, as the checkpoint lists them.
        convention: which number of a pinpoint is the width.

    Returns:
        Width and height of the canvas, ``select_best_resolution`` of both peers.

    Raises:
        ValueError: unknown convention.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"unknown convention {convention!r}; known: {list(CONVENTIONS)}")
    width, height = size

    def worth(canvas: Size) -> tuple[int, int]:
        scale = min(canvas[0] / width, canvas[1] / height)
        shown = min(int(width * scale) * int(height * scale), width * height)
        return shown, shown - canvas[0] * canvas[1]

    read = pinpoints if convention == "llava" else [(second, first) for first, second in pinpoints]
    return max(read, key=worth)


def layout(size: Size, cfg: LlavaNextConfig, convention: Convention = "llava") -> Layout:
    """Return the layout of a picture from its size alone.

    Args:
        size: of the picture, pixels.
        cfg: the model.
        convention: of the peer whose sequence is wanted.

    Raises:
        ValueError: unknown convention.
    """
    tile, side = cfg.vision.image_size, cfg.vision.image_size // cfg.vision.patch_size
    width, height = resolution(size, cfg.grid_pinpoints, convention)
    grid = (height // tile, width // tile)
    digits = None if convention == "llava" else 7
    return Layout(grid, side, _padding(size, (grid[0] * side, grid[1] * side), digits))


def _padding(size: Size, map_shape: tuple[int, int], digits: int | None) -> tuple[int, int]:
    """Return half of the rows, or of the columns, that a picture leaves free on the map.

    Args:
        size: of the picture.
        map_shape: rows and columns.
        digits: that a length is rounded to before it is cut to whole tokens; None for no rounding.
    """
    (width, height), (rows, columns) = size, map_shape
    wide = width / height > columns / rows
    covered = height * (columns / width) if wide else width * (rows / height)
    covered = int(covered if digits is None else round(covered, digits))
    return ((rows - covered) // 2, 0) if wide else (0, (columns - covered) // 2)


def tiles(image: Image.Image, cfg: LlavaNextConfig, convention: Convention = "llava") -> np.ndarray:
    """Return a picture as a LLaVA-NeXT's vision tower takes it.

    Args:
        image: an RGB picture.
        cfg: the model.
        convention: as in ``layout``.

    Returns:
        float32[T, S, S, 3], normalised: the whole picture squashed to a square, then the canvas
        row by row.

    Raises:
        ImageError: so large or so thin that its enlargement would not fit into memory.
        ValueError: unknown convention.
    """
    tile = cfg.vision.image_size
    width, height = resolution(image.size, cfg.grid_pinpoints, convention)
    # Pillow resizes along the rows first: the picture's height by the new width.
    images.refuse_large(image, width * max(image.height, height))
    whole = np.asarray(image.resize((tile, tile), Image.Resampling.BICUBIC))
    canvas = np.asarray(_on_black(image, (width, height)))
    cut = canvas.reshape(height // tile, tile, width // tile, tile, 3).swapaxes(1, 2)
    return images.normalise(np.concatenate([whole[None], cut.reshape(-1, tile, tile, 3)]))


def _on_black(image: Image.Image, canvas: Size) -> Image.Image:
    """Paste a picture in its largest size; an odd pixel is black at the right or the bottom."""
    fitted = image.resize(_fitted(image.size, canvas), Image.Resampling.BICUBIC)
    whole = Image.new("RGB", canvas)
    whole.paste(fitted, ((canvas[0] - fitted.width) // 2, (canvas[1] - fitted.height) // 2))
    return whole


def _fitted(size: Size, canvas: Size) -> Size:
    """Return the largest size of a picture's shape on a canvas; a broken pixel counts whole."""
    (width, height), (most_wide, most_high) = size, canvas
    by_width, by_height = most_wide / width, most_high / height
    if by_width < by_height:
        return most_wide, min(math.ceil(height * by_width), most_high)
    return min(math.ceil(width * by_height), most_wide), most_high
