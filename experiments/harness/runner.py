"""Answers a benchmark's questions under every setting of the grid and records the evidence.

Each picture is encoded once and each greedy order computed once for the whole grid; all questions
of a picture share one prefix per setting. Axis letters: G pictures, Q questions, N visual tokens,
C common start of the questions, K kept, V vocabulary.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import pruning
from experiments.harness import batching, loading
from experiments.harness.benchmark import Dataset
from experiments.harness.config import RunConfig
from experiments.harness.errors import InputError
from experiments.harness.evidence import Job, to_records
from experiments.harness.features import FeatureCache
from experiments.harness.grid import Setting
from experiments.harness.plan import Plan
from experiments.harness.source import Source
from experiments.harness.stopwatch import Stopwatch
from llava_jax import decoding, model
from llava_jax.engine import Engine


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a run reads.

    Attributes:
        plan: of the whole run.
        dataset: opens the pictures.
        source: the model.
        config: the flags.
        cache: what the tower said before.
        watch: is told where the time goes.
    """

    plan: Plan
    dataset: Dataset
    source: Source
    config: RunConfig
    cache: FeatureCache
    watch: Stopwatch


def evaluate(jobs: Sequence[Job], inputs: Inputs, *, between: Callable[[int], None]) -> int:
    """Answer what is not answered yet, batch by batch, every setting of a batch in turn.

    Args:
        jobs: the settings.
        inputs: what the run reads.
        between: called after every batch of a setting with the rows made durable; may raise
            to stop there.

    Returns:
        Rows that failed.

    Raises:
        InputError: a picture cannot be read and ``--allow_failed`` is not given.
    """
    pending = [(groups, some) for groups in inputs.plan.batches if (some := _open(jobs, groups))]
    outputs, watch, failed = needed(jobs), inputs.watch, 0
    loaded = _load_ahead([groups for groups, _ in pending], outputs, inputs)
    shared = _begin(inputs, pending[0])
    for _, open_jobs in pending:
        with watch.stage("read pictures"):
            ready = next(loaded)
        _refuse_unreadable(ready, inputs.config)
        with watch.stage("vision tower"):
            vision = watch.ready(see(shared.engine, ready, outputs, inputs.cache))
        orders = Orders([job.setting for job in open_jobs], vision, ready.batch, watch)
        for job in open_jobs:
            kept = handed_over(orders.of(job.setting), job.setting)
            logits = _answer(shared, vision, kept, ready.batch, job.setting)
            with watch.stage("write records"):
                rows, failures = to_records(logits, kept, ready, inputs.source, job)
                job.writer.append(rows, failures)
            failed += len(failures)
            between(len(rows))
    return failed


def _load_ahead(
    batches: Sequence[tuple[batching.ImageGroup, ...]], outputs: tuple[str, ...], inputs: Inputs
) -> Iterator[loading.Loaded]:
    load = functools.partial(
        loading.load,
        plan=inputs.plan,
        dataset=inputs.dataset,
        cache=inputs.cache,
        outputs=outputs,
        image_size=inputs.source.cfg.vision.image_size,
        preprocessing=inputs.config.preprocessing,
    )
    return loading.ahead(load, batches)


@dataclasses.dataclass(frozen=True)
class Shared:
    """What all batches share.

    Attributes:
        engine: the model.
        before: prefix of the text before the picture, computed beside the first picture.
        common_ids: int32[C], first tokens of every question.
        rehearsed: budget → done when the decoder is compiled for the first batch.
        watch: is told where the time goes.
    """

    engine: Engine
    before: concurrent.futures.Future[decoding.Prefix]
    common_ids: np.ndarray
    rehearsed: Mapping[int, concurrent.futures.Future[None]]
    watch: Stopwatch


def _begin(inputs: Inputs, first: tuple[Sequence[batching.ImageGroup], Sequence[Job]]) -> Shared:
    """Load the model; start on what the first picture need not be seen for.

    That is the text before the picture, and the decoder's programs: they are compiled while the
    tower's are, and each budget's while another budget's answers are computed.
    """
    plan, (groups, jobs) = inputs.plan, first
    with inputs.watch.stage("load weights"):
        engine = inputs.source.load()
    common_ids = np.array(plan.common_ids, np.int32)
    pool = concurrent.futures.ThreadPoolExecutor(1, "begin")
    before = pool.submit(engine.begin, np.array(plan.prompt_ids, np.int32))
    batch = batching.collate(tuple(groups), plan.suffixes)
    rehearsed = {
        budget: pool.submit(_rehearse, engine, before, budget, common_ids, batch)
        for budget in dict.fromkeys(job.setting.budget for job in jobs)
    }
    pool.shutdown(wait=False)
    return Shared(engine, before, common_ids, rehearsed, inputs.watch)


def _rehearse(
    engine: Engine,
    before: concurrent.futures.Future[decoding.Prefix],
    budget: int,
    common_ids: np.ndarray,
    batch: batching.ImageBatch,
) -> None:
    """Compile what answers a batch from K visual tokens."""
    rehearsal, vision = engine.rehearsal(), engine.cfg.vision
    shape = (len(batch.groups), vision.num_tokens, vision.width)
    features: Any = jax.ShapeDtypeStruct(
        shape, engine.params["projector"]["linear_1"]["weight"].dtype
    )
    kept = np.zeros((len(batch.groups), budget), np.int32)
    prefix = rehearsal.prefill(before.result(), features, kept, common_ids)
    rehearsal.answer(prefix, batch.suffix_ids, batch.lengths)


