"""Measure the calibration of answers that another evaluation tool logged.

    python -m experiments.calibrate --from=inspect:logs/x.eval
    python -m experiments.calibrate --from=lmeval:results/model
    python -m experiments.calibrate --from=helm:runs/suite/run
    python -m experiments.calibrate --from=csv:rows.csv --json=report.json

Prints the tables of the benchmarks. No model is loaded. What each format must hold is said in
``experiments/logs``. Exit codes: 0 complete, 1 usage, 2 refused.
"""

from __future__ import annotations

import logging
import pathlib
from typing import Any

from absl import flags

import calibration.report
from experiments import logs
from experiments.harness import errors, program, terminal
from experiments.reporting import evaluation, tables
from llava_jax import atomic


def start() -> None:
    """Define the flags, report and exit with the code."""
    logging.getLogger("jax").setLevel(logging.WARNING)
    formats = ", ".join(f"{name}:PATH" for name in logs.READERS)
    spec = flags.DEFINE_string("from", None, f"the log, one of {formats}", required=True)
    mode = flags.DEFINE_enum(
        "mode", "default", ["default", "paper"], "resample what belongs together, or single rows"
    )
    out = flags.DEFINE_string("json", None, "file for the numbers (default: none)")
    program.run(lambda: _main(str(spec.value), mode.value, out.value))


def _main(spec: str, mode: str, out: str | None) -> None:
    """Print the tables of what the flags name, and write the file."""
    rows = logs.read(spec)
    entry = evaluate(rows, "paper" if mode == "paper" else "default")
    print(terminal.inert(_heading(rows, entry)) + "\n")
    print(tables.render([entry], rows.splits))
    if out:
        atomic.write(pathlib.Path(out), {"source": rows.source, **entry})
        print("\n" + terminal.inert(out))


def evaluate(rows: logs.Rows, mode: calibration.report.Mode) -> dict[str, Any]:
    """Return a log's entry for the tables.

    Args:
        rows: of the log.
        mode: ``default`` or ``paper`` statistics.

    Raises:
        InputError: the rows cannot be measured.
    """
    try:
        found = evaluation.entry(
            rows.log_masses,
            rows.label,
            rows.answer_log_mass,
            prediction=rows.prediction,
            valid=rows.valid,
            group=rows.group,
            split=rows.split,
            splits=rows.splits,
            mode=mode,
        )
    except ValueError as error:
        raise errors.InputError(f"{rows.source}: {error}") from None
    return {"setting": pathlib.Path(rows.source.partition(":")[2]).name, "mode": mode, **found}


def _heading(rows: logs.Rows, entry: dict[str, Any]) -> str:
    """Return what was read and how it was measured."""
    clustered = entry["mode"] == "default" and entry["images"] < entry["n"]
    unit = "groups" if clustered else "rows"
    return (
        f"{rows.source}: {entry['n']} rows in {entry['images']} groups; mode {entry['mode']}: "
        f"95 % intervals by resampling {unit}"
    )


if __name__ == "__main__":
    start()
