"""The paper in one command: its tables, figures and claims, on any LLaVA.

    python -m experiments.paper
    python -m experiments.paper --model=llava-1.5-7b-hf --data=benchmarks --out=runs/7b

Runs or resumes the study part by part, and after each writes into ``--out`` ``tables/`` (Markdown,
LaTeX, CSV), ``figures/`` (PNG, SVG, PDF, CSV), ``ledger.md`` and ``.csv``, and ``report.html``:

* ``tables``: POPE and ScienceQA by the first token (Tables 1 to 4, Figures 2 and 3);
* ``gamma``: the exponent γ on seven benchmarks, generated answers (Tables 5 and 6, Figure 4);
* ``tournament``: every pruner against every other, and the adaptive budget.

Without flags it is the small embedded model, which every page says. With another model it first
asks POPE with all tokens and says whether that is what LLaVA-1.5-7B scores. Exit codes: those of
the benchmarks.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from experiments.harness import errors, objects, program, terminal
from experiments.harness.config import RunConfig
from experiments.studies import definition
from experiments.studies import flags as study_flags

if TYPE_CHECKING:
    from experiments.harness import command
    from experiments.reporting import page
    from experiments.studies import running

PARTS = ("tables", "gamma", "tournament")


def start() -> None:
    """Define the flags, run the study and exit with the code."""
    parts = flags.DEFINE_list("part", list(PARTS), f"of the study: {', '.join(PARTS)}")
    line = shlex.join(["python", "-m", "experiments.paper", *sys.argv[1:]])
    resume = f"nothing answered is lost, the same command resumes: {line}"
    program.run(
        lambda: _main(list(parts.value or ()), resume),
        define=lambda: study_flags.define("runs/paper"),
        resume=resume,
    )


def _main(parts: list[str], resume: str) -> int:
    """Run what the flags name; return the exit code."""
    from experiments.reporting import figures
    from experiments.studies import running

    if unknown := [part for part in parts if part not in PARTS]:
        raise errors.UsageError(f"--part={unknown[0]} is none of {', '.join(PARTS)}")
    base = study_flags.base()
    if objects.is_url(base.out):
        raise errors.UsageError(f"--out={base.out}: tables and figures are written to a folder")
    figures.require_matplotlib()
    out, pace = pathlib.Path(base.out), running.Pace.load(pathlib.Path(base.out))
    studies = {part: _study(part, base) for part in parts}
    prepared = {part: running.prepare(runs, _inside(base, part)) for part, runs in studies.items()}
    if base.dry_run:
        return errors.COMPLETE
    if base.model != "pocket" and base.data != "scenes":
        _check_setup(base, resume)
    for part, steps in prepared.items():
        _announce(part, steps, pace)
    worst = errors.COMPLETE
    for i, (part, steps) in enumerate(prepared.items()):
        if i:
            _announce(part, steps, pace)
        worst = max([worst, *running.answer(steps, pace, resume, _measure)])
        if all(step.work.place.leads for step in steps):
            pace.save(out)
            _write(base)
    return worst


def _inside(base: RunConfig, part: str) -> RunConfig:
    """Return the configuration of a part: its runs are in a folder of its name."""
    return dataclasses.replace(base, out=f"{base.out.rstrip('/')}/{part}")


def _study(part: str, base: RunConfig) -> tuple[definition.Run, ...]:
    """Return a part's runs; in the paper's mode lettered questions have the options A to D."""
    runs = definition.read(part)
    if base.mode == "default":
        return runs
    return tuple(
        dataclasses.replace(run, asked={**run.asked, "options": "abcd"})
        if run.benchmark == "scienceqa" and run.asked.get("route") == "first_token"
        else run
        for run in runs
    )


def _announce(part: str, steps: tuple[running.Step, ...], pace: running.Pace) -> None:
    """Say what a part will take."""
    missing = sum(step.work.missing for step in steps)
    flops = sum(step.work.flops for step in steps)
    time = pace.expect(steps) or "the time is known once something was answered"
    left = f"{missing} answers to come, {flops / 1e12:.3g} TFLOP; {time}" if missing else "complete"
    print(f"{part}: {left}", file=sys.stderr)


def _measure(step: running.Step, outcome: command.Outcome) -> int:
    """Write a run's results.json; return the exit code."""
    from experiments import application
    from experiments.reporting import aggregate

    if (code := application.incomplete(step.config, outcome)) is not None:
        return code
    mode = step.config.mode
    aggregate.results(step.config.folder, outcome.folders, step.benchmark, mode)
    return errors.FAILED_ROWS if outcome.failed else errors.COMPLETE


def _check_setup(base: RunConfig, resume: str) -> None:
    """Ask POPE with all tokens and say whether this is LLaVA-1.5."""
    from experiments import catalogue
    from experiments.reporting import runs
    from experiments.reporting.paper import setup
    from experiments.studies import running

    (pope, *_) = definition.read("tables")
    alone = dataclasses.replace(pope, grids=({"pruner": ("none",)},))
    steps = running.prepare((alone,), _inside(base, "tables"))
    for code in running.answer(steps, running.Pace(), resume, _measure):
        if code:
            return
    for step in steps:
        if found := setup.check(runs.load(step.config.folder, catalogue.get, base.mode)):
            print(terminal.inert(str(found)), file=sys.stderr)


def _write(base: RunConfig) -> None:
    """Write tables, figures, ledger and page of what is finished."""
    from experiments import catalogue, showing
    from experiments.reporting.paper import documents, evidence

    out = pathlib.Path(base.out)

    def show(found: evidence.Evidence, tables: Sequence[page.Table]) -> pathlib.Path:
        file = out / "report.html"
        first = [run for name, run in found.runs.items() if "/" not in name]
        showing.write(first or list(found.runs.values()), file, tables=tables)
        return file

    files, summary = documents.write(out, catalogue.get, base.mode, show)
    folders = sorted({str(file.parent) for file in files})
    print(f"{len(files)} files in {terminal.inert(', '.join(folders))}")
    print(f"claims ledger: {summary}")


if __name__ == "__main__":
    start()
