"""The first program's command: flags to sealed records, and every way it can end."""

from __future__ import annotations

import dataclasses
import pathlib
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tqdm

from experiments.harness import (
    batching,
    evidence,
    flags,
    identity,
    plan,
    questions,
    records,
    relevance,
    runner,
)
from experiments.harness.benchmark import SCENES, Benchmark, Dataset, Request
from experiments.harness.config import RunConfig
from experiments.harness.errors import InputError, InterruptedRunError, UsageError
from experiments.harness.features import FeatureCache
from experiments.harness.folder import RunFolder
from experiments.harness.grid import Setting, check, settings
from experiments.harness.source import Source, find
from experiments.harness.stopwatch import Stopwatch
from experiments.reading import opening


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        folders: the settings' folders, full tokens first.
        expected: answers of all settings.
        failed: of them, questions that could not be answered.
        answered: of them, questions answered now.
    """

    folders: tuple[pathlib.Path, ...]
    expected: int
    failed: int
    answered: int


@dataclasses.dataclass(frozen=True)
class Work:
    """A run that is ready to begin.

    Attributes:
        settings: the grid, full tokens first.
        folders: one per setting.
        inputs: what the run reads.
    """

    settings: tuple[Setting, ...]
    folders: tuple[RunFolder, ...]
    inputs: runner.Inputs


def prepare(benchmark: Benchmark, config: RunConfig, watch: Stopwatch) -> Work | None:
    """Check flags, model and data, and open the settings' folders; None after a dry run.

    Args:
        benchmark: what is asked.
        config: the flags.
        watch: is told where the time goes.

    Raises:
        UsageError: a flag's value does not fit the model or the pruners.
        InputError: weights, data or run folder refused.
    """
    said = new_tokens(benchmark, config)
    check(config)
    source = find(config.model, config.dtype, offline=config.offline)
    grid = settings(config, source.cfg.vision.num_tokens)
    if said is not None:
        _refuse_masks(grid, source)
    with watch.stage("read questions"):
        dataset = read(benchmark, config)
        work = plan.make(batching.group_by_image(dataset.examples), grid, source, said)
    if config.dry_run:
        print(plan.describe(work, grid, source, dataset.source))
        return None
    _check_answers(dataset, source)
    with watch.stage("digests of data and weights"):
        run = _identity(benchmark, config, source, dataset, work)
        clip = relevance.find(config, source) if any(map(_reads_clip, grid)) else None
        reads = {} if clip is None else {"clip": clip.identity()}
    folders = tuple(
        _open(
            setting,
            config,
            run | (reads if _reads_clip(setting) else {}),
            work,
            source,
            dataset.source,
        )
        for setting in grid
    )
    asked = (example.question for example in dataset.examples)
    questions.write(pathlib.Path(config.out), run["data"]["sha256"], asked)
    inputs = runner.Inputs(work, dataset, source, clip, config, _cache(config, run), watch)
    return Work(grid, folders, inputs)


def new_tokens(benchmark: Benchmark, config: RunConfig) -> int | None:
    """Return how many tokens an answer may have; None if the first token is read and none said.

    Raises:
        UsageError: flags about answers that do not go together.
    """
    name, route = benchmark.name, config.route or benchmark.default_route
    if config.options != "valid" and not benchmark.lettered:
        raise UsageError(f"--options={config.options}: {name} has no lettered options")
    if config.options != "valid" and config.mode != "paper":
        raise UsageError(
            f"--options={config.options}: a right answer may be none of them, which only "
            "--mode=paper admits"
        )
    if route == "first_token" and benchmark.open:
        raise UsageError(f"--route=first_token: the answers of {name} are open; use generate")
    if route == "first_token" and config.max_new_tokens:
        raise UsageError("--max_new_tokens is of --route=generate")
    if route == "first_token":
        return None
    return config.max_new_tokens or benchmark.max_new_tokens


def _refuse_masks(grid: Sequence[Setting], source: Source) -> None:
    """Raise UsageError if a pruner hides tokens instead of taking them out."""
    sizes = (source.cfg.vision.num_tokens, source.cfg.text.num_layers)
    for setting in grid:
        if any(cut.how == "mask" for cut in setting.cuts(*sizes)):
            raise UsageError(
                f"--route=generate: {setting.id} hides tokens and leaves them, which is offered "
                "for the first token only; drop gives the same answers as mask"
            )


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


def answer(work: Work, then: Callable[[], None] = lambda: None) -> Outcome:
    """Answer all that is not answered yet, and seal what is complete.

    Args:
        work: the run.
        then: is called once, when every program that the first answers need is compiled.

    Raises:
        InputError: a picture cannot be read.
        InterruptedRunError: stopped between two batches by SIGTERM, or the disk is full.
    """
    rows = len(work.inputs.dataset.examples)
    both = zip(work.settings, work.folders, strict=True)
    open_jobs = [(setting, folder) for setting, folder in both if not folder.sealed]
    jobs = [_job(setting, folder) for setting, folder in open_jobs]
    missing = sum(rows - len(job.done) for job in jobs)
    failed = 0
    try:
        if missing:
            with _Progress(missing, then) as progress:
                failed = runner.evaluate(jobs, work.inputs, between=progress.advance)
    finally:
        for job in jobs:
            job.writer.close()
    for job in jobs:
        job.folder.seal()
    paths = tuple(folder.path for folder in work.folders)
    return Outcome(paths, len(paths) * rows, failed, missing - failed)


def _reads_clip(setting: Setting) -> bool:
    """Return whether a setting's pruner compares the picture with the question."""
    return "relevance" in setting.pruner.needs


