"""Run a study: a list of settings over benchmarks.

    python -m experiments.sweep --study=gamma --dry_run
    python -m experiments.sweep --study=mine.toml --out=runs/mine

A study is a file of grids (``experiments/studies`` holds those of the paper, and says how one is
written). Each benchmark is a run folder below ``--out``; all its settings share vision features,
greedy orders and prefixes. The same command resumes. Exit codes: those of the benchmarks.
"""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from absl import flags

from experiments import application
from experiments.harness import errors, program
from experiments.studies import definition
from experiments.studies import flags as study_flags

if TYPE_CHECKING:
    from experiments.harness import command
    from experiments.studies import running


def start() -> None:
    """Define the flags, run the study and exit with the code."""
    included = ", ".join(definition.names())
    study = flags.DEFINE_string("study", None, f"a TOML file, or {included}", required=True)
    line = shlex.join(["python", "-m", "experiments.sweep", *sys.argv[1:]])
    resume = f"nothing answered is lost, the same command resumes: {line}"
    program.run(
        lambda: _main(str(study.value), resume),
        define=lambda: study_flags.define("runs/sweep"),
        resume=resume,
    )


def _main(study: str, resume: str) -> int:
    """Run what the flags name; return the exit code."""
    from experiments.studies import running

    steps = running.prepare(definition.read(study), study_flags.base())
    codes = list(running.answer(steps, running.Pace(), resume, _report))
    return max(codes, default=errors.COMPLETE)


def _report(step: running.Step, outcome: command.Outcome) -> int:
    """Print a benchmark's tables."""
    code = application.report(step.benchmark, step.config, outcome)
    print()
    return code


if __name__ == "__main__":
    start()
