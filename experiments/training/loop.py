"""One resumable training loop for every stage.

The batch of step i is a function of the seed and i, so the step number is the data
position: a loop that stops and resumes is the loop that never stopped.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

from experiments.training.optimiser import PATIENCE

Params = dict[str, Any]
Loss = Callable[[Params, Any], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a loop needs to know.

    Attributes:
        name: folder of its checkpoints and first field of its log lines.
        steps: how many.
        loss: (params, batch) to (loss, accuracy).
        batch: step to batch.
        evaluate: params to named measurements on held-out scenes.
        optimiser: the gradient transformation.
        save_every: seconds between checkpoints.
        evaluate_every: steps between evaluations.
    """

    name: str
    steps: int
    loss: Loss
    batch: Callable[[int], Any]
    evaluate: Callable[[Params], dict[str, float]]
    optimiser: optax.GradientTransformation
    save_every: float = 120.0
    evaluate_every: int = 500


class DivergedError(RuntimeError):
    """Gradients stayed non-finite; the last checkpoint holds the last good state."""


@dataclasses.dataclass(frozen=True)
class Journal:
    """Append-only record of a run's curves, one JSON object a line.

    Attributes:
        path: the file; its folder exists.
        show: is handed every line, to let somebody watch.
        begun: when this process began, by the monotonic clock.
    """

    path: pathlib.Path
    show: Callable[[str], None]
    begun: float = dataclasses.field(default_factory=time.monotonic)

    def write(self, **fields: Any) -> None:
        """Append a line and show it."""
        fields["seconds"] = time.monotonic() - self.begun
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in fields.items()}
        line = json.dumps(rounded)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self.show(line)

    def minutes(self) -> float:
        """Add up how long the processes on record worked, up to their last lines."""
        total = before = 0.0
        for line in map(json.loads, self.path.read_text(encoding="utf-8").splitlines()):
            seconds = line["seconds"]  # starts anew with every process
            total += seconds - before if seconds >= before else seconds
            before = seconds
        return total / 60


def train_step(stage: Stage) -> Callable[..., tuple[Params, Any, jax.Array, jax.Array]]:
    """Compile one step: (params, optimiser state, batch) to both, loss and accuracy."""

    def step(params: Params, state: Any, batch: Any) -> tuple[Any, Any, jax.Array, jax.Array]:
        gradient = jax.value_and_grad(stage.loss, has_aux=True)
        (loss, accuracy), grads = gradient(params, batch)
        updates, state = stage.optimiser.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss, accuracy

    return jax.jit(step)


def run(stage: Stage, params: Params, folder: pathlib.Path, journal: Journal) -> Params:
    """Train to the stage's last step, from its newest checkpoint if there is one.

    Args:
        stage: what to train.
        params: where to start if there is no checkpoint.
        folder: receives the checkpoints.
        journal: receives the curves.

    Returns:
        The trained parameters.

    Raises:
        DivergedError: too many steps in a row had a gradient that is not finite.
    """
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    with ocp.CheckpointManager(folder.absolute(), options=options) as store:
        state = {"params": params, "optimiser": stage.optimiser.init(params)}
        first = 0
        if (latest := store.latest_step()) is not None:
            state = store.restore(latest, args=ocp.args.StandardRestore(state))
            first = latest
            journal.write(stage=stage.name, step=first, resumed=True)
        try:
            return _advance(stage, state, first, store, journal)
        finally:
            store.wait_until_finished()


def _advance(
    stage: Stage, state: Params, first: int, store: ocp.CheckpointManager, journal: Journal
) -> Params:
    step_fn = train_step(stage)
    params, optimiser = state["params"], state["optimiser"]
    saved = begun = time.monotonic()
    losses, accuracies = [], []
    for step in range(first, stage.steps):
        params, optimiser, loss, accuracy = step_fn(params, optimiser, stage.batch(step))
        losses.append(float(loss))
        accuracies.append(float(accuracy))
        if optimiser.notfinite_count > 0:
            journal.write(stage=stage.name, step=step + 1, skipped="gradient is not finite")
            if optimiser.notfinite_count >= PATIENCE:
                raise DivergedError(f"{stage.name}: gradients are not finite at step {step + 1}")
        done = step + 1
        last = done == stage.steps
        if done % 50 == 0 or last:
            journal.write(
                stage=stage.name,
                step=done,
                loss=float(np.mean(losses)),
                accuracy=float(np.mean(accuracies)),
                steps_per_second=len(losses) / (time.monotonic() - begun),
            )
            losses, accuracies, begun = [], [], time.monotonic()
        if done % stage.evaluate_every == 0 or last:
            journal.write(stage=stage.name, step=done, **stage.evaluate(params))
            begun = time.monotonic()
        if last or (time.monotonic() - saved > stage.save_every and not optimiser.notfinite_count):
            current = {"params": params, "optimiser": optimiser}
            store.save(done, args=ocp.args.StandardSave(current))
            store.wait_until_finished()
            saved = time.monotonic()
    return params
