"""Runs a study: every benchmark is prepared, then answered, and the time left is said."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence

from absl import logging

from experiments import application, catalogue
from experiments.harness import command, terminal
from experiments.harness.benchmark import Benchmark
from experiments.harness.config import RunConfig
from experiments.harness.stopwatch import Stopwatch
from experiments.studies import definition
from llava_jax import atomic

_PACE = "pace.json"
FIRST_TOKEN = "first_token"


@dataclasses.dataclass
class Pace:
    """How long answers take on this machine, from what was answered since it began.

    Generated text costs time that its operations do not tell, as nobody knows its length before.

    Attributes:
        seconds: route → of answering.
        flops: route → answered in them.
    """

    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    flops: dict[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, folder: pathlib.Path) -> Pace:
        """Return the pace of a study that was begun before, an empty one if there is none."""
        try:
            known = json.loads((folder / _PACE).read_text("utf-8"))
            seconds = {str(name): float(x) for name, x in known["seconds"].items()}
            return cls(seconds, {name: int(known["flops"][name]) for name in seconds})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def save(self, folder: pathlib.Path) -> None:
        """Keep it for the next start."""
        atomic.write(folder / _PACE, dataclasses.asdict(self))

    def add(self, route: str, seconds: float, flops: int) -> None:
        """Count what was answered."""
        self.seconds[route] = self.seconds.get(route, 0.0) + seconds
        self.flops[route] = self.flops.get(route, 0) + flops

    def expect(self, steps: Sequence[Step]) -> str:
        """Return how long steps will take, in words; empty if nothing is known, or to be done.

        Where no text was generated yet, the pace of first tokens stands for it, and the words
        say that it is the least.
        """
        total, least = 0.0, ""
        for step in (step for step in steps if step.work.flops):
            route = step.route if step.route in self.seconds else FIRST_TOKEN
            if not self.flops.get(route):
                return ""
            least = "at least " if route != step.route else least
            total += step.work.flops * self.seconds[route] / self.flops[route]
        return f"{least}{about(total)}" if total else ""


def about(seconds: float) -> str:
    """Return a time in words."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


@dataclasses.dataclass(frozen=True)
class Step:
    """A benchmark of a study, ready to be answered.

    Attributes:
        benchmark: what is asked.
        config: the flags, with the first grid.
        work: the run.
    """

    benchmark: Benchmark
    config: RunConfig
    work: command.Work

    @property
    def route(self) -> str:
        """How answers are had."""
        return FIRST_TOKEN if self.work.inputs.plan.max_new_tokens is None else "generate"

    def __str__(self) -> str:
        missing, tera = self.work.missing, self.work.flops / 1e12
        settings, rows = len(self.work.settings), len(self.work.inputs.dataset.examples)
        left = f"{missing} answers to come, {tera:.3g} TFLOP" if missing else "complete"
        return f"{self.benchmark.name}: {settings} settings of {rows} rows; {left}"


def prepare(runs: Sequence[definition.Run], base: RunConfig) -> tuple[Step, ...]:
    """Check and open the runs of a study; none after a dry run, which prints their plans.

    Args:
        runs: of the study; those whose data a folder lacks are left out.
        base: what the command line says.
    """
    application.keep_programs(pathlib.Path(base.cache) / "programs")
    steps = []
    for run in definition.present(runs, base.data):
        benchmark = catalogue.get(run.benchmark)
        config, *beside = run.configs(base)
        if base.dry_run:
            print(f"{terminal.inert(config.out)}\n")
        work = command.prepare(benchmark, config, Stopwatch(exact=False), beside)
        if base.dry_run:
            print()
        if work is not None:
            steps.append(Step(benchmark, config, work))
    return tuple(steps)


def answer(
    steps: Sequence[Step],
    pace: Pace,
    resume: str,
    then: Callable[[Step, command.Outcome], int],
) -> Iterator[int]:
    """Answer one benchmark after the other.

    Args:
        steps: of the study.
        pace: is told how long it takes, and says how long the rest will.
        resume: what a line about an interruption ends with.
        then: is called when a benchmark is answered; returns an exit code.

    Yields:
        The exit code of every step.
    """
    for i, step in enumerate(steps):
        if expected := pace.expect(steps[i:]):
            logging.info("%s; %s left in %d runs", step, expected, len(steps) - i)
        else:
            logging.info("%s; run %d of %d", step, i + 1, len(steps))
        began, flops = time.monotonic(), step.work.flops
        outcome = application.answer(step.benchmark, step.work, resume)
        if outcome.answered:
            pace.add(step.route, time.monotonic() - began, flops)
        code = then(step, outcome)
        step.work.send()
        yield code
