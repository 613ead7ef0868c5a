"""Pictures are read, and kept features looked up, by threads that run ahead of the device.

Axis letters: G pictures, T tiles of a LLaVA-NeXT's picture.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from experiments.harness import batching, views
from experiments.harness.benchmark import Dataset
from experiments.harness.features import FeatureCache
from experiments.harness.plan import Plan
from llava_jax import images
from llava_jax.anyres import Layout
from llava_jax.config import LlavaConfig

T = TypeVar("T")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A batch and what is known of its pictures.

    Attributes:
        batch: its questions.
        digests: per picture, of its content; None where that cannot be read.
        pixels: float32[G, H, W, 3], or float32[G, T, H, W, 3] of tiles, zeros where a picture
            cannot be read; None if all outputs are known.
        seen: output → array[G, ...] or [G, T, ...] from the cache; None if one of one picture is
            missing.
        unreadable: picture id → why it could not be read.
    """

    batch: batching.ImageBatch
    digests: tuple[str | None, ...]
    pixels: np.ndarray | None
    seen: dict[str, np.ndarray] | None
    unreadable: dict[str, str]

    def split(self, most: int) -> list[Loaded]:
        """Return batches of at most so many pictures; questions stay padded as they are."""
        count = len(self.batch.groups)
        return [self._part(slice(i, i + most)) for i in range(0, count, most)]

    def _part(self, where: slice) -> Loaded:
        return dataclasses.replace(
            self,
            batch=self.batch.part(where),
            digests=self.digests[where],
            pixels=None if self.pixels is None else self.pixels[where],
            seen=self.seen and {name: value[where] for name, value in self.seen.items()},
        )


def load(
    groups: tuple[batching.ImageGroup, ...],
    plan: Plan,
    dataset: Dataset,
    cache: FeatureCache,
    outputs: tuple[str, ...],
    *,
    cfg: LlavaConfig,
    preprocessing: str,
) -> Loaded:
    """Bring a batch into memory: strings and files in, arrays out.

    Args:
        groups: the pictures of the batch.
        plan: of the run.
        dataset: opens the pictures.
        cache: of vision outputs.
        outputs: names of those that are needed.
        cfg: the model.
        preprocessing: as in ``views.pixels``.
    """
    batch = batching.collate(groups, plan.suffixes, plan.layout(groups[0]))
    digests = tuple(dataset.image_digest(group.image) for group in groups)
    found: list[dict[str, np.ndarray]] = []
    for digest in digests:
        if (one := cache.get(digest, outputs)) is None:
            # One that is missing sends the whole batch through the tower: its shape stays.
            pixels, unreadable = _read(batch, dataset, cfg, preprocessing)
            return Loaded(batch, digests, pixels, None, unreadable)
        found.append(one)
    seen = {name: np.stack([one[name] for one in found]) for name in outputs}
    return Loaded(batch, digests, None, seen, {})


def _read(
    batch: batching.ImageBatch, dataset: Dataset, cfg: LlavaConfig, preprocessing: str
) -> tuple[np.ndarray, dict[str, str]]:
    side = cfg.vision.image_size
    tiles = () if batch.layout is None else (batch.layout.num_tiles,)
    pixels = np.zeros((len(batch.groups), *tiles, side, side, 3), np.float32)
    unreadable = {}
    for index, group in enumerate(batch.groups):
        try:
            picture = dataset.read_image(group.image)
            if views.layout(picture.size, cfg, preprocessing) != batch.layout:
                raise images.ImageError(f"picture {group.image} has changed since the run began")
            pixels[index] = views.pixels(picture, cfg, preprocessing)
        except images.ImageError as error:
            unreadable[group.image] = str(error)
    return pixels, unreadable


def layouts(
    dataset: Dataset, pictures: Sequence[str], cfg: LlavaConfig, preprocessing: str
) -> dict[str, Layout]:
    """Return the layout of every picture's tiles, from its size; nothing if the model has no tiles.

    A picture that cannot be read is taken for a small square: it is refused when its turn comes.

    Args:
        dataset: opens the pictures.
        pictures: ids.
        cfg: the model.
        preprocessing: as in ``views.pixels``.
    """
    square = views.layout((cfg.vision.image_size, cfg.vision.image_size), cfg, preprocessing)
    if square is None:
        return {}

    def find(image: str) -> Layout | None:
        try:
            return views.layout(dataset.read_image(image).size, cfg, preprocessing)
        except images.ImageError:
            return square

    found = zip(pictures, ahead(find, pictures), strict=True)
    return {image: layout or square for image, layout in found}


def ahead(function: Callable[[T], R], items: Iterable[T], count: int | None = None) -> Iterator[R]:
    """Yield ``function(item)`` in the items' order, computed by threads that run ahead.

    Args:
        function: is called by threads.
        items: one call each.
        count: calls that may wait for their turn; one per core, at most eight, by default.
    """
    count = count or min(os.cpu_count() or 1, 8)
    waiting: collections.deque[concurrent.futures.Future[R]] = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(count, "load")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
