"""The first program's command: flags to sealed records, and every way it can end."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence, Set

from absl import logging

from experiments.harness import (
    accounts,
    batching,
    devices,
    evidence,
    folders,
    loading,
    memory,
    objects,
    plan,
    questions,
    refusals,
    relevance,
    runner,
    shards,
    views,
)
from experiments.harness.benchmark import SCENES, Benchmark, Dataset, Request
from experiments.harness.config import RunConfig
from experiments.harness.folder import RunFolder
from experiments.harness.grid import Setting, check, settings
from experiments.harness.progress import Progress
from experiments.harness.source import Source, find
from experiments.harness.stopwatch import Stopwatch
from experiments.reading import opening
from llava_jax.anyres import Layout
from llava_jax.eviction import Eviction


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        folders: the settings' folders, full tokens first.
        expected: answers of all settings.
        failed: of them, questions that could not be answered.
        answered: of them, questions answered now.
        missing: of them, questions that other processes have still to answer.
        processes: which processes those are.
        place: of this process among others.
    """

    folders: tuple[pathlib.Path, ...]
    expected: int
    failed: int
    answered: int
    missing: int = 0
    processes: tuple[int, ...] = ()
    place: devices.Place = dataclasses.field(default_factory=devices.Place)


@dataclasses.dataclass(frozen=True)
class Work:
    """A run that is ready to begin.

    Attributes:
        settings: the grid, full tokens first.
        folders: one per setting.
        inputs: what the run reads.
        need: the memory that it is likely to take.
        store: where the run folder is, if not on this machine.
        place: of this process among others.
    """

    settings: tuple[Setting, ...]
    folders: tuple[RunFolder, ...]
    inputs: runner.Inputs
    need: memory.Estimate
    store: objects.Store | None
    place: devices.Place

    @property
    def missing(self) -> int:
        """Answers that no process has given yet."""
        return sum(map(_missing, self.folders))

    @property
    def flops(self) -> int:
        """Operations of decoder and projector for those answers, generated text not counted."""
        cfg, work = self.inputs.source.cfg, self.inputs.plan
        pairs = zip(self.settings, self.folders, strict=True)
        return sum(
            accounts.flops(work, setting, cfg) * _missing(folder) // len(folder.keys)
            for setting, folder in pairs
        )

    @property
    def planned(self) -> tuple[plan.Plan, Sequence[Setting], Source]:
        """What an estimate is made of."""
        return self.inputs.plan, self.settings, self.inputs.source

    def send(self) -> None:
        """Bring the run's files to the object store where its folder is, if it is in one.

        Raises:
            InterruptedRunError: it cannot be written.
        """
        if self.store:
            self.store.send()


def _missing(folder: RunFolder) -> int:
    """Return how many answers of a setting no process has given yet."""
    return 0 if folder.sealed else len(set(folder.keys) - folder.done())


def prepare(
    benchmark: Benchmark, config: RunConfig, watch: Stopwatch, beside: Sequence[RunConfig] = ()
) -> Work | None:
    """Check flags, model and data, and open the settings' folders; None after a dry run.

    Args:
        benchmark: what is asked.
        config: the flags.
        watch: is told where the time goes.
        beside: the same flags with other grids, whose settings are answered together with it.

    Raises:
        UsageError: a flag's value does not fit the model or the pruners.
        InputError: weights, data or run folder refused.
    """
    refusals.refuse_place(config)
    said = refusals.new_tokens(benchmark, config)
    eviction = refusals.eviction(config, said)
    grids = (config, *beside)
    for each in grids:
        check(each)
    place = devices.find(config)
    config = place.share(config)
    source = find(
        config.model,
        config.dtype,
        offline=config.offline,
        quantize=config.quantize,
        mesh=place.mesh,
    )
    config, *_ = grids = [views.by_model(each, source.cfg) for each in (config, *beside)]
    grid = settings(views.most_tokens(source.cfg), *grids)
    refusals.refuse_tiles(grid, source)
    if said is not None:
        refusals.refuse_masks(grid, source)
    for setting in grid if place.records else ():
        shards.refuse_busy(_shard(config, setting))
    dataset, work = _plan(benchmark, config, source, grid, (said, eviction), watch)
    if config.dry_run:
        print(plan.describe(work, grid, source, dataset.source))
        return None
    refusals.check_answers(dataset, source)
    need = memory.estimate(work, grid, source, work.images_per_batch)
    with watch.stage("digests of data and weights"):
        run = folders.identity_of(benchmark, config, source, dataset, work)
        clip = relevance.find(config, source) if any(s.reads_clip for s in grid) else None
    store = _store(config)
    found = folders.open_all(grid, config, run, work, source, clip, dataset.source)
    asked = (example.question for example in dataset.examples)
    questions.write(config.folder, run["data"]["sha256"], asked)
    if store:
        store.send()
    cache = folders.feature_cache(config, run, source)
    inputs = runner.Inputs(work, dataset, source, clip, config, cache, watch)
    return Work(grid, found, inputs, need, store, place)


