"""The stages in order, with every number that was chosen for them."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib

import jax.numpy as jnp
import numpy as np

from experiments import scenes
from experiments.training import caption_stage, question_stage, vision_stage
from experiments.training.answering import answer
from experiments.training.asking import Batch, Mix, ask, keep, spread
from experiments.training.features import hidden_states
from experiments.training.loop import Journal, Params, Stage, run
from experiments.training.measuring import MEASURES, Measured
from experiments.training.optimiser import optimiser
from experiments.training.pictures import Pool, pool, window
from experiments.training.question_stage import Weights
from experiments.training.teaching import LONG, SHORT, block
from llava_jax import atomic, config

CFG = config.pocket()
HELD_OUT = 128  # validation scenes behind every measurement during training
CAPTIONS = 48  # pictures and captions told apart in a step
SUBSETS = (128, 256)  # visual tokens shown in the stage before all are


class OtherPlanError(ValueError):
    """A folder in which another training was begun."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train, and where.

    Attributes:
        out: folder for pictures, checkpoints and the log.
        seed: of weights and batches.
        pictures: training scenes of the tower, and as many others of the decoder.
        window_steps: of the tower on quarter pictures.
        whole_steps: of the tower on whole pictures.
        caption_steps: of the text tower.
        alignment_steps: of the projector alone.
        subset_steps: of the decoder on some of the visual tokens.
        all_steps: of the decoder on all of them.
    """

    out: pathlib.Path
    seed: int
    pictures: int
    window_steps: int
    whole_steps: int
    caption_steps: int
    alignment_steps: int
    subset_steps: int
    all_steps: int

    def keep(self) -> None:
        """Write the plan into its folder, or see that it is the one that was begun there.

        Raises:
            OtherPlanError: it is not; names every difference.
        """
        fields = {k: v for k, v in dataclasses.asdict(self).items() if k != "out"}
        mine, file = fields | {"scenes": scenes.VERSION}, self.out / "plan.json"
        self.out.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            atomic.write(file, mine)
        begun = json.loads(file.read_text(encoding="utf-8"))
        if names := [name for name in mine if begun.get(name) != mine[name]]:
            told = ", ".join(f"{name} {begun.get(name)} there, {mine[name]} here" for name in names)
            raise OtherPlanError(f"{self.out} holds another training: {told}; take another --out")

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
    """A pool and what the finished tower says of it, float16[E, 1 + N, Dv], CLS first."""

    pool: Pool
    hidden: np.ndarray

    @property
    def indices(self) -> range:
        """The scenes' indices in their world."""
        return range(self.pool.start, self.pool.start + len(self.pool))


def look(plan: Plan, tower: Params, world: str, start: int, count: int) -> Seen:
    """Run a tower on a pool, or map what it said before."""
    source = pool(scenes.world(world), start, count, plan.pools)
    return Seen(source, hidden_states({"vision": tower}, source, CFG, plan.out / "features"))


def train_captions(plan: Plan, tower: Params, journal: Journal) -> Params:
    """Train a text tower beside the tower; return the dual encoder, layer −2 as it was."""
    seen = look(plan, tower, "train", plan.pictures, plan.pictures)
    held_out = look(plan, tower, "validation", HELD_OUT, HELD_OUT)
    cfg = caption_stage.config()
    resting, learning = caption_stage.split(caption_stage.start(tower, cfg, plan.seed), cfg)

    def batch(step: int) -> caption_stage.Pairs:
        rng = np.random.default_rng([plan.seed, 104, step])
        return caption_stage.pairs(seen.pool, seen.hidden, CAPTIONS, rng)

    stage = Stage(
        name="captions",
        steps=plan.caption_steps,
        loss=functools.partial(caption_stage.loss, cfg=cfg),
        batch=batch,
        evaluate=lambda params: caption_stage.evaluate(params, held_out.pool, held_out.hidden, cfg),
        optimiser=optimiser(0.01, 2e-3, plan.caption_steps, warmup=20),
        evaluate_every=100,
    )
    return caption_stage.join(resting, run(stage, learning, plan.out / stage.name, journal))


