"""The folders of a run: one for each setting, with all that decides its answers, and the cache."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from experiments.harness import accounts, flags, identity, records
from experiments.harness.benchmark import Benchmark, Dataset
from experiments.harness.config import RunConfig
from experiments.harness.features import FeatureCache
from experiments.harness.folder import RunFolder
from experiments.harness.grid import Setting
from experiments.harness.plan import Plan
from experiments.harness.relevance import Clip
from experiments.harness.source import Source
from llava_jax import sharding
from llava_jax.config import LlavaNextConfig


def identity_of(
    benchmark: Benchmark, config: RunConfig, source: Source, dataset: Dataset, work: Plan
) -> dict[str, Any]:
    """Return all that decides the answers of every setting.

    Raises:
        InputError: weights or pictures cannot be read, or are not what they should be.
    """
    sha256 = dataset.digest(allow_missing=config.allow_failed)
    asked = {"prompt_style": config.prompt_style} | dict(config.own)
    asked |= {"options": config.options} if benchmark.lettered else {}
    data = {"sha256": sha256, "rows": len(dataset.examples)}
    return identity.of(benchmark.name, config, source, work, data, asked)


def open_all(
    grid: Sequence[Setting],
    config: RunConfig,
    run: Mapping[str, Any],
    work: Plan,
    source: Source,
    clip: Clip | None,
    data: str,
) -> tuple[RunFolder, ...]:
    """Make or find the folder of every setting.

    Args:
        grid: the settings.
        config: the flags.
        run: what decides the answers of all of them, from ``identity_of``.
        work: the plan.
        source: the model.
        clip: the dual encoder that some pruners ask; None if none does.
        data: name of the data.

    Raises:
        InputError: a folder holds another run.
    """
    reads = {} if clip is None else {"clip": clip.identity()}
    return tuple(
        _open(setting, config, {**run, **(reads if setting.reads_clip else {})}, work, source, data)
        for setting in grid
    )


def _open(
    setting: Setting,
    config: RunConfig,
    run: Mapping[str, Any],
    work: Plan,
    source: Source,
    data: str,
) -> RunFolder:
    """Make or find a setting's folder."""
    batches = {"images": len(work.groups), "images_per_batch": work.images_per_batch}
    batches |= accounts.realised(setting, source.cfg, work)
    # Through JSON and back, so that it compares equal with what a run.json holds.
    whole = records.canonical_copy({**run, "setting": setting.describe()})
    return RunFolder.open(
        config.folder / setting.id,
        whole,
        [row.key for group in work.groups for row in group.rows],
        plan=batches,
        setting=setting.describe(),
        source=data,
        flagfile=flags.flagfile(config, setting.describe()),
        fork=config.fork,
    )


def feature_cache(config: RunConfig, run: Mapping[str, Any], source: Source) -> FeatureCache:
    """Return the cache of vision outputs for this model, dtype and preprocessing."""
    names = ("weights", "dtype", "preprocessing")
    own = {name: run[name] for name in names} | {"vision": run["model"]["vision"]}
    if isinstance(source.cfg, LlavaNextConfig):
        own |= {"pinpoints": source.cfg.grid_pinpoints}
    own |= {"computed_by": _computed_by()}
    own |= {"mesh": sharding.describe(source.mesh)} if source.mesh else {}
    folder = pathlib.Path(config.cache) / "features"
    return FeatureCache(folder, int(config.cache_gib * 2**30), own)


def _computed_by() -> dict[str, str]:
    """Return what the last bits of a result depend on, other than the model and the picture."""
    xla = {name: os.environ.get(name, "") for name in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    return xla | {"jaxlib": jax.lib.__version__, "device": jax.local_devices()[0].device_kind}