def _plan(
    benchmark: Benchmark,
    config: RunConfig,
    source: Source,
    grid: Sequence[Setting],
    text: tuple[int | None, Eviction | None],
    watch: Stopwatch,
) -> tuple[Dataset, plan.Plan]:
    """Read the questions and plan what is computed for them.

    Args:
        benchmark: what is asked.
        config: the flags.
        source: the model.
        grid: the settings.
        text: tokens of a generated answer, None for none; what is left in its cache.
        watch: is told where the time goes.

    Raises:
        UsageError: a budget, or what is left in the cache, does not fit the pictures.
    """
    with watch.stage("read questions"):
        dataset = read(benchmark, config)
        groups = batching.group_by_image(dataset.examples)
    with watch.stage("read sizes of pictures"):
        layouts = _layouts(config, source, dataset)
    work = plan.make(groups, grid, source, *text, layouts)
    refusals.refuse_budgets(work, grid)
    refusals.refuse_eviction(work, source)
    return dataset, work


def _layouts(config: RunConfig, source: Source, dataset: Dataset) -> Mapping[str, Layout]:
    """Return where the tiles of every picture lie, if the model is a LLaVA-NeXT."""
    assert config.preprocessing is not None  # `views.by_model` chose one
    return loading.layouts(dataset, dataset.images, source.cfg, config.preprocessing)


def read(benchmark: Benchmark, config: RunConfig) -> Dataset:
    """Return the questions that the flags ask for."""
    limit = config.limit or (benchmark.scenes_limit if config.data == SCENES else None)
    request = Request(
        data=config.data,
        limit=limit,
        prompt_style=config.prompt_style,
        options=config.options,
        offline=config.offline,
        own=config.own,
    )
    return opening.load(benchmark, request)


def answer(work: Work, then: Callable[[], None] = lambda: None, resume: str = "") -> Outcome:
    """Answer all that is not answered yet, and seal what is complete.

    Args:
        work: the run.
        then: is called once, when every program that the first answers need is compiled.
        resume: what a line about an interruption ends with.

    Raises:
        InputError: a picture cannot be read.
        InterruptedRunError: stopped between two batches by SIGTERM, or disk or memory are full.
        KeyboardInterrupt: stopped between two batches by Ctrl-C.
    """
    own = [row.key for groups in runner.own_batches(work.inputs) for g in groups for row in g.rows]
    with contextlib.ExitStack() as writers:
        jobs = [
            _job(setting, folder, work, writers)
            for setting, folder in zip(work.settings, work.folders, strict=True)
            if not folder.sealed
        ]
        before = sum(len(job.done) for job in jobs)
        if missing := sum(key not in job.done for job in jobs for key in own):
            level = logging.INFO if work.need.fits else logging.WARNING
            logging.log(level, "memory: %s (estimate)", work.need)
            least = functools.partial(memory.estimate, *work.planned, images=1)
            with Progress(missing, then, resume) as progress, memory.said(least):
                runner.evaluate(jobs, work.inputs, between=progress.advance)
    work.place.wait()
    return _outcome(work, jobs, answered=sum(len(job.done) for job in jobs) - before)


def _outcome(work: Work, jobs: Sequence[evidence.Job], answered: int) -> Outcome:
    """Seal what is complete, and count what is not: of all processes, as the disk has it.

    Of processes that know of each other the first does it, when all are done.
    """
    failed, missing, keys = 0, 0, set[str]()
    open_jobs = jobs if work.place.leads else ()
    for folder in (job.folder for job in open_jobs if not job.folder.seal()):
        lost = folder.failed()
        lacking = set(folder.keys) - folder.done() - lost
        failed, missing, keys = failed + len(lost), missing + len(lacking), keys | lacking
    return Outcome(
        folders=tuple(folder.path for folder in work.folders),
        expected=len(work.folders) * len(work.inputs.dataset.examples),
        failed=failed,
        answered=answered,
        missing=missing,
        processes=_processes(work, keys),
        place=work.place,
    )


def _processes(work: Work, keys: Set[str]) -> tuple[int, ...]:
    """Return which processes have questions among some."""
    count = work.inputs.config.num_processes
    batches = enumerate(work.inputs.plan.batches)
    found = {
        index % count
        for index, groups in batches
        if not keys.isdisjoint(row.key for group in groups for row in group.rows)
    }
    return tuple(sorted(found))


def _job(
    setting: Setting, folder: RunFolder, work: Work, writers: contextlib.ExitStack
) -> evidence.Job:
    """Lock this process's shard of a setting, then see what is done, by whomever."""
    config = work.inputs.config
    if not work.place.records:
        return evidence.Job(setting, folder, set(folder.done()), writer=None)
    shard = shards.Shard(folder.path, config.process_id, config.num_processes)
    writer = objects.Segments(shard, work.store) if work.store else shard
    writers.callback(writer.close)
    return evidence.Job(setting, folder, set(folder.done()), writer)


def _shard(config: RunConfig, setting: Setting) -> pathlib.Path:
    """Return the record file of this process."""
    return shards.path(config.folder / setting.id, config.process_id, config.num_processes)


def _store(config: RunConfig) -> objects.Store | None:
    """Return the object store of the run folder, what is in it being here now."""
    if not objects.is_url(config.out):
        return None
    store = objects.Store(config.out, config.folder)
    store.fetch()
    return store
