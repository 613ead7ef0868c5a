"""Data sets opened as a run opens them, and settings written as a run writes them."""

import numpy as np
import pytest

from experiments.harness import records, shards
from experiments.harness.errors import InputError
from llava_jax import atomic, images

SPLITS = ("adversarial", "popular", "random")


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


@pytest.fixture(scope="session")
def write_setting():
    """Write a finished setting of yes-or-no questions, six a picture."""

    def write(out, name, margin, label, *, keys=None, dtype="float32", **setting):
        folder = out / name
        folder.mkdir(parents=True)
        own = {"pruner": name, "budget": 8, "seed": None, "order": "raster"} | setting
        identity = {"benchmark": "pope", "dtype": dtype, "setting": own}
        identity |= {"confidence": {"route": "first_token"}, "data": {"sha256": "0" * 64}}
        atomic.write(folder / records.RUN, {"identity": identity, "setting": own})
        (folder / "flags.txt").write_text("--model=models/pocket\n--data=scenes\n")
        pairs = -np.logaddexp(0, np.stack([-margin, margin], axis=1)).astype(np.float32)
        keys = range(len(margin)) if keys is None else keys
        rows = [
            records.Record(
                key=f"{SPLITS[key % 3]}/{key:04d}",
                image=f"{key // 6:03d}.png",
                split=SPLITS[key % 3],
                label=int(right),
                log_masses=tuple(map(float, pair)),
                answer_log_mass=-0.001,
                token=7,
                text=None,
                budget=own["budget"],
                kept="AA==",
                run="0" * 16,
            )
            for key, right, pair in zip(keys, label, pairs, strict=True)
        ]
        writer = shards.Shard(folder)
        writer.append(rows)
        writer.close()
        (folder / records.SEALED).write_text("{}")

    return write