def _open(jobs: Sequence[Job], groups: Sequence[batching.ImageGroup]) -> list[Job]:
    """Return the jobs that lack an answer to a question of these pictures."""
    keys = [row.key for group in groups for row in group.rows]
    return [job for job in jobs if not job.done.issuperset(keys)]


def needed(jobs: Sequence[Job]) -> tuple[str, ...]:
    """Return the names of the vision outputs that the jobs' pruners and the decoder read."""
    return tuple(sorted({"features", *(need for job in jobs for need in job.setting.pruner.needs)}))


def see(
    engine: Engine, ready: loading.Loaded, outputs: Sequence[str], cache: FeatureCache
) -> model.VisionOutputs:
    """Return the vision outputs of a batch, from the cache or from the tower.

    Args:
        engine: the model.
        ready: the batch.
        outputs: names.
        cache: keeps what is computed here, of every picture that could be read.
    """
    if ready.pixels is None:
        assert ready.seen is not None
        return model.VisionOutputs(**{name: jnp.asarray(x) for name, x in ready.seen.items()})
    vision = engine.encode(jnp.asarray(ready.pixels), outputs)
    if cache.limit:
        arrays = {name: np.asarray(vision.require(name)) for name in outputs}
        for g, group in enumerate(ready.batch.groups):
            if group.image not in ready.unreadable:
                cache.put(ready.digests[g], {name: x[g] for name, x in arrays.items()})
    return vision


def _refuse_unreadable(ready: loading.Loaded, config: RunConfig) -> None:
    for group in ready.batch.groups:
        if group.image in ready.unreadable and not config.allow_failed:
            key = group.rows[0].key
            reason = ready.unreadable[group.image]
            raise InputError(f"question {key}: {reason} (--allow_failed goes on without it)")


def _selector(setting: Setting) -> tuple[Any, ...]:
    """Return what an order of selection depends on; nested pruners share it over budgets."""
    values = tuple(pruning.hyperparameters(setting.pruner).values())
    budget = None if setting.pruner.nested else setting.budget
    return (setting.name, values, setting.seed, budget)


class Orders:
    """The orders of selection of one batch; each is computed when it is first asked for.

    A nested pruner's is that of the largest budget, whose start serves all smaller ones.
    """

    def __init__(
        self,
        settings: Sequence[Setting],
        vision: model.VisionOutputs,
        batch: batching.ImageBatch,
        watch: Stopwatch,
    ):
        fields = dataclasses.fields(vision)
        self._tokens = pruning.Tokens(**{f.name: getattr(vision, f.name) for f in fields})
        self._images = [group.image for group in batch.groups]
        self._watch = watch
        ascending = sorted(settings, key=lambda setting: setting.budget)
        self._largest = {_selector(setting): setting for setting in ascending}
        self._found: dict[tuple[Any, ...], np.ndarray] = {}

    def of(self, setting: Setting) -> np.ndarray:
        """Return int32[G, ≥K] in order of selection."""
        selector = _selector(setting)
        if selector not in self._found:
            with self._watch.stage("select"):
                self._found[selector] = self._select(self._largest[selector])
        return self._found[selector]

    def _select(self, setting: Setting) -> np.ndarray:
        if setting.pruner.stochastic:
            seed = setting.seed or 0
            keys = jnp.stack([pruning.image_key(seed, image) for image in self._images])
        else:  # reads no key
            nothing = jnp.zeros((len(self._images), 2), jnp.uint32)
            keys = jax.random.wrap_key_data(nothing, impl="threefry2x32")
        return np.asarray(pruning.select(setting.pruner, self._tokens, setting.budget, keys))


def handed_over(selected: np.ndarray, setting: Setting) -> np.ndarray:
    """Return the kept tokens int32[G, K] in the order the decoder gets them.

    Args:
        selected: int32[G, ≥K], in order of selection.
        setting: says how many to keep, and in which order to hand them over.

    Raises:
        RuntimeError: the pruner did not choose K different tokens; its name is given.
    """
    kept = selected[:, : setting.budget]
    if any(len(np.unique(row)) != setting.budget for row in kept):
        raise RuntimeError(f"pruner {setting.name} did not keep {setting.budget} different tokens")
    return np.sort(kept, axis=1) if setting.order == "raster" else kept


def _answer(
    shared: Shared,
    vision: model.VisionOutputs,
    kept: np.ndarray,
    batch: batching.ImageBatch,
    setting: Setting,
) -> jax.Array:
    """Return first-token logits float32[G, Q, V] from the kept tokens alone."""
    with shared.watch.stage("text before the picture"):
        before = shared.watch.ready(shared.before.result())
    if setting.budget in shared.rehearsed:  # not all budgets are open in the first batch
        with shared.watch.stage("compile the decoder"):
            shared.rehearsed[setting.budget].result()
    with shared.watch.stage("decoder, picture"):
        prefix = shared.engine.prefill(
            before,
            vision.require("features"),
            kept,
            shared.common_ids,
            original_positions=setting.positions == "original",
        )
        shared.watch.ready(prefix)
    text_tokens = before.length + len(shared.common_ids)
    if prefix.length != text_tokens + setting.budget:
        visual = prefix.length - text_tokens
        raise RuntimeError(f"the prefix has {visual} visual tokens, not K = {setting.budget}")
    with shared.watch.stage("decoder, questions"):
        return shared.watch.ready(shared.engine.answer(prefix, batch.suffix_ids, batch.lengths))
