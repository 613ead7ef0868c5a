"""The paper's tables as lines of operations and seconds, question by question and shared.

Axis letters: G pictures of a pass, K kept.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Mapping, Sequence

from benchmarks import stages, workload
from benchmarks.devices import DEVICES
from experiments.harness.grid import Setting
from experiments.harness.plan import Plan
from experiments.studies import definition
from llava_jax.config import LlavaConfig

STUDIES = {"tables": "Tables 1-4", "gamma": "Tables 5-6"}
_OF = {("tables", "pope"): "Tables 1-3", ("tables", "scienceqa"): "Table 4"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the paper's table.

    Attributes:
        name: benchmark, and the tables it is for.
        settings: how many.
        answers: rows times settings.
        flops: of the naive way, and of ours.
        seconds: device → the same.
    """

    name: str
    settings: int
    answers: int
    flops: tuple[float, float]
    seconds: Mapping[str, tuple[float, float]]

    def __add__(self, other: Row) -> Row:
        seconds = {name: _add(both, other.seconds[name]) for name, both in self.seconds.items()}
        counts = (self.settings + other.settings, self.answers + other.answers)
        return Row(self.name, *counts, _add(self.flops, other.flops), seconds)


def _add(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return a[0] + b[0], a[1] + b[1]


def plans(
    run: definition.Run, size: workload.Size, cfg: LlavaConfig, grid: Sequence[Setting]
) -> dict[str, Plan]:
    """Return device → plan of a replica; its memory decides how many pictures a pass has."""
    made = workload.plan(run, size)
    return {d.name: workload.fit(made, grid, cfg, d.room(cfg), 1) for d in DEVICES}


def of_run(name: str, run: definition.Run, size: workload.Size, cfg: LlavaConfig) -> list[Row]:
    """Return a benchmark's lines: its pruners before the decoder, then those inside it."""
    counted = workload.settings(run, cfg.vision.num_tokens)
    made = plans(run, size, cfg, list(counted))
    before = {s: n for s, n in counted.items() if not s.inside}
    inside = {s: n for s, n in counted.items() if s.inside}
    tower = {device: stages.vision(plan, cfg) for device, plan in made.items()}
    seen = Row(
        "",
        0,
        0,
        (0.0, tower[DEVICES[0].name].flops),
        {d.name: (0.0, d.seconds(tower[d.name])) for d in DEVICES},
    )
    rows = [seen, *(of_setting(s, n, made, size, cfg) for s, n in before.items())]
    lines = [_sum(name, rows)]
    rows = [of_setting(s, n, made, size, cfg) for s, n in inside.items()]
    return lines + [dataclasses.replace(row, name=f"{name}, FastV") for row in rows]


def of_setting(
    setting: Setting, times: int, made: Mapping[str, Plan], size: workload.Size, cfg: LlavaConfig
) -> Row:
    """Return the line of so many settings that cost the same, the tower left out of ours."""
    any_plan = next(iter(made.values()))
    steps, said = (size.steps, size.said) if any_plan.max_new_tokens else (0, 0.0)
    naive = stages.alone(any_plan, setting, cfg, said).values()
    ours = {
        g: stages.decoder(plan, setting, cfg, steps).values()
        for g, plan in {plan.images_per_batch: plan for plan in made.values()}.items()
    }
    flops = [sum(work.flops for work in works) for works in (naive, next(iter(ours.values())))]
    seconds = {
        d.name: (
            times * d.seconds(*naive),
            times * d.seconds(*ours[made[d.name].images_per_batch]),
        )
        for d in DEVICES
    }
    return Row("", times, times * size.rows, (times * flops[0], times * flops[1]), seconds)


def paper(cfg: LlavaConfig) -> list[Row]:
    """Return the lines of all tables of the paper, and their sum."""
    rows: dict[str, list[Row]] = {study: [] for study in STUDIES}
    for study, tables in STUDIES.items():
        for run in definition.read(study):
            name = f"{run.benchmark}, {_OF.get((study, run.benchmark), tables)}"
            rows[study] += of_run(name, run, workload.SIZES[run.benchmark], cfg)
    every = [row for some in rows.values() for row in some]
    first = _sum(f"**{STUDIES['tables']}**", rows["tables"])
    return [*every, first, _sum("**everything**", every)]


def _sum(name: str, rows: Sequence[Row]) -> Row:
    return dataclasses.replace(functools.reduce(operator.add, rows), name=name)
