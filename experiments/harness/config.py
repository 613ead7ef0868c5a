"""Everything the flags say, as a value."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

from experiments.harness import objects

FULL = "none"
"""The pruner that keeps everything; every table has its row."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything the flags say.

    Attributes:
        model: folder, hub id or ``pocket``.
        data: folder, hub id or ``scenes``.
        clip: folder or hub id of a dual encoder, None for the one beside the model.
        relevant: whether patches that matter to a question are ``similar`` or ``dissimilar`` to it
            in that encoder; None for what its config.json says.
        pruners: names, in the order given.
        budgets: tokens to keep.
        hyperparameters: name → values, only those given.
        seeds: of stochastic pruners.
        limit: pictures, None for the benchmark's default.
        order: how kept tokens are handed over, ``raster`` or ``selection``.
        positions: ``contiguous`` or ``original``.
        tiles: of a LLaVA-NeXT's picture, whether ``each`` has a share of the budget or ``all`` have
            it together; None for the model's default, and for a LLaVA-1.5, which has none.
        mode: ``default`` or ``paper`` statistics.
        route: ``first_token``, ``generate``, or None for the benchmark's default.
        max_new_tokens: of a generated answer, None for the benchmark's default.
        kv_eviction: ``none``, ``snapkv`` or ``window``: what is left in the cache of a text.
        kv_budget: prompt tokens that it holds, None without eviction.
        kv_window: last tokens of a question that SnapKV observes.
        prompt_style: ``llava`` or ``lmms``.
        options: ``valid`` options of a lettered question, or always ``abcd``.
        own: values of the benchmark's own flags.
        predictions: file of answers to be scored without a model; None for a run.
        dtype: of the model, None for the default.
        quantize: ``int8`` or ``int4`` for the decoder's matrices, None for what the weights are.
        mesh: of devices, such as ``data:2,model:4``; None for all accelerators on data.
        distributed: ``auto``, ``on`` or ``off``, whether other processes are joined.
        preprocessing: ``pad`` or ``center_crop``; of a LLaVA-NeXT ``anyres`` or
            ``anyres_huggingface``; None for the model's default.
        out: run folder, of this machine or of an object store.
        num_processes: that divide the pictures among them.
        process_id: which of them this is, from 0.
        fork: start a new folder where the setting's folder holds another run.
        allow_failed: report although rows failed.
        offline: open no socket.
        dry_run: print the plan and stop.
        cache: folder for what may be computed again.
        cache_gib: how much of it vision features may fill; 0 keeps none.
    """

    model: str
    data: str
    clip: str | None
    relevant: str | None
    pruners: tuple[str, ...]
    budgets: tuple[int, ...]
    hyperparameters: Mapping[str, tuple[Any, ...]]
    seeds: tuple[int, ...]
    limit: int | None
    order: str
    positions: str
    tiles: str | None
    mode: Literal["default", "paper"]
    route: str | None
    max_new_tokens: int | None
    kv_eviction: Literal["none", "snapkv", "window"]
    kv_budget: int | None
    kv_window: int
    prompt_style: str
    options: str
    own: Mapping[str, str]
    predictions: str | None
    dtype: str | None
    quantize: str | None
    mesh: str | None
    distributed: str
    preprocessing: str | None
    out: str
    num_processes: int
    process_id: int
    fork: bool
    allow_failed: bool
    offline: bool
    dry_run: bool
    cache: str
    cache_gib: float

    @property
    def folder(self) -> pathlib.Path:
        """The run folder on this machine; of one in an object store, what stands for it."""
        if not objects.is_url(self.out):
            return pathlib.Path(self.out)
        name = hashlib.sha256(self.out.encode()).hexdigest()[:16]
        return pathlib.Path(self.cache) / "runs" / name
