r"""Measure the embedded model on scenes it has never seen.

    python -m experiments.measure_pocket
    python -m experiments.measure_pocket --model=runs/pocket/exported --worlds=validation,test

Prints accuracy per benchmark, calibration on POPE with ECE's own noise floor, and what the
towers see, in the tables of the model card. Exit codes: 0 done, 1 usage, 2 model refused.
"""

from __future__ import annotations

import pathlib

from absl import flags, logging

import llava_jax
from experiments.harness import errors, program, refusals
from experiments.training import card, examination

flags.DEFINE_string("model", None, "folder of the model; the embedded one if not given")
flags.DEFINE_list("worlds", ["test"], f"worlds to ask about: {', '.join(examination.UNSEEN)}")
flags.DEFINE_integer("scenes", examination.COUNT, "per world", lower_bound=1)
flags.DEFINE_string("out", "runs/measure_pocket", "folder for pictures and hidden states")


def main() -> None:
    """Read the flags, measure and print."""
    values = flags.FLAGS
    for name in ("model", "worlds"):
        if values[name].value in ("", []):
            raise errors.UsageError(f"--{name}= is empty; without the flag it has its default")
    folder = pathlib.Path(values.model or pathlib.Path(llava_jax.__file__).parent / "pocket")
    work = pathlib.Path(values.out)
    if unknown := [world for world in values.worlds if world not in examination.UNSEEN]:
        raise errors.UsageError(f"--worlds={unknown[0]}: known are {', '.join(examination.UNSEEN)}")
    refusals.refuse_unwritable("out", values.out)
    try:
        model = examination.load(folder)
    except (OSError, ValueError) as error:
        raise errors.InputError(f"--model={folder}: {error}") from None
    measured = {w: examination.examine(model, w, values.scenes, work) for w in values.worlds}
    print(card.tables(measured))


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)  # JAX tells of every backend it does not find
    program.run(main)
