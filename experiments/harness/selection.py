"""What the decoder is given of each picture: the pruners before it are asked here.

Axis letters: G pictures, Q questions, N visual tokens, K kept, Dv width of the vision tower.
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


@dataclasses.dataclass(frozen=True)
class Selection:
    """Chosen tokens, in order of selection.

    Attributes:
        index: int32[G, K], or int32[G, Q, K] where the question decides; the visual token that
            each stands for, −1 for CLS.
        features: float[G, K, Dv], or float[G, Q, K, Dv], where they are not the tokens themselves.
    """

    index: np.ndarray
    features: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Handed:
    """What the decoder is given.

    Attributes:
        features: float[G, M, Dv], tokens before the projector.
        rows: int32[G, K] or int32[G, Q, K], which of them, in the order to hand over.
        index: of rows' shape, the visual token that each stands for, −1 for CLS.
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
        self._images = [group.image for group in batch.groups]
        self._watch = watch
        ascending = sorted(settings, key=lambda setting: setting.budget)
        self._largest = {_selector(setting): setting for setting in ascending}
        self._found: dict[tuple[Any, ...], Selection] = {}

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
        keys = image_keys(setting, self._images)
        found = pruning.select(setting.pruner, tokens, setting.budget, keys)
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
    return (setting.name, values, setting.seed, budget)


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
