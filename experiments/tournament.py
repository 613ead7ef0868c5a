"""Compare all pruners of a run with full tokens and with each other.

    python -m experiments.tournament --run=runs/pope --out=docs/tournament

Paired differences of accuracy, ECE and AURC, clustered by picture and corrected by Holm; ranks with
intervals; answers that flipped; the smallest difference that these data could show. Writes each
table into the folder ``<out>`` as ``.md``, ``.tex`` and ``.csv`` and prints them, pairs as counts.
No model is loaded. Exit codes: 0 complete, 1 usage, 2 refused.
"""

from __future__ import annotations

import logging
import pathlib

from absl import flags

from experiments import catalogue
from experiments.harness import program, terminal
from experiments.reporting import runs, tournament
from experiments.reporting.documents import Table

_LEVEL = 0.05


def start() -> None:
    """Define the flags, report and exit with the code."""
    logging.getLogger("jax").setLevel(logging.WARNING)
    run = flags.DEFINE_string("run", "runs/pope", "run folder with finished settings")
    out = flags.DEFINE_string("out", None, "folder of the tables (default: <run>/tournament)")
    program.run(lambda: _main(str(run.value), out.value))


def _main(run: str, out: str | None) -> None:
    """Report what the flags name."""
    report(pathlib.Path(run), pathlib.Path(out or pathlib.Path(run) / "tournament"))


def report(run: pathlib.Path, out: pathlib.Path) -> None:
    """Print the tables and write their files.

    Args:
        run: the run folder.
        out: folder of the tables; it is made.

    Raises:
        InputError: the folder has no comparable settings.
    """
    found = tournament.tables(runs.load(run, catalogue.get))
    for table in found:
        if "other" not in table.labels:
            print(f"{table.text()}\n")
    for table in found:
        if "p_holm" in [column.name for column in table.columns]:
            print(_summary(table))
    out.mkdir(parents=True, exist_ok=True)
    files = [file for table in found for file in table.write(out)]
    print("\n" + "\n".join(terminal.inert(str(file)) for file in files))


def _summary(table: Table) -> str:
    """Return how many differences of a family stand, and how small they could have been."""
    seen = [cells[3].value or 0.0 for _, cells in table.rows]
    stand = sum(cells[2].value is not None and cells[2].value < _LEVEL for _, cells in table.rows)
    ends = " to ".join(table.columns[3].spell(end) for end in (min(seen), max(seen)))
    family = terminal.inert(table.title.partition(".")[0])
    return f"{family}: {stand} of {len(table.rows)} stand after Holm; could be seen: {ends}"


if __name__ == "__main__":
    start()
