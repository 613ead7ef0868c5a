"""A benchmark's miniature: its questions asked about the first pictures of the embedded world."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from experiments import scenes
from experiments.harness.benchmark import Dataset, Example

_PICTURES = 500  # of the test world that the embedded model's card was measured on
_CACHED = 64


def _plain(world: scenes.World, index: int) -> np.ndarray:
    """Draw a scene, uint8[192, 192, 3]."""
    return scenes.scene(world, index).image


def dataset(
    name: str,
    limit: int | None,
    example: Callable[[scenes.Question, str], Example],
    picture: Callable[[scenes.World, int], np.ndarray] = _plain,
) -> Dataset:
    """Ask a miniature's questions about the first pictures of the test world.

    Args:
        name: of the miniature.
        limit: pictures; at most 500, and as many if None.
        example: question and picture id → what the model is asked.
        picture: draws one, uint8[H, W, 3].
    """
    world = scenes.world("test")
    index_of = {f"test-{index:05d}": index for index in range(min(limit or _PICTURES, _PICTURES))}
    examples = [
        example(question, image)
        for image, index in index_of.items()
        for question in scenes.MINIATURES[name].questions(world, index)
    ]

    @functools.lru_cache(maxsize=_CACHED)
    def pixels(image: str) -> np.ndarray:
        return picture(world, index_of[image])

    return Dataset(
        tuple(examples),
        read_image=lambda image: Image.fromarray(pixels(image)),
        image_digest=lambda image: hashlib.sha256(pixels(image).tobytes()).hexdigest(),
        source=f"embedded scenes, version {scenes.VERSION}",
        place="the embedded world",
    )
