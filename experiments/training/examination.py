"""What a finished model can do, measured on the files as they are shipped."""

from __future__ import annotations

import pathlib

import numpy as np

from experiments import scenes
from experiments.training import caption_stage
from experiments.training.answering import answer
from experiments.training.features import hidden_states
from experiments.training.measuring import MEASURES, Measured, attended
from experiments.training.pictures import pool
from llava_jax import checkpoint

CLIP = "clip"  # the folder of the dual encoder within a model's
UNSEEN = {"validation": 256, "test": 0}  # first scene that no choice depended on
COUNT = 500


def examine(
    folder: pathlib.Path, world: str, count: int, work: pathlib.Path
) -> dict[str, Measured]:
    """Measure a model on scenes that no choice depended on, all visual tokens kept, in float32.

    Args:
        folder: the model's.
        world: validation or test.
        count: scenes.
        work: folder for pictures and hidden states.

    Returns:
        Benchmark, and "tower" for the two encoders, to named measurements.
    """
    cfg = checkpoint.read_config(folder)
    params = checkpoint.load(folder, cfg, np.float32)
    start = UNSEEN[world]
    source = pool(scenes.world(world), start, count, work / "pools")
    hidden = hidden_states(params, source, cfg, work / "features")
    found = answer(params, hidden[:, 1:], source.world, range(start, start + count), cfg)
    measured = {name: MEASURES[name](answers) for name, answers in found.items()}
    dual = checkpoint.load_clip(folder / CLIP, np.float32)
    clip_cfg = checkpoint.read_clip_config(folder / CLIP)
    return measured | {
        "tower": attended(params, source, cfg)
        | caption_stage.evaluate(dual, source, hidden, clip_cfg)
    }
