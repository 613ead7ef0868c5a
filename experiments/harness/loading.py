"""Pictures are read, and kept features looked up, by threads that run ahead of the device."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from experiments.harness import batching
from experiments.harness.benchmark import Dataset
from experiments.harness.features import FeatureCache
from experiments.harness.plan import Plan
from llava_jax import images

T = TypeVar("T")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A batch and what is known of its pictures.

    Attributes:
        batch: its questions.
        digests: per picture, of its content; None where that cannot be read.
        pixels: float32[G, H, W, 3], zeros where a picture cannot be read; None if all outputs
            are known.
        seen: output → array[G, ...] from the cache; None if one of one picture is missing.
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
    image_size: int,
    preprocessing: images.Mode,
) -> Loaded:
    """Bring a batch into memory: strings and files in, arrays out.

    Args:
        groups: the pictures of the batch.
        plan: of the run.
        dataset: opens the pictures.
        cache: of vision outputs.
        outputs: names of those that are needed.
        image_size: side of the model's pictures.
        preprocessing: ``pad`` or ``center_crop``.
    """
    batch = batching.collate(groups, plan.suffixes)
    digests = tuple(dataset.image_digest(group.image) for group in groups)
    found: list[dict[str, np.ndarray]] = []
    for digest in digests:
        if (one := cache.get(digest, outputs)) is None:
            # One that is missing sends the whole batch through the tower: its shape stays.
            pixels, unreadable = _read(groups, dataset, image_size, preprocessing)
            return Loaded(batch, digests, pixels, None, unreadable)
        found.append(one)
    seen = {name: np.stack([one[name] for one in found]) for name in outputs}
    return Loaded(batch, digests, None, seen, {})


def _read(
    groups: tuple[batching.ImageGroup, ...],
    dataset: Dataset,
    image_size: int,
    preprocessing: images.Mode,
) -> tuple[np.ndarray, dict[str, str]]:
    pixels = np.zeros((len(groups), image_size, image_size, 3), np.float32)
    unreadable = {}
    for index, group in enumerate(groups):
        try:
            picture = dataset.read_image(group.image)
            pixels[index] = images.preprocess(picture, image_size, preprocessing)
        except images.ImageError as error:
            unreadable[group.image] = str(error)
    return pixels, unreadable


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
