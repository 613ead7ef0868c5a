"""Show runs in one HTML file that needs no server and no network.

    python -m experiments.report runs/pope runs/scienceqa --out=report.html

Tables with intervals, reliability and risk–coverage diagrams, flips between any two settings, and
the questions that pruning changed most, with the tokens kept. It is made from records, which hold
no pictures: those are read where the run read them, or at ``--data``, if they are the same. No
model is loaded. Exit codes: 0 complete, 1 usage, 2 refused.
"""

from __future__ import annotations

import logging
import pathlib

from absl import flags

from experiments import catalogue, showing
from experiments.harness import program, terminal
from experiments.reporting import page, runs


def start() -> None:
    """Define the flags, write the page and exit with the code."""
    logging.getLogger("jax").setLevel(logging.WARNING)
    out = flags.DEFINE_string("out", None, "the page (default: report.html in the first folder)")
    listed = flags.DEFINE_integer(
        "examples", page.NUM_EXAMPLES, "questions listed, of all runs together", lower_bound=0
    )
    mode = flags.DEFINE_enum(
        "mode", "default", ["default", "paper"], "resample what belongs together, or single rows"
    )
    data = flags.DEFINE_string("data", None, "where the pictures are (default: as each run says)")

    def main(words: list[str]) -> None:
        how = "paper" if mode.value == "paper" else "default"
        found = [runs.load(pathlib.Path(word), catalogue.get, how) for word in words]
        file = pathlib.Path(out.value or pathlib.Path(words[0]) / "report.html")
        showing.write(found, file, listed.value, data.value)
        print(terminal.inert(f"{file}: {file.stat().st_size / 1e6:.1f} MB"))

    program.run(main, words="run folders")


if __name__ == "__main__":
    start()
