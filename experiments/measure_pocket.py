r"""Measure the embedded model on scenes it has never seen.

    python -m experiments.measure_pocket
    python -m experiments.measure_pocket --model=runs/pocket/exported --worlds=validation

Prints accuracy per benchmark, calibration on POPE with ECE's own noise floor, and what the
towers see, in the tables of the model card. Exit codes: 0 done, 1 usage, 2 model refused.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import app, flags

import llava_jax
from experiments.harness import errors
from experiments.training import card, examination

flags.DEFINE_string("model", None, "folder of the model; the embedded one if not given")
flags.DEFINE_multi_enum("worlds", ["test"], list(examination.UNSEEN), "worlds to ask about")
flags.DEFINE_integer("scenes", examination.COUNT, "per world", lower_bound=1)
flags.DEFINE_string("out", "runs/measure_pocket", "folder for pictures and hidden states")


def main(argv: Sequence[str]) -> None:
    """Read the flags, measure and print."""
    errors.refuse_arguments(argv)
    values = flags.FLAGS
    folder = pathlib.Path(values.model or pathlib.Path(llava_jax.__file__).parent / "pocket")
    work = pathlib.Path(values.out)
    try:
        measured = {
            world: examination.examine(folder, world, values.scenes, work)
            for world in values.worlds
        }
    except ValueError as error:
        raise errors.InputError(f"--model={folder}: {error}") from None
    print(card.tables(measured))


if __name__ == "__main__":
    app.run(lambda argv: errors.exit_code(lambda: main(argv)))