def _batch(seen: Seen, size: int, count: int, mix: Mix, rng: np.random.Generator) -> Batch:
    """Draw pictures, visual tokens of each, and questions about it."""
    picked = rng.choice(len(seen.pool), size, replace=False)
    labels = seen.pool.categories[picked].reshape(size, -1)
    colours = seen.pool.colours[picked].reshape(size, -1)
    kept = np.stack([keep(row, count, rng) for row in labels])
    spreads = [spread(count, CFG.vision.num_tokens, rng) for _ in kept]
    place, indices = seen.pool.world, [seen.pool.start + int(i) for i in picked]
    asked = zip(*(ask(place, index, mix, rng) for index in indices), strict=True)
    present = [scenes.layout(place, index).present for index in indices]
    features = [seen.hidden[i][1 + k] for i, k in zip(picked, kept, strict=True)]
    return Batch(
        features=jnp.asarray(np.stack(features)),
        tokens=jnp.asarray(kept, jnp.int32),
        positions=jnp.asarray(np.stack([positions for positions, _ in spreads]), jnp.int32),
        span=jnp.asarray([span for _, span in spreads], jnp.int32),
        categories=jnp.asarray(np.take_along_axis(labels, kept, axis=1), jnp.int32),
        colours=jnp.asarray(np.take_along_axis(colours, kept, axis=1), jnp.int32),
        blocks=tuple(
            block(rows, present, length)
            for rows, length in zip(asked, (SHORT, LONG), strict=True)
            if rows[0]
        ),
    )


def _question_stages(plan: Plan, seen: Seen, held_out: Seen) -> list[Stage]:
    def evaluate(params: Params) -> Measured:
        return _summary(params, held_out)

    def batch(purpose: int, size: int, counts: tuple[int, ...], mix: Mix, step: int) -> Batch:
        rng = np.random.default_rng([plan.seed, purpose, step])
        return _batch(seen, size, int(rng.choice(counts)), mix, rng)

    def answers(weights: Weights) -> functools.partial:
        return functools.partial(question_stage.loss, cfg=CFG, weights=weights)

    nothing, everything = Mix(0, 0, 0, 0), Mix()
    return [
        Stage(
            name="alignment",
            steps=plan.alignment_steps,
            loss=question_stage.alignment_loss,
            batch=functools.partial(batch, 101, 32, (96,), nothing),
            evaluate=lambda params: {},
            optimiser=optimiser(0.02, 3e-3, plan.alignment_steps, warmup=20),
        ),
        Stage(
            name="subsets",
            steps=plan.subset_steps,
            loss=answers(Weights(grounding=0.5, pointing=0.3, early=1.0, alignment=0.3)),
            batch=functools.partial(batch, 102, 8, SUBSETS, everything),
            evaluate=evaluate,
            optimiser=optimiser(0.012, 2e-3, plan.subset_steps),
            evaluate_every=200,
        ),
        Stage(
            name="all",
            steps=plan.all_steps,
            loss=answers(Weights(grounding=0.2, pointing=0.1, early=0.3, alignment=0.1)),
            batch=functools.partial(batch, 103, 8, (CFG.vision.num_tokens,), everything),
            evaluate=evaluate,
            optimiser=optimiser(0.008, 1e-3, plan.all_steps, warmup=30),
            evaluate_every=100,
        ),
    ]


def _summary(params: Params, seen: Seen) -> Measured:
    """Measure every benchmark on held-out scenes, names like pope/nll."""
    found = answer(params, seen.hidden[:, 1:], seen.pool.world, seen.indices, CFG)
    return {
        f"{benchmark}/{name}": value
        for benchmark, answers in found.items()
        for name, value in MEASURES[benchmark](answers).items()
    }


def train_decoder(plan: Plan, tower: Params, journal: Journal) -> Params:
    """Train projector and decoder on questions, the tower at rest."""
    seen = look(plan, tower, "train", plan.pictures, plan.pictures)
    held_out = look(plan, tower, "validation", HELD_OUT, HELD_OUT)
    params = question_stage.start(CFG, plan.seed)
    for stage in _question_stages(plan, seen, held_out):
        params = run(stage, params, plan.out / stage.name, journal)
    return {"vision": tower, "projector": params["projector"], "text": params["text"]}
