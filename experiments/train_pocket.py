r"""Train the embedded miniature model.

    python -m experiments.train_pocket --out=runs/pocket --seed=0 --export=llava_jax/pocket

The same command resumes. Exit codes: 0 complete, 1 usage, 130 interrupted, resumable.
With glibc, MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 in the environment spares
the kernel from clearing the same buffers at every step, about a third of the time on CPU.
"""

from __future__ import annotations

import functools
import pathlib
import sys
from typing import Any

import jax
from absl import app, flags

from experiments.training import card, export, recipe
from experiments.training.loop import Journal

flags.DEFINE_string("out", None, "folder for pictures, checkpoints and log.jsonl")
flags.DEFINE_string("export", None, "folder that receives the finished model")
flags.DEFINE_integer("seed", 0, "of weights and batches", lower_bound=0)
flags.DEFINE_integer(
    "pictures", 4000, "training scenes of the tower, and as many of the decoder", lower_bound=32
)
_STEPS = {
    "window_steps": (2000, "of the tower on quarter pictures"),
    "whole_steps": (450, "of the tower on whole pictures"),
    "alignment_steps": (300, "of the projector alone"),
    "subset_steps": (700, "of the decoder on some of the visual tokens"),
    "all_steps": (250, "of the decoder on all of them"),
}
for _name, (_default, _meaning) in _STEPS.items():
    flags.DEFINE_integer(_name, _default, f"steps {_meaning}", lower_bound=1)
flags.mark_flag_as_required("out")


def _train(plan: recipe.Plan, target: str | None) -> None:
    """Run the stages and export what comes out."""
    plan.out.mkdir(parents=True, exist_ok=True)
    journal = Journal(plan.out / "log.jsonl", functools.partial(print, flush=True))
    params = recipe.train_decoder(plan, recipe.train_tower(plan, journal), journal)
    if target is None:
        return
    measured = {world: recipe.measure(plan, params, world) for world in ("validation", "test")}
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    export.write(pathlib.Path(target), params, recipe.CFG, card.card(plan, count, measured))
    journal.write(exported=target, measured=measured)


def main(argv: list[str]) -> None:
    """Read the flags and train."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    names = ("seed", "pictures", *_STEPS)
    values: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    try:
        _train(recipe.Plan(pathlib.Path(flags.FLAGS.out), **values), flags.FLAGS.export)
    except KeyboardInterrupt:
        sys.exit(130)  # resumable by the same command


if __name__ == "__main__":
    app.run(main)
