"""Scenes as pictures, with the truth about them."""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.scenes.categories import COLOURS, NAMES
from experiments.scenes.drawing import PATCH, SIZE, Placement, paint, stamp
from experiments.scenes.worlds import BACKGROUND, World, cover, layout

GRID = SIZE // PATCH

_NOISE = (12, 60)  # range of a picture's grain, the largest deviation of a channel
_SCRAPS = 14  # plain bars and blots on the ground
_TONES = np.array(
    [
        (176, 196, 214),
        (150, 178, 186),
        (206, 196, 180),
        (168, 158, 148),
        (160, 186, 150),
        (158, 158, 162),
        (204, 184, 168),
        (172, 164, 178),
    ],
    np.float32,
)


@dataclasses.dataclass(frozen=True)
class Thing:
    """One object of a scene.

    Attributes:
        category: its name.
        colour: its colour's name.
        box: left, top, right, bottom of its visible pixels; zeros if there are none.
        visible: share of its outline that is seen.
    """

    category: str
    colour: str
    box: tuple[int, int, int, int]
    visible: float


@dataclasses.dataclass(frozen=True)
class Scene:
    """A picture and the truth about it.

    Attributes:
        id: world's name and index, like test-00017.
        image: uint8[192, 192, 3].
        objects: in the order of painting, the last in front.
        labels: int8[24, 24], the category's index in each patch, −1 for background.
        colours: int8[24, 24], the colour's index in each patch, −1 for background.
    """

    id: str
    image: np.ndarray
    objects: tuple[Thing, ...]
    labels: np.ndarray
    colours: np.ndarray


def _ground(kind: int, rng: np.random.Generator) -> np.ndarray:
    """Paint uneven ground in the scene type's tone, float32[192, 192, 3]."""
    tone = _TONES[kind] * np.float32(0.85 + 0.3 * rng.random())
    blocks = rng.integers(-10, 11, (12, 12, 1)).astype(np.float32)
    relief = blocks.repeat(16, axis=0).repeat(16, axis=1)
    fall = np.linspace(-12, 12, SIZE, dtype=np.float32)[:, None, None]
    return tone + relief + fall


def _scatter(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Paint plain bars and blots, which belong to no category, onto the ground."""
    for row in rng.random((_SCRAPS, 7)).tolist():
        tone = np.array(row[:3], np.float32) * 190 + 30
        x, y = int(row[3] * SIZE), int(row[4] * SIZE)
        long, thin = 5 + int(row[5] * 22), 2 + int(row[6] * 5)
        across = row[6] < 0.5
        canvas[y : y + (thin if across else long), x : x + (long if across else thin)] = tone


def _finish(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add the sensor's noise and round to uint8."""
    grain = rng.integers(0, 256, canvas.shape, np.uint8).astype(np.float32) - 127.5
    level = _NOISE[0] + (_NOISE[1] - _NOISE[0]) * rng.random()
    canvas = canvas + grain * np.float32(level / 127.5)
    return np.rint(np.clip(canvas, 0, 255)).astype(np.uint8)


def _majority(owner: np.ndarray, count: int) -> np.ndarray:
    """Find each patch's object, int8[24, 24]: the one with most pixels, ≥ a quarter."""
    patches = owner.reshape(GRID, PATCH, GRID, PATCH)
    shares = np.stack([(patches == i).sum((1, 3)) for i in range(count)])
    best = shares.argmax(0)
    return np.where(shares.max(0) * 4 >= PATCH * PATCH, best, BACKGROUND)


def _thing(placement: Placement, share: float, mask: np.ndarray) -> Thing:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (0, 0, 0, 0)
    if rows.size:
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    colour = tuple(COLOURS)[placement.colour]
    left, top, right, bottom = (int(edge) for edge in box)
    return Thing(NAMES[placement.category], colour, (left, top, right, bottom), share)


def scene(place: World, index: int) -> Scene:
    """Render a scene."""
    plan = layout(place, index)
    placements = plan.placements
    rng = np.random.default_rng([place.seed, index, 1])
    canvas = _ground(plan.kind, rng)
    _scatter(canvas, rng)
    for placement in placements:
        paint(canvas, placement, stamp(placement))
    covered = cover(placements)
    owner = _majority(covered.owner, len(placements))
    category = np.array([p.category for p in placements] + [BACKGROUND], np.int8)
    colour = np.array([p.colour for p in placements] + [BACKGROUND], np.int8)
    things = tuple(
        _thing(placement, share, covered.owner == i)
        for i, (placement, share) in enumerate(zip(placements, covered.visible, strict=True))
    )
    return Scene(
        id=f"{place.name}-{index:05d}",
        image=_finish(canvas, rng),
        objects=things,
        labels=category[owner],
        colours=colour[owner],
    )
