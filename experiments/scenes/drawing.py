"""Draw objects with numpy alone, so that pixels are the same on every machine.

Only +, −, ×, ÷, comparisons and rounding touch the pixels: these are exact in IEEE
arithmetic, unlike sines and exponentials, whose last bit depends on the processor.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from experiments.scenes.categories import (
    CATEGORIES,
    COLOURS,
    TEXTURES,
    TRIMS,
    Box,
    Disc,
    Shape,
)

SIZE = 192  # pixels on a side
PATCH = 8  # pixels on a patch's side
STENCIL = 64  # resolution of the stored outlines

_PALETTE = np.array(list(COLOURS.values()), np.float32)
_TRIMS = np.array(TRIMS, np.float32)


@dataclasses.dataclass(frozen=True)
class Placement:
    """One object on its place, everything that its pixels depend on.

    Attributes:
        category: index into CATEGORIES.
        colour: index into COLOURS.
        x: centre in pixels, to the right.
        y: centre in pixels, down.
        size: nominal side in pixels.
        aspect: width over height is aspect².
        slope: tangent of half the angle of rotation.
        mirror: 1 or −1.
        phase: start of the texture in periods.
        shade: brightness.
        contrast: how far the trim stands out, 1 at most.
    """

    category: int
    colour: int
    x: float
    y: float
    size: float
    aspect: float
    slope: float
    mirror: int
    phase: float
    shade: float
    contrast: float


@dataclasses.dataclass(frozen=True)
class Stamp:
    """The pixels a placement may cover.

    Attributes:
        rows: slice of the picture's rows.
        columns: slice of its columns.
        mask: bool[h, w], the outline inside the picture.
        area: pixels of the whole outline, those beyond the picture's edge included.
        u: float32[h, w], object coordinates in pixels, to the right.
        v: float32[h, w], down.
    """

    rows: slice
    columns: slice
    mask: np.ndarray
    area: int
    u: np.ndarray
    v: np.ndarray


def inside(shape: Shape, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Tell which points lie inside a shape."""
    if isinstance(shape, Disc):
        return ((x - shape.x) / shape.rx) ** 2 + ((y - shape.y) / shape.ry) ** 2 <= 1
    if isinstance(shape, Box):
        across = (x >= shape.left) & (x <= shape.right)
        return across & (y >= shape.top) & (y <= shape.bottom)
    xs, ys = shape.corners[0::2], shape.corners[1::2]
    odd = np.zeros(x.shape, bool)
    for i in range(len(xs)):
        x0, y0, x1, y1 = xs[i - 1], ys[i - 1], xs[i], ys[i]
        if y0 != y1:
            crossing = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
            odd ^= ((y0 > y) != (y1 > y)) & (x < crossing)
    return odd


@functools.cache
def stencil(category: int) -> np.ndarray:
    """Rasterise a category's outline, bool[64, 64]."""
    centres = (np.arange(STENCIL) + 0.5) / STENCIL * 2 - 1
    x, y = np.meshgrid(centres, centres)
    kind = CATEGORIES[category]
    mask = np.zeros(x.shape, bool)
    for shape in kind.outline:
        mask |= inside(shape, x, y)
    for shape in kind.holes:
        mask &= ~inside(shape, x, y)
    return mask


def stamp(place: Placement) -> Stamp:
    """Find the pixels of a placed object by looking its outline up."""
    half = place.size / 2
    reach = int(half * max(place.aspect, 1 / place.aspect) * 1.25) + 2
    x0, y0 = int(place.x) - reach, int(place.y) - reach
    dx = np.arange(x0, x0 + 2 * reach, dtype=np.float32)[None] + np.float32(0.5)
    dy = np.arange(y0, y0 + 2 * reach, dtype=np.float32)[:, None] + np.float32(0.5)
    dx, dy = dx - np.float32(place.x), dy - np.float32(place.y)
    norm = 1 + place.slope * place.slope
    cos, sin = (1 - place.slope * place.slope) / norm, 2 * place.slope / norm
    u = (dx * np.float32(cos) + dy * np.float32(sin)) / np.float32(place.aspect)
    v = (dy * np.float32(cos) - dx * np.float32(sin)) * np.float32(place.aspect)
    u = u * np.float32(place.mirror)
    scale = np.float32(STENCIL / place.size)
    column = np.floor(u * scale).astype(np.int32) + STENCIL // 2
    row = np.floor(v * scale).astype(np.int32) + STENCIL // 2
    valid = (column >= 0) & (column < STENCIL) & (row >= 0) & (row < STENCIL)
    column, row = np.clip(column, 0, STENCIL - 1), np.clip(row, 0, STENCIL - 1)
    mask = stencil(place.category)[row, column] & valid
    top, left = max(0, -y0), max(0, -x0)
    bottom, right = min(2 * reach, SIZE - y0), min(2 * reach, SIZE - x0)
    cut = (slice(top, bottom), slice(left, right))
    rows, columns = slice(y0 + top, y0 + bottom), slice(x0 + left, x0 + right)
    return Stamp(rows, columns, mask[cut], int(mask.sum()), u[cut], v[cut])


def _triangle(x: np.ndarray) -> np.ndarray:
    """Fold x into a triangle wave of period 1 between 0 and 1."""
    return np.abs(2 * (x - np.floor(x)) - 1)


def pattern(texture: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Say where a texture shows its trim, bool[h, w]; u and v are in periods."""
    name = TEXTURES[texture]
    if name == "rows":
        return _triangle(v) > 0.5
    if name == "columns":
        return _triangle(u) > 0.5
    if name == "slants":
        return _triangle((u + v) * np.float32(0.7)) > 0.5
    if name == "checks":
        return (_triangle(u) > 0.5) ^ (_triangle(v) > 0.5)
    if name == "dots":
        x, y = _triangle(u) - 1, _triangle(v) - 1
        return x * x + y * y < 0.45
    if name == "rings":
        return _triangle(np.sqrt(u * u + v * v)) > 0.5
    if name == "zigzag":
        return _triangle(v + _triangle(u * np.float32(0.75)) * np.float32(0.9)) > 0.5
    return (_triangle(u) > 0.66) | (_triangle(v) > 0.66)


def paint(canvas: np.ndarray, place: Placement, mark: Stamp) -> None:
    """Paint an object onto float32[192, 192, 3] in place."""
    kind = CATEGORIES[place.category]
    period = np.float32(4.5 + place.size / 14)
    phase = np.float32(place.phase)
    trim = pattern(kind.texture, mark.u / period + phase, mark.v / period + phase)
    plain = _PALETTE[place.colour]
    tone = plain + (_TRIMS[kind.trim] - plain) * np.float32(place.contrast)
    surface = np.where(trim[..., None], tone, plain)
    slant = (mark.u - mark.v) * np.float32(0.2 / place.size)
    surface = surface * (np.float32(place.shade) - slant)[..., None]
    window = canvas[mark.rows, mark.columns]
    np.copyto(window, surface, where=mark.mask[..., None])
