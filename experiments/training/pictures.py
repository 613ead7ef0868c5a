"""Pools of rendered scenes, kept on disk, and batches cut from them."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments import scenes
from llava_jax.images import normalise


@dataclasses.dataclass(frozen=True)
class Pool:
    """Rendered scenes of one world.

    Attributes:
        world: where they come from.
        start: index of the first.
        images: uint8[E, 192, 192, 3].
        categories: int8[E, 24, 24], −1 for background.
        colours: int8[E, 24, 24], −1 for background.
    """

    world: scenes.World
    start: int
    images: np.ndarray
    categories: np.ndarray
    colours: np.ndarray

    def __len__(self) -> int:
        """Count the scenes."""
        return len(self.images)


def pool(world: scenes.World, start: int, count: int, folder: pathlib.Path) -> Pool:
    """Render scenes start … start + count − 1, or map them if they are on disk."""
    name = f"{scenes.VERSION}-{world.name}-{start}-{count}"
    target = folder / name
    if not target.exists():
        rendered = [scenes.scene(world, start + i) for i in range(count)]
        partial = folder / f"{name}.partial"
        partial.mkdir(parents=True, exist_ok=True)
        np.save(partial / "images.npy", np.stack([s.image for s in rendered]))
        np.save(partial / "categories.npy", np.stack([s.labels for s in rendered]))
        np.save(partial / "colours.npy", np.stack([s.colours for s in rendered]))
        partial.rename(target)
    images = np.load(target / "images.npy", mmap_mode="r")
    categories = np.load(target / "categories.npy")
    return Pool(world, start, images, categories, np.load(target / "colours.npy"))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Window:
    """A batch of square windows of scenes, all at the same place.

    Attributes:
        pixels: float32[G, 8n, 8n, 3], normalised.
        categories: int32[G, n²], −1 for background.
        colours: int32[G, n²], −1 for background.
        rows: int32[1 + n²], rows of the position table that the window uses.
    """

    pixels: jax.Array
    categories: jax.Array
    colours: jax.Array
    rows: jax.Array


def window_rows(top: int, left: int, side: int) -> np.ndarray:
    """List the position rows of a window, CLS's row 0 first; int32[1 + side²]."""
    grid = 1 + np.arange(scenes.GRID**2, dtype=np.int32).reshape(scenes.GRID, -1)
    inner = grid[top : top + side, left : left + side]
    return np.concatenate([np.zeros(1, np.int32), inner.ravel()])


def window(source: Pool, size: int, side: int, rng: np.random.Generator) -> Window:
    """Draw a batch of windows of side × side patches, half of them mirrored.

    Args:
        source: the pool.
        size: pictures G.
        side: patches on the window's side.
        rng: source of chance.

    Returns:
        The batch.
    """
    picked = np.sort(rng.choice(len(source), size, replace=False))
    mirrored = rng.random(size) < 0.5
    top, left = (int(i) for i in rng.integers(0, scenes.GRID - side + 1, 2))

    def cut(values: np.ndarray, scale: int) -> np.ndarray:
        whole = values[picked]
        whole = np.where(_expand(mirrored, whole.ndim), whole[:, :, ::-1], whole)
        rows = slice(scale * top, scale * (top + side))
        return whole[:, rows, scale * left : scale * (left + side)]

    patch = source.images.shape[1] // scenes.GRID
    return Window(
        pixels=jnp.asarray(normalise(cut(source.images, patch))),
        categories=jnp.asarray(cut(source.categories, 1).reshape(size, -1), jnp.int32),
        colours=jnp.asarray(cut(source.colours, 1).reshape(size, -1), jnp.int32),
        rows=jnp.asarray(window_rows(top, left, side)),
    )


def _expand(flags: np.ndarray, ndim: int) -> np.ndarray:
    return flags.reshape((-1,) + (1,) * (ndim - 1))
