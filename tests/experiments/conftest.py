"""Data sets opened as a run opens them."""

import pytest

from experiments.harness.errors import InputError
from llava_jax import images


@pytest.fixture(scope="session")
def opened():
    """Hash a data set and open every picture, as a run does; return it."""

    def open_all(dataset):
        dataset.digest()
        for example in dataset.examples:
            try:
                dataset.read_image(example.image)
            except images.ImageError as error:
                raise InputError(f"question {example.key}: {error}") from None
        return dataset

    return open_all
