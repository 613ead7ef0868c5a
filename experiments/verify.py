"""Check a finished run against itself: every hash, every row, every number computed again.

    python -m experiments.verify runs/pope runs/mme

Prints one line per thing that does not agree, with its file and row or number, then what was
checked. The folder of ``experiments.paper`` stands for all its runs, tables and figures. What has
no second copy in a run folder, and so cannot be seen to have changed, is listed in
``experiments/reporting/verification/folder.py``. No model is loaded, nothing is written. Exit
codes: 0 all agrees, 1 usage, 2 no run, 3 something does not agree.
"""

from __future__ import annotations

import collections
import logging
import pathlib
from collections.abc import Sequence

from absl import flags

from experiments import catalogue
from experiments.harness import program, records, terminal
from experiments.reporting.paper import documents
from experiments.reporting.verification import folder as run_folder

AGREES, DISAGREES = 0, 3


def start() -> None:
    """Define the flags, check the folders that are named and exit with the code."""
    logging.getLogger("jax").setLevel(logging.WARNING)
    tolerance = flags.DEFINE_float(
        *("tolerance", None),
        f"relative difference of numbers that is none (default: 0, and {run_folder.FLOAT32:g} "
        "where jax or numpy are not those of the run)",
        lower_bound=0.0,
    )
    program.run(lambda words: check(words, tolerance.value), words="run folders")


def check(folders: Sequence[str], tolerance: float | None = None) -> int:
    """Print what does not agree in run folders; return the exit code.

    Args:
        folders: ``--out`` of finished runs.
        tolerance: see `verification.folder.verify`.

    Raises:
        InputError: one of them holds no run.
    """
    code = AGREES
    for folder in (path for name in folders for path in _parts(pathlib.Path(name))):
        counts: collections.Counter[str] = collections.Counter()
        if (folder / documents.MADE).exists():
            found = documents.check(folder, counts)
        else:
            found = run_folder.verify(folder, catalogue.get, tolerance=tolerance, counts=counts)
        for finding in found:
            print(terminal.inert(str(finding)))
        said = f"{len(found)} findings" if found else "all agrees"
        print(terminal.inert(f"{folder}: {said}; {_counted(counts)}"))
        code = DISAGREES if found else code
    return code


def _parts(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return a study's folder and those of its runs; a run's folder alone."""
    if not (folder / documents.MADE).exists():
        return [folder]
    runs = {file.parent.parent for file in folder.glob(f"*/*/*/{records.RUN}")}
    return [folder, *sorted(runs)]


def _counted(counts: collections.Counter[str]) -> str:
    """Say how much was checked."""
    return (
        f"{counts['settings']} settings, {counts['files']} files, {counts['rows']} rows, "
        f"{counts['numbers']} numbers computed again"
    )


if __name__ == "__main__":
    start()
