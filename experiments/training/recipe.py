"""The stages in order, with every number that was chosen for them."""

from __future__ import annotations

import dataclasses
import functools
import pathlib

import jax.numpy as jnp
import numpy as np

from experiments import scenes
from experiments.training import answering, question_stage, vision_stage
from experiments.training.asking import Questions, ask, keep
from experiments.training.features import features
from experiments.training.loop import Journal, Params, Stage, run
from experiments.training.optimiser import optimiser
from experiments.training.pictures import Pool, pool, window
from experiments.training.question_stage import Weights
from llava_jax import config

CFG = config.pocket()
HELD_OUT = 128  # validation scenes behind every measurement during training
MEASURED = 500  # scenes per world behind the model card
QUESTIONS = 10  # per picture and step
_SUBSETS = (128, 256)  # visual tokens shown in the stage before all are


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train, and where.

    Attributes:
        out: folder for pictures, checkpoints and the log.
        seed: of weights and batches.
        pictures: training scenes of the tower, and as many others of the decoder.
        window_steps: of the tower on quarter pictures.
        whole_steps: of the tower on whole pictures.
        alignment_steps: of the projector alone.
        subset_steps: of the decoder on some of the visual tokens.
        all_steps: of the decoder on all of them.
    """

    out: pathlib.Path
    seed: int
    pictures: int
    window_steps: int
    whole_steps: int
    alignment_steps: int
    subset_steps: int
    all_steps: int

    @property
    def pools(self) -> pathlib.Path:
        """Folder of the rendered scenes."""
        return self.out / "pools"


def _tower_stage(
    plan: Plan, name: str, source: Pool, side: int, size: int, steps: int, rate: float
) -> Stage:
    held_out = pool(scenes.world("validation"), 0, HELD_OUT, plan.pools)
    return Stage(
        name=name,
        steps=steps,
        loss=functools.partial(vision_stage.loss, cfg=CFG.vision),
        batch=lambda step: window(
            source, size, side, np.random.default_rng([plan.seed, side, step])
        ),
        evaluate=lambda params: vision_stage.evaluate(params, held_out, CFG.vision),
        optimiser=optimiser(0.015 * rate, 1.5e-3 * rate, steps),
        evaluate_every=400,
    )


def train_tower(plan: Plan, journal: Journal) -> Params:
    """Train the tower on quarter pictures, then on whole ones."""
    source = pool(scenes.world("train"), 0, plan.pictures, plan.pools)
    params = vision_stage.start(CFG, source, plan.seed)
    quarters = _tower_stage(plan, "windows", source, 12, 16, plan.window_steps, 1.0)
    params = run(quarters, params, plan.out / quarters.name, journal)
    whole = _tower_stage(plan, "whole", source, scenes.GRID, 8, plan.whole_steps, 0.5)
    return run(whole, params, plan.out / whole.name, journal)["vision"]


@dataclasses.dataclass(frozen=True)
class Seen:
    """A pool and what the finished tower says of it, float16[E, N, Dv]."""

    pool: Pool
    features: np.ndarray


def _look(plan: Plan, tower: Params, world: str, start: int, count: int) -> Seen:
    source = pool(scenes.world(world), start, count, plan.pools)
    return Seen(source, features({"vision": tower}, source, CFG, plan.out / "features"))


def _questions(seen: Seen, size: int, count: int, rng: np.random.Generator) -> Questions:
    """Draw a batch of pictures, visual tokens and questions."""
    picked = rng.choice(len(seen.pool), size, replace=False)
    labels = seen.pool.categories[picked].reshape(size, -1).astype(np.int32)
    kept = np.stack([keep(row, count, rng) for row in labels])
    asked, present = zip(
        *(ask(seen.pool.world, seen.pool.start + int(i), QUESTIONS, rng) for i in picked),
        strict=True,
    )
    return Questions(
        features=jnp.stack([seen.features[i][k] for i, k in zip(picked, kept, strict=True)]),
        categories=jnp.asarray(np.take_along_axis(labels, kept, axis=1)),
        asked=jnp.stack(asked),
        present=jnp.stack(present),
    )


def _question_stages(plan: Plan, seen: Seen, held_out: Seen) -> list[Stage]:
    def evaluate(params: Params) -> dict[str, float]:
        source = held_out.pool
        indices = range(source.start, source.start + len(source))
        return answering.evaluate(params, held_out.features, source.world, indices, CFG)

    def batch(purpose: int, size: int, counts: tuple[int, ...], step: int) -> Questions:
        rng = np.random.default_rng([plan.seed, purpose, step])
        return _questions(seen, size, int(rng.choice(counts)), rng)

    def answers(weights: Weights) -> functools.partial:
        return functools.partial(question_stage.loss, cfg=CFG, weights=weights)

    return [
        Stage(
            name="alignment",
            steps=plan.alignment_steps,
            loss=question_stage.alignment_loss,
            batch=functools.partial(batch, 101, 32, (96,)),
            evaluate=lambda params: {},
            optimiser=optimiser(0.02, 3e-3, plan.alignment_steps, warmup=20),
        ),
        Stage(
            name="subsets",
            steps=plan.subset_steps,
            loss=answers(Weights(grounding=0.5, early=1.0, alignment=0.3)),
            batch=functools.partial(batch, 102, 8, _SUBSETS),
            evaluate=evaluate,
            optimiser=optimiser(0.012, 2e-3, plan.subset_steps),
            evaluate_every=200,
        ),
        Stage(
            name="all",
            steps=plan.all_steps,
            loss=answers(Weights(grounding=0.2, early=0.3, alignment=0.1)),
            batch=functools.partial(batch, 103, 8, (CFG.vision.num_tokens,)),
            evaluate=evaluate,
            optimiser=optimiser(0.008, 1e-3, plan.all_steps, warmup=30),
            evaluate_every=100,
        ),
    ]


def train_decoder(plan: Plan, tower: Params, journal: Journal) -> Params:
    """Train projector and decoder on questions, the tower at rest."""
    seen = _look(plan, tower, "train", plan.pictures, plan.pictures)
    held_out = _look(plan, tower, "validation", HELD_OUT, HELD_OUT)
    params = question_stage.start(CFG, plan.seed)
    for stage in _question_stages(plan, seen, held_out):
        params = run(stage, params, plan.out / stage.name, journal)
    return {"vision": tower, "projector": params["projector"], "text": params["text"]}


def measure(plan: Plan, params: Params, world: str) -> tuple[int, dict[str, float]]:
    """Ask the finished model about scenes that no choice depended on.

    Returns:
        (number of scenes, measurements of ``answering.evaluate``).
    """
    start = 2 * HELD_OUT if world == "validation" else 0
    seen = _look(plan, params["vision"], world, start, MEASURED)
    indices = range(start, start + MEASURED)
    found = answering.evaluate(params, seen.features, seen.pool.world, indices, CFG)
    return MEASURED, found
