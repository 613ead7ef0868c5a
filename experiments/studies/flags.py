"""The command line of what runs a study."""

from __future__ import annotations

from absl import flags as absl_flags

from experiments.harness import flags
from experiments.harness.benchmark import SCENES
from experiments.harness.config import FULL, RunConfig
from experiments.studies.definition import HUB

absl_flags.disclaim_key_flags()  # as in harness.flags


def define(out: str) -> None:
    """Define the flags.

    Args:
        out: the default folder for the study's runs.
    """
    flags.define_model()
    absl_flags.DEFINE_string(
        *("data", SCENES),
        f"folder with a folder for each benchmark (pope, scienceqa, …), {HUB} for their data sets "
        "on the hub, or scenes (embedded pictures)",
    )
    flags.define_run(out)


def base() -> RunConfig:
    """Return what the parsed flags say, without a grid.

    Raises:
        UsageError: an empty name of a file or folder.
    """
    flags.refuse_empty(("model", "data", "clip", "out", "cache"))
    return RunConfig(
        pruners=(FULL,),
        budgets=(128,),
        hyperparameters={},
        seeds=(0,),
        order="raster",
        positions="contiguous",
        tiles=None,
        route=None,
        max_new_tokens=None,
        kv_eviction="none",
        kv_budget=None,
        kv_window=32,
        prompt_style="llava",
        options="valid",
        own={},
        predictions=None,
        fork=False,
        **flags.values(flags.OF_A_RUN),
    )
