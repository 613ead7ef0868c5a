"""Another tool's questions, answered and recorded by the harness under one setting."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tqdm
from PIL import Image

from experiments.harness import (
    accounts,
    batching,
    devices,
    evidence,
    identity,
    plan,
    questions,
    records,
    relevance,
    runner,
    shards,
)
from experiments.harness.benchmark import Dataset, Example
from experiments.harness.config import RunConfig
from experiments.harness.errors import InputError, UsageError
from experiments.harness.features import FeatureCache
from experiments.harness.folder import RunFolder
from experiments.harness.grid import check, settings
from experiments.harness.source import Source, find
from experiments.harness.stopwatch import Stopwatch
from llava_jax.config import LlavaNextConfig
from llava_jax.engine import Engine


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question about a picture.

    Attributes:
        key: unique within its task.
        text: what the user says.
        picture: opens the picture; is called twice.
    """

    key: str
    text: str
    picture: Callable[[], Image.Image]


class Answerer:
    """A model under one setting, loaded when it is first asked.

    Attributes:
        setting: the pruner with its hyper-parameters, a budget and a seed.
    """

    def __init__(self, config: RunConfig, out: pathlib.Path | None):
        """Find the model and check the setting.

        Args:
            config: with one pruner, budget and seed, and one value for each hyper-parameter.
            out: folder for the records; None keeps none.

        Raises:
            UsageError: no such pruner, budget or hyper-parameter.
            InputError: the model is not there.
        """
        check(config)
        self._config, self._out = config, out
        found = find(
            config.model,
            config.dtype,
            offline=config.offline,
            quantize=config.quantize,
            mesh=devices.mesh(config.mesh),
        )
        if isinstance(found.cfg, LlavaNextConfig):
            raise UsageError(
                f"model={config.model} is a LLaVA-NeXT, which is not offered inside other tools; "
                "python -m experiments.<benchmark> runs it"
            )
        self._source = _Loaded(**vars(found))
        self.setting = settings(found.cfg.vision.num_tokens, config)[-1]  # the first is full
        self._clip = relevance.find(config, found) if self.setting.reads_clip else None

    def answer(
        self, task: str, asked: Sequence[Asked], max_new_tokens: int
    ) -> Mapping[str, records.Record]:
        """Answer questions; those of one picture share its prefix.

        Args:
            task: names the folder of the records.
            asked: the questions, in the task's order.
            max_new_tokens: of an answer.

        Returns:
            Key → record, ``choices`` and what depends on them empty.

        Raises:
            InputError: a picture or an answer that cannot be used, or the folder holds another
                run.
        """
        dataset = _dataset(task, asked)
        groups = batching.group_by_image(dataset.examples)
        work = plan.make(groups, [self.setting], self._source, max_new_tokens)
        with self._folder() as out:
            folder = self._open(out / task, dataset, work)
            writer = shards.Shard(folder.path)
            job = evidence.Job(self.setting, folder, set(folder.done()), writer)
            try:
                self._run(job, dataset, work)
            finally:
                writer.close()
            folder.seal()
            found = records.read_records(folder.path)
            if missing := [question.key for question in asked if question.key not in found]:
                reasons = (folder.path / "failures-00000-of-00001.jsonl").read_text("utf-8")
                raise InputError(f"{missing[0]} could not be answered: {reasons.splitlines()[-1]}")
        return found

    @contextlib.contextmanager
    def _folder(self) -> Iterator[pathlib.Path]:
        """Lend the folder of all tasks' records."""
        if self._out:
            yield self._out
        else:
            with tempfile.TemporaryDirectory() as folder:
                yield pathlib.Path(folder)

    def _open(self, out: pathlib.Path, dataset: Dataset, work: plan.Plan) -> RunFolder:
        """Make or find the folder of a task's records."""
        whole = self._identity(dataset, work)
        folder = RunFolder.open(
            out / self.setting.id,
            records.canonical_copy(whole),
            [row.key for group in work.groups for row in group.rows],
            plan=accounts.realised(self.setting, self._source.cfg, work),
            setting=self.setting.describe(),
            source=dataset.source,
            flagfile="",
            fork=False,
        )
        asked = (example.question for example in dataset.examples)
        questions.write(out, whole["data"]["sha256"], asked)
        return folder

    def _identity(self, dataset: Dataset, work: plan.Plan) -> dict[str, Any]:
        """Return all that decides the answers."""
        data = {"sha256": dataset.digest(), "rows": len(dataset.examples)}
        found = identity.of(dataset.source, self._config, self._source, work, data, {})
        clip = {} if self._clip is None else {"clip": self._clip.identity()}
        return found | clip | {"setting": self.setting.describe()}

    def _run(self, job: evidence.Job, dataset: Dataset, work: plan.Plan) -> None:
        """Answer what has no record yet."""
        missing = len(dataset.examples) - len(job.done)
        if not missing:
            return
        inputs = runner.Inputs(
            plan=work,
            dataset=dataset,
            source=self._source,
            clip=self._clip,
            config=self._config,
            cache=FeatureCache(pathlib.Path(), 0, {}),
            watch=Stopwatch(exact=False),
        )
        with tqdm.tqdm(total=missing, unit="answer", desc=dataset.source) as bar:

            def count(rows: int) -> None:
                bar.update(rows)

            runner.evaluate([job], inputs, between=count)


@dataclasses.dataclass(frozen=True)
class _Loaded(Source):
    """A model that is loaded, and hashed, once."""

    @functools.cached_property
    def engine(self) -> Engine:
        """The loaded model."""
        return super().load()

    @functools.cached_property
    def weights(self) -> str:
        """The sha256 of its files."""
        return super().digest()

    def load(self) -> Engine:
        return self.engine

    def digest(self) -> str:
        return self.weights


def _dataset(task: str, asked: Sequence[Asked]) -> Dataset:
    """Return the questions with their pictures, which are called by what they show."""
    images = {question.key: _digest(question.picture()) for question in asked}
    first = {images[question.key]: question for question in reversed(asked)}
    return Dataset(
        examples=tuple(
            Example(question.key, images[question.key], question.text, (), None, task)
            for question in asked
        ),
        read_image=lambda image: first[image].picture().convert("RGB"),
        image_digest=lambda image: image,
        source=f"lmms_eval/{task}",
        place="the task's documents",
    )


def _digest(picture: Image.Image) -> str:
    """Return a sha256 of a picture's pixels."""
    rgb = picture.convert("RGB")
    return hashlib.sha256(repr(rgb.size).encode() + rgb.tobytes()).hexdigest()
