r"""Train the embedded miniature model.

    python -m experiments.train_pocket --out=runs/pocket --seed=0 --export=llava_jax/pocket

The same command resumes. Exit codes: 0 complete, 1 usage, 2 refused or diverged, 75 disk full,
130 Ctrl-C.
With glibc, MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 in the environment spares
the kernel from clearing the same buffers at every step, about a third of the time on CPU.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import jax
from absl import flags, logging

from experiments.harness import errors, program, refusals
from experiments.training import caption_stage, card, examination, export, recipe
from experiments.training.loop import DivergedError, Journal
from llava_jax import atomic

flags.DEFINE_string("out", None, "folder for pictures, checkpoints and log.jsonl")
flags.DEFINE_string("export", None, "folder that receives the finished model")
flags.DEFINE_integer("seed", 0, "of weights and batches", 0, 2**32 - 1)
flags.DEFINE_integer(
    "pictures", 4000, "training scenes of the tower, and as many of the decoder", lower_bound=32
)
_STEPS = {
    "window_steps": (2000, "of the tower on quarter pictures"),
    "whole_steps": (450, "of the tower on whole pictures"),
    "caption_steps": (300, "of the text tower"),
    "alignment_steps": (300, "of the projector alone"),
    "subset_steps": (1800, "of the decoder on some of the visual tokens"),
    "all_steps": (400, "of the decoder on all of them"),
}
for _name, (_default, _meaning) in _STEPS.items():
    flags.DEFINE_integer(_name, _default, f"steps {_meaning}", lower_bound=1)
flags.mark_flag_as_required("out")


def _train(plan: recipe.Plan, target: str | None) -> None:
    """Run the stages, export what comes out and measure what was exported."""
    plan.keep()
    journal = Journal(plan.out / "log.jsonl", functools.partial(print, flush=True))
    tower = recipe.train_tower(plan, journal)
    dual = recipe.train_captions(plan, tower, journal)
    params = recipe.train_decoder(plan, tower, journal) | {"vision": dual["vision"]}
    if target is None:
        return
    folder = pathlib.Path(target)
    export.write(folder, params, recipe.CFG, dual, caption_stage.config())
    model = examination.load(folder)
    measured = {
        world: examination.examine(model, world, examination.COUNT, plan.out)
        for world in examination.UNSEEN
    }
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    text = card.card(plan, count, examination.COUNT, journal.minutes(), measured)
    atomic.write(folder / "README.md", text)
    journal.write(exported=target, measured=measured)


def main() -> None:
    """Read the flags and train."""
    folders = {"out": flags.FLAGS.out, "export": flags.FLAGS.export}
    for name, folder in folders.items():
        if folder is not None:
            refusals.refuse_unwritable(name, folder)
    names = ("seed", "pictures", *_STEPS)
    values: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    try:
        _train(recipe.Plan(pathlib.Path(flags.FLAGS.out), **values), flags.FLAGS.export)
    except (recipe.OtherPlanError, DivergedError) as error:
        raise errors.InputError(str(error)) from None


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file it closes
    program.run(main, resume="the same command resumes")
