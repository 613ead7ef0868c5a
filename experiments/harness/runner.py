"""Answers a benchmark's questions under every setting of the grid and records the evidence.

Each picture is encoded once and each greedy order computed once for the whole grid; all questions
of a picture share one prefix per setting. Axis letters: G pictures, Q questions, N visual tokens,
C common start of the questions, K kept, V vocabulary.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from experiments.harness import answering, batching, loading, memory, seeing, selection, views
from experiments.harness.benchmark import Dataset
from experiments.harness.config import RunConfig
from experiments.harness.errors import InputError
from experiments.harness.evidence import Job, to_records
from experiments.harness.features import FeatureCache
from experiments.harness.plan import Plan
from experiments.harness.progress import Durable
from experiments.harness.relevance import Clip
from experiments.harness.source import Source
from experiments.harness.stopwatch import Stopwatch
from llava_jax import decoding
from llava_jax.engine import Engine


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a run reads.

    Attributes:
        plan: of the whole run.
        dataset: opens the pictures.
        source: the model.
        clip: the dual encoder, None if no pruner needs it.
        config: the flags.
        cache: what the tower said before.
        watch: is told where the time goes.
    """

    plan: Plan
    dataset: Dataset
    source: Source
    clip: Clip | None
    config: RunConfig
    cache: FeatureCache
    watch: Stopwatch


def evaluate(jobs: Sequence[Job], inputs: Inputs, *, between: Callable[[int], None]) -> None:
    """Answer what is not answered yet, batch by batch, every setting of a batch in turn.

    Where a device's memory is too small for a batch, that batch and all later ones are divided.

    Args:
        jobs: the settings.
        inputs: what the run reads.
        between: called for every batch of a setting with the rows made durable; may raise to
            stop there.

    Raises:
        InputError: a picture cannot be read and ``--allow_failed`` is not given.
        JaxRuntimeError: the memory is too small for one picture.
    """
    pending = [groups for groups in own_batches(inputs) if _open(jobs, groups)]
    if not pending:
        return
    outputs = seeing.needed([job.setting for job in jobs], inputs.source.cfg.vision.num_layers)
    loaded = _load_ahead(pending, outputs, inputs)
    shared = _begin(inputs, pending[0], _open(jobs, pending[0]))
    most = inputs.plan.images_per_batch
    with Durable(between) as durable:
        for _ in pending:
            with inputs.watch.stage("read pictures"):
                whole = next(loaded)
            _refuse_unreadable(whole, inputs.config)
            parts = whole.split(most)
            while parts:
                try:
                    _answer(parts[0], jobs, shared, outputs, inputs, durable)
                    parts.pop(0)
                except jax.errors.JaxRuntimeError as error:
                    most = len(parts[0].batch.groups) // 2
                    if not (memory.exhausted(error) and most):
                        raise
                    logging.warning("the device is full: from here %d pictures a batch", most)
                    parts = [piece for part in parts for piece in part.split(most)]


def own_batches(inputs: Inputs) -> list[tuple[batching.ImageGroup, ...]]:
    """Return the batches of this process: every so many-th of the whole run's."""
    config = inputs.config
    return list(inputs.plan.batches[config.process_id :: config.num_processes])


def _answer(
    ready: loading.Loaded,
    jobs: Sequence[Job],
    shared: answering.Shared,
    outputs: tuple[str, ...],
    inputs: Inputs,
    durable: Durable,
) -> None:
    """Answer a batch under every setting that lacks one of its answers."""
    watch, num_layers = inputs.watch, inputs.source.cfg.vision.num_layers
    with watch.stage("vision tower"):
        seen = watch.ready(seeing.see(shared.engine, ready, outputs, inputs.cache))
    features = seen["features"]
    features = features.reshape(len(features), -1, features.shape[-1])  # tiles behind each other
    relevance = functools.partial(_relevance, inputs, features, ready.batch)
    open_jobs = _open(jobs, ready.batch.groups)
    open_settings = [job.setting for job in open_jobs]
    orders = selection.Orders(open_settings, seen, num_layers, relevance, ready.batch, watch)
    for job in open_jobs:
        answers = answering.answer(shared, orders, features, ready.batch, job.setting)
        with watch.stage("write records"):
            rows, failures = to_records(answers, ready, inputs.source, job)
            job.append(rows, failures)
        durable.add(len(rows), job.sync)


