"""What a finished model can do, measured on the weights as they are shipped."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

from experiments import scenes
from experiments.training import caption_stage, tokenizer
from experiments.training.answering import answer
from experiments.training.features import hidden_states
from experiments.training.measuring import MEASURES, Measured, attended
from experiments.training.pictures import pool
from llava_jax import checkpoint
from llava_jax.clip_config import ClipConfig
from llava_jax.config import LlavaConfig

CLIP = "clip"  # the folder of the dual encoder within a model's
UNSEEN = {"validation": 256, "test": 0}  # first scene that no choice depended on
COUNT = 500


@dataclasses.dataclass(frozen=True)
class Model:
    """A shipped model in float32.

    Attributes:
        params: vision, projector and text.
        cfg: their shapes.
        dual: the dual encoder.
        clip_cfg: its shapes.
    """

    params: dict[str, Any]
    cfg: LlavaConfig
    dual: dict[str, Any]
    clip_cfg: ClipConfig


def load(folder: pathlib.Path) -> Model:
    """Load a folder that ``export.write`` has written.

    Raises:
        OSError: a file is missing.
        ValueError: a file is malformed, or the tokenizer is not the one questions are put in.
    """
    cfg = checkpoint.read_config(folder)
    clip_cfg = checkpoint.read_clip_config(folder / CLIP)
    file = folder / "tokenizer.json"
    if file.read_text(encoding="utf-8") != tokenizer.build().to_str(pretty=True):
        raise ValueError(f"{file} is not the tokenizer of experiments.training")
    dual = checkpoint.load_clip(folder / CLIP, np.float32)
    return Model(checkpoint.load(folder, cfg, np.float32), cfg, dual, clip_cfg)


def examine(model: Model, world: str, count: int, work: pathlib.Path) -> dict[str, Measured]:
    """Measure a model on scenes that no choice depended on, all visual tokens kept.

    Computed in float32, the hidden states between tower and decoder rounded to half precision.

    Args:
        model: as shipped.
        world: validation or test.
        count: scenes.
        work: folder for pictures and hidden states.

    Returns:
        Benchmark, and "tower" for the two encoders, to named measurements.
    """
    start = UNSEEN[world]
    source = pool(scenes.world(world), start, count, work / "pools")
    hidden = hidden_states(model.params, source, model.cfg, work / "features")
    indices = range(start, start + count)
    found = answer(model.params, hidden[:, 1:], source.world, indices, model.cfg)
    measured = {name: MEASURES[name](answers) for name, answers in found.items()}
    return measured | {
        "tower": attended(model.params, source, model.cfg)
        | caption_stage.evaluate(model.dual, source, hidden, model.clip_cfg)
    }
