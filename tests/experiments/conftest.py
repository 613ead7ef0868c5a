"""A tiny model, and the flags of a run with it."""

import pytest

from experiments.harness.config import RunConfig
from experiments.harness.errors import InputError
from llava_jax import images, testing


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    testing.write_checkpoint(folder)
    testing.write_clip(folder / "clip")
    return folder


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


@pytest.fixture
def config(tiny, fixtures_dir, tmp_path):
    return RunConfig(
        model=str(tiny),
        data=str(fixtures_dir / "raw" / "pope"),
        clip=None,
        relevant=None,
        pruners=("scope", "random"),
        budgets=(4,),
        hyperparameters={"alpha": (0.0, 1.0)},
        seeds=(0, 1),
        limit=None,
        order="raster",
        positions="contiguous",
        mode="default",
        route=None,
        max_new_tokens=None,
        prompt_style="llava",
        options="valid",
        own={},
        predictions=None,
        dtype=None,
        preprocessing="pad",
        out=str(tmp_path / "run"),
        fork=False,
        allow_failed=False,
        offline=True,
        dry_run=False,
        cache=str(tmp_path / "cache"),
        cache_gib=0.0,
    )