def _cache(config: RunConfig, run: Mapping[str, Any]) -> FeatureCache:
    """Return the cache of vision outputs for this model, dtype and preprocessing."""
    names = ("weights", "dtype", "preprocessing")
    own = {name: run[name] for name in names} | {"vision": run["model"]["vision"]}
    folder = pathlib.Path(config.cache) / "features"
    return FeatureCache(folder, int(config.cache_gib * 2**30), own)


def _job(setting: Setting, folder: RunFolder) -> evidence.Job:
    """Lock a setting's shard, then see what is done."""
    writer = records.Writer(folder.path)
    return evidence.Job(setting, folder, folder.done(), writer)


class _Progress:
    """Counts durable answers on stderr, and turns SIGTERM into a stop between two batches."""

    def __init__(self, total: int, then: Callable[[], None]):
        interval = 0.5 if sys.stderr.isatty() else 15.0
        self._bar = tqdm.tqdm(
            total=total, unit="answer", mininterval=interval, file=sys.stderr, leave=True
        )
        self._stop = False
        self._then = [then]

    def __enter__(self) -> _Progress:
        self._previous = signal.signal(signal.SIGTERM, self._ask_to_stop)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._previous)
        self._bar.close()

    def _ask_to_stop(self, *_: object) -> None:
        self._stop = True

    def advance(self, rows: int) -> None:
        """Count rows made durable; raise InterruptedRunError if SIGTERM came."""
        self._bar.update(rows)
        while self._then:
            self._then.pop()()
        if self._stop:
            raise InterruptedRunError("stopped by SIGTERM")


def _check_answers(dataset: Dataset, source: Source) -> None:
    """Refuse a tokenizer that cannot tell the answers apart, before the weights are loaded."""
    for choices in dict.fromkeys(e.choices for e in dataset.examples if e.choices):
        try:
            ids = [source.tokenizer.answer_ids(spellings) for spellings in choices]
        except ValueError as error:
            raise InputError(f"the tokenizer of {source.folder} splits answers: {error}") from None
        flat = [token for part in ids for token in part]
        if len(set(flat)) < len(flat) or max(flat) >= source.cfg.real_vocab_size:
            raise InputError(f"the tokenizer of {source.folder} gives {choices} the ids {ids}")


def _identity(
    benchmark: Benchmark, config: RunConfig, source: Source, dataset: Dataset, work: plan.Plan
) -> dict[str, Any]:
    """Return all that decides the answers of every setting."""
    sha256 = dataset.digest(allow_missing=config.allow_failed)
    asked = {"prompt_style": config.prompt_style} | dict(config.own)
    asked |= {"options": config.options} if benchmark.lettered else {}
    data = {"sha256": sha256, "rows": len(dataset.examples)}
    return identity.of(benchmark.name, config, source, work, data, asked)


def _open(
    setting: Setting,
    config: RunConfig,
    run: Mapping[str, Any],
    work: plan.Plan,
    source: Source,
    data: str,
) -> RunFolder:
    """Make or find a setting's folder."""
    batches = {"images": len(work.groups), "images_per_batch": work.images_per_batch}
    batches |= plan.realised(setting, source.cfg, work)
    # Through JSON and back, so that it compares equal with what a run.json holds.
    whole = records.canonical_copy({**run, "setting": setting.describe()})
    return RunFolder.open(
        pathlib.Path(config.out) / setting.id,
        whole,
        [row.key for group in work.groups for row in group.rows],
        plan=batches,
        setting=setting.describe(),
        source=data,
        flagfile=flags.flagfile(config, setting.describe()),
        fork=config.fork,
    )