def _load_ahead(
    batches: Sequence[tuple[batching.ImageGroup, ...]], outputs: tuple[str, ...], inputs: Inputs
) -> Iterator[loading.Loaded]:
    assert inputs.config.preprocessing is not None  # `views.by_model` chose one
    load = functools.partial(
        loading.load,
        plan=inputs.plan,
        dataset=inputs.dataset,
        cache=inputs.cache,
        outputs=outputs,
        cfg=inputs.source.cfg,
        preprocessing=inputs.config.preprocessing,
    )
    return loading.ahead(load, batches)


def _relevance(inputs: Inputs, features: jax.Array, batch: batching.ImageBatch) -> jax.Array:
    """Return what CLIP says of every visual token and question, float32[G, Q, N]."""
    assert inputs.clip is not None
    with inputs.watch.stage("relevance"):
        return inputs.watch.ready(inputs.clip.relevance(features, batch))


def _begin(
    inputs: Inputs, groups: Sequence[batching.ImageGroup], jobs: Sequence[Job]
) -> answering.Shared:
    """Load the model; start on what the first pictures need not be seen for.

    That is the text before the picture, and the decoder's programs: they are compiled while the
    tower's are, and each budget's while another budget's answers are computed. Not on a mesh:
    programs that talk between devices are started by one thread, in one order everywhere.
    """
    plan = inputs.plan
    with inputs.watch.stage("load weights"):
        engine = inputs.source.load()
    prompt_ids, common_ids = (np.array(ids, np.int32) for ids in (plan.prompt_ids, plan.common_ids))
    pool = concurrent.futures.ThreadPoolExecutor(1, "begin")
    before = pool.submit(engine.begin, prompt_ids)
    if engine.mesh is not None:
        concurrent.futures.wait([before])
    batch = batching.collate(tuple(groups), plan.suffixes, plan.layout(groups[0]))
    rehearsed = {
        count: pool.submit(_rehearse, engine, before, count, common_ids, batch)
        for count in dict.fromkeys(
            job.setting.handed(batch.layout)
            for job in jobs
            if not (job.setting.inside or job.setting.by_question or engine.mesh)
        )
    }
    pool.shutdown(wait=False)
    end = (inputs.source.tokenizer.end_id, plan.max_new_tokens, plan.eviction)
    return answering.Shared(engine, prompt_ids, before, common_ids, rehearsed, *end, inputs.watch)


def _rehearse(
    engine: Engine,
    before: concurrent.futures.Future[decoding.Prefix],
    count: int,
    common_ids: np.ndarray,
    batch: batching.ImageBatch,
) -> None:
    """Compile what answers a batch from K visual tokens."""
    rehearsal, vision = engine.rehearsal(), engine.cfg.vision
    shape = (len(batch.groups), views.num_tokens(engine.cfg, batch.layout), vision.width)
    features: Any = jax.ShapeDtypeStruct(
        shape, engine.params["projector"]["linear_1"]["weight"].dtype
    )
    kept = np.zeros((len(batch.groups), count), np.int32)
    prefix = rehearsal.prefill(before.result(), features, kept, common_ids)
    rehearsal.answer(prefix, batch.suffix_ids, batch.lengths)


def _open(jobs: Sequence[Job], groups: Sequence[batching.ImageGroup]) -> list[Job]:
    """Return the jobs that lack an answer to a question of these pictures."""
    keys = [row.key for group in groups for row in group.rows]
    return [job for job in jobs if not job.done.issuperset(keys)]


def _refuse_unreadable(ready: loading.Loaded, config: RunConfig) -> None:
    for group in ready.batch.groups:
        if group.image in ready.unreadable and not config.allow_failed:
            key = group.rows[0].key
            reason = ready.unreadable[group.image]
            raise InputError(f"question {key}: {reason} (--allow_failed goes on without it)")
