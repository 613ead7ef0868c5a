"""Worlds of scenes: what stands where, and how much of it is visible.

A world is a seed; scene i of a world is a function of (seed, i) alone. Worlds never
share a scene. A scene has a type whose objects it prefers, so that categories differ in
frequency and keep company with one another, as in photographs.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from experiments.scenes.categories import CATEGORIES, COLOURS, SCENE_TYPES
from experiments.scenes.drawing import SIZE, Placement, stamp

VERSION = "scenes-1"  # changes whenever a pixel or a question does
FEWEST_PRESENT = 3  # categories present in every scene
BACKGROUND = -1  # the owner or label of what shows no object
PRESENT = 0.4  # visible share of one instance that makes a category present

_SEEDS = {"train": 11, "validation": 12, "test": 13}
_HOME = 0.7  # share of objects from the scene type's own ten categories
_USUAL = 0.6  # share of objects in their category's usual colour
_SMALL, _OCTAVES = 16, 1.7  # sizes run over 1.7 doublings from 16 to 54 pixels
_FEWEST, _MOST = 4, 10  # objects in a scene


@dataclasses.dataclass(frozen=True)
class World:
    """A named, endless sequence of scenes.

    Attributes:
        name: first part of its scenes' ids.
        seed: what its scenes are drawn from.
    """

    name: str
    seed: int


def world(name: str) -> World:
    """Open the world called train, validation or test."""
    if name not in _SEEDS:
        raise ValueError(f"no world {name!r}; the worlds are {', '.join(_SEEDS)}")
    return World(name, _SEEDS[name])


@functools.cache
def _weights() -> np.ndarray:
    """Return the cumulative chance of each category by scene type, float64[8, 40]."""
    count = len(CATEGORIES)
    everywhere = 1.0 / (4 + np.arange(count) * 7 % count)  # Zipf, ranks shuffled
    everywhere /= everywhere.sum()
    chances = np.tile((1 - _HOME) * everywhere, (len(SCENE_TYPES), 1))
    for kind in range(len(SCENE_TYPES)):
        own = [i for i in range(count) if CATEGORIES[i].scene == kind]
        shared = [(5 * kind + 13 + 9 * j) % count for j in range(5)]
        favoured = np.zeros(count)
        favoured[own] += 1.0
        favoured[shared] += 0.6
        chances[kind] += _HOME * favoured / favoured.sum()
    return np.cumsum(chances, axis=1)


def draft(place: World, index: int, attempt: int = 0) -> tuple[int, tuple[Placement, ...]]:
    """Draw a scene's type and its objects from back to front, without looking."""
    rng = np.random.default_rng([place.seed, index, 0, attempt])
    kind = int(rng.integers(len(SCENE_TYPES)))
    count = int(rng.integers(_FEWEST, _MOST + 1))
    numbers = rng.random((count, 11))
    chances = _weights()[kind]
    placements = []
    for row in numbers.tolist():
        category = int(np.searchsorted(chances, row[0] * chances[-1], side="right"))
        colour = CATEGORIES[category].colour
        if row[1] >= _USUAL:
            share = (row[1] - _USUAL) / (1 - _USUAL)
            colour = min(int(share * len(COLOURS)), len(COLOURS) - 1)
        octaves = row[2] * _OCTAVES
        whole = int(octaves)  # 2^octaves, linear between whole ones: exact arithmetic
        size = _SMALL * (1 << whole) * (1 + (octaves - whole))
        margin = 0.4 * size
        placements.append(
            Placement(
                category=category,
                colour=colour,
                x=margin + row[3] * (SIZE - 2 * margin),
                y=margin + row[4] * (SIZE - 2 * margin),
                size=size,
                aspect=0.92 + 0.16 * row[5],
                slope=0.21 * (row[6] - 0.5),
                mirror=1 if row[7] < 0.5 else -1,
                phase=row[8],
                shade=0.75 + 0.4 * row[9],
                contrast=0.35 + 0.65 * row[10],
            )
        )
    return kind, tuple(placements)


@dataclasses.dataclass(frozen=True)
class Layout:
    """A scene before it is painted.

    Attributes:
        kind: index of the scene type.
        placements: the objects from back to front.
        visible: share of each object's outline that is seen.
        present: indices of the categories that are present.
        absent: indices of those of which no pixel shows.
    """

    kind: int
    placements: tuple[Placement, ...]
    visible: tuple[float, ...]
    present: tuple[int, ...]
    absent: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Cover:
    """Who covers which pixel.

    Attributes:
        owner: int8[192, 192], the index of the object in front, −1 for the ground.
        visible: share of each object's outline that is seen.
    """

    owner: np.ndarray
    visible: tuple[float, ...]


def cover(placements: tuple[Placement, ...]) -> Cover:
    """Resolve occlusion without painting."""
    owner = np.full((SIZE, SIZE), BACKGROUND, np.int8)
    areas = []
    for i, placement in enumerate(placements):
        mark = stamp(placement)
        owner[mark.rows, mark.columns][mark.mask] = i
        areas.append(mark.area)
    seen = np.bincount(owner.ravel() + 1, minlength=len(placements) + 1)[1:]
    return Cover(owner, tuple(float(s) / max(a, 1) for s, a in zip(seen, areas, strict=True)))


@functools.lru_cache(maxsize=4096)
def layout(place: World, index: int) -> Layout:
    """Take the first draft of a scene that shows at least three categories.

    Present: 40 % of one instance is visible. Absent: no pixel is. What lies between
    belongs to neither and is never asked for.
    """
    attempt = 0
    while True:
        kind, placements = draft(place, index, attempt)
        best = np.zeros(len(CATEGORIES))
        visible = cover(placements).visible
        for placement, share in zip(placements, visible, strict=True):
            best[placement.category] = max(best[placement.category], share)
        present = tuple(np.flatnonzero(best >= PRESENT).tolist())
        if len(present) >= FEWEST_PRESENT:
            absent = tuple(np.flatnonzero(best == 0).tolist())
            return Layout(kind, placements, visible, present, absent)
        attempt += 1
