"""What the decoder is given of each picture: the pruners before it are asked here.

Axis letters: G pictures, Q questions, T tiles, N visual tokens of a picture or a tile, K kept, Dv
width of the vision tower; B pictures as a pruner sees them, G unless each tile is one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import pruning
from experiments.harness import batching, seeing
from experiments.harness.grid import Setting
from experiments.harness.stopwatch import Stopwatch
from experiments.harness.tiling import Division
from llava_jax import assembly
from llava_jax.anyres import Layout


@dataclasses.dataclass(frozen=True)
class Selection:
    """Chosen tokens, in order of selection.

    Attributes:
        index: int32[B, K], or int32[G, Q, K] where the question decides; the visual token that
            each stands for, −1 for CLS.
        features: float[B, K, Dv], or float[G, Q, K, Dv], where they are not the tokens themselves.
    """

    index: np.ndarray
    features: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Handed:
    """What the decoder is given.

    Attributes:
        features: float[G, M, Dv], tokens before the projector.
        rows: int32[G, K] or int32[G, Q, K], which of them, in the order to hand over; M for the
            newline of a LLaVA-NeXT.
        index: likewise without newlines, the visual token that each stands for, −1 for CLS; tokens
            of tiles are counted through, and −1 − t is the CLS of tile t.
    """

    features: jax.Array
    rows: np.ndarray
    index: np.ndarray


class Orders:
    """The orders of selection of one batch; each is computed when it is first asked for.

    A nested pruner's is that of the largest budget, whose start serves all smaller ones.
    """

    def __init__(
        self,
        settings: Sequence[Setting],
        seen: Mapping[str, jax.Array],
        num_layers: int,
        relevance: Callable[[], jax.Array],
        batch: batching.ImageBatch,
        watch: Stopwatch,
    ):
        self._seen, self._num_layers = seen, num_layers
        self._relevance = functools.cache(relevance)
        self._images, self._layout = [group.image for group in batch.groups], batch.layout
        self._watch = watch
        ascending = sorted(settings, key=lambda setting: setting.budget)
        self._largest = {_selector(setting): setting for setting in ascending}
        self._found: dict[tuple[Any, ...], Selection] = {}

    def handed(self, setting: Setting, features: jax.Array) -> Handed:
        """Return what the decoder is given under a setting.

        Args:
            setting: of those given at the start.
            features: float[G, N, Dv], or float[G, T · N, Dv] of tiles, the pictures' tokens.

        Raises:
            RuntimeError: as ``handed_over``.
        """
        if self._layout is None:
            return handed_over(self.of(setting), setting, features)
        if setting.tiles is None:
            return _sequence(self._layout, features)
        return _of_tiles(self.of(setting), setting, features, self._layout)

    def of(self, setting: Setting) -> Selection:
        """Return at least K chosen tokens."""
        selector = _selector(setting)
        if selector not in self._found:
            with self._watch.stage("select"):
                self._found[selector] = self._select(self._largest[selector])
        return self._found[selector]

    def _select(self, setting: Setting) -> Selection:
        tokens = seeing.tokens(self._seen, setting.pruner, self._num_layers)
        if setting.by_question:
            tokens = dataclasses.replace(tokens, relevance=self._relevance())
        keys, budget = image_keys(setting, self._images), setting.budget
        if self._layout is not None and setting.tiles is not None:
            division = Division(self._layout, setting.tiles)
            tokens, keys = division.tokens(tokens), division.keys(keys)
            budget = division.budget(budget)
        found = pruning.select(setting.pruner, tokens, budget, keys)
        if isinstance(found, pruning.Merged):
            return Selection(np.asarray(found.index), found.features)
        return Selection(np.asarray(found))


def image_keys(setting: Setting, images: Sequence[str]) -> jax.Array:
    """Return key[G], one per picture."""
    if setting.pruner.stochastic:
        return jnp.stack([pruning.image_key(setting.seed or 0, image) for image in images])
    nothing = jnp.zeros((len(images), 2), jnp.uint32)  # no key is read
    return jax.random.wrap_key_data(nothing, impl="threefry2x32")


def _selector(setting: Setting) -> tuple[Any, ...]:
    """Return what an order of selection depends on; nested pruners share it over budgets."""
    values = tuple(pruning.hyperparameters(setting.pruner).values())
    budget = None if setting.pruner.nested else setting.budget
    return (setting.name, values, setting.seed, setting.tiles, budget)


def handed_over(selection: Selection, setting: Setting, features: jax.Array) -> Handed:
    """Return what the decoder is given under a setting.

    Args:
        selection: at least K chosen tokens.
        setting: says how many to keep, and in which order to hand them over.
        features: float[G, N, Dv], the picture's tokens.

    Raises:
        RuntimeError: the pruner did not choose K different tokens of the picture; its name is
            given.
    """
    index = selection.index[..., : setting.budget]
    check_distinct(index, setting.budget, setting)
    check_range(index, 0 if selection.features is None else -1, features.shape[1], setting)
    order = np.broadcast_to(np.arange(setting.budget), index.shape)
    if setting.order == "raster":
        order = np.argsort(index, axis=-1, kind="stable")
    index = np.take_along_axis(index, order, axis=-1)
    if selection.features is None:
        return Handed(features, index, index)
    made = selection.features
    if index.ndim == 3:  # one after the other, the questions' tokens make a long picture
        order = order + made.shape[2] * np.arange(made.shape[1])[:, None]
        made = made.reshape(made.shape[0], -1, made.shape[3])
    return Handed(made, order.astype(np.int32), index)


def _sequence(layout: Layout, features: jax.Array) -> Handed:
    """Return all that shows a picture in tiles, float[G, T · N, Dv], as an unpruned LLaVA-NeXT."""
    (pictures, count, _), rows = features.shape, assembly.sequence(layout)
    every = np.tile(rows, (pictures, 1))
    return Handed(features, every, np.tile(rows[rows < count], (pictures, 1)))


def _of_tiles(
    selection: Selection, setting: Setting, features: jax.Array, layout: Layout
) -> Handed:
    """Return what is handed over of pictures in tiles.

    Tokens come in the order of the whole picture, base tile first (SCOPE, llava_arch.py); those
    that a pruner made come tile by tile.

    Args:
        selection: at least K_t chosen tokens of each tile, or K of each whole picture.
        setting: as in ``handed_over``.
        features: float[G, T · N, Dv].
        layout: of the pictures.
    """
    pictures, division = len(features), Division(layout, str(setting.tiles))
    apart = features.reshape(pictures, layout.num_tiles, -1, features.shape[-1])
    seen = division.tokens(pruning.Tokens(features=apart)).features
    assert seen is not None
    share = dataclasses.replace(setting, budget=division.budget(setting.budget))
    handed = handed_over(selection, share, seen)
    index = division.number(handed.index)
    if selection.features is None:
        if setting.order == "raster":
            index = np.asarray(assembly.order(layout, index))
        return Handed(features, index, index)
    width = handed.features.shape[1]
    rows = handed.rows.reshape(pictures, division.parts, -1)
    rows = (rows + width * np.arange(division.parts)[:, None]).reshape(pictures, -1)
    made = handed.features.reshape(pictures, -1, features.shape[-1])
    return Handed(made, rows.astype(np.int32), index)


def check_distinct(index: np.ndarray, budget: int, setting: Setting) -> None:
    """Raise a RuntimeError unless the last axis has `budget` different tokens everywhere."""
    if index.shape[-1] != budget or _repeats(index):
        raise RuntimeError(f"pruner {setting.name} did not keep {budget} different tokens")


def check_range(index: np.ndarray, least: int, below: int, setting: Setting) -> None:
    """Raise a RuntimeError unless all numbers are in least … below − 1."""
    if not (least <= index.min() and index.max() < below):
        found = f"{index.min()} … {index.max()}, not all in {least} … {below - 1}"
        raise RuntimeError(f"pruner {setting.name} chose the tokens {found}")


def check_at_most(index: np.ndarray, most: np.ndarray, setting: Setting) -> None:
    """Raise a RuntimeError unless the last axis has different numbers, so many from 0 on at most.

    Args:
        index: int[..., W]; what is below 0 is none of the picture's tokens.
        most: int[...], how many of its tokens there may be, as the pruner chose.
        setting: is named.
    """
    found = (index >= 0).sum(axis=-1)
    if _repeats(index) or (found > most).any():
        raise RuntimeError(
            f"pruner {setting.name} chose {most.min()} to {most.max()} different tokens, but "
            f"{found.min()} to {found.max()} were left"
        )


def _repeats(index: np.ndarray) -> bool:
    """Return whether a number occurs twice along the last axis."""
    ascending = np.sort(index, axis=-1)
    return bool((ascending[..., 1:] == ascending[..., :-1]).any())
