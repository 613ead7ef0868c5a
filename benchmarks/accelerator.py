"""Vision, prefix and suffix passes on the device that is there: tokens and operations per second.

    python -m benchmarks.accelerator                      # 7B, random weights made on the device
    python -m benchmarks.accelerator --trace=traces       # and a profile for xprof or TensorBoard
    python -m benchmarks.accelerator --model=pocket       # anywhere

Passes have the shapes that POPE and ScienceQA give the harness on this device. Sides take turns,
the device is waited for, medians count; operations of padding do not. Utilisation is of the fastest
square product in the same precision, on as many devices.
Axis letters: G pictures, Q questions, K kept, T suffix.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax.sharding import Mesh, NamedSharding

from benchmarks import harness, stages, workload
from experiments.harness import batching, devices, memory
from experiments.harness.plan import Plan
from experiments.harness.source import Source, default_dtype
from experiments.studies import definition
from llava_jax import atomic, checkpoint, config, costs, sharding
from llava_jax.checkpoint import huggingface
from llava_jax.config import LlavaConfig
from llava_jax.engine import Engine

MODELS = {"7B": config.llava_1_5_7b, "13B": config.llava_1_5_13b, "pocket": config.pocket}
_MODEL = flags.DEFINE_enum("model", "7B", list(MODELS), "whose shapes")
_MESH = flags.DEFINE_string("mesh", None, "as in the harness: data:2,model:4")
_DTYPE = flags.DEFINE_string("dtype", None, "of the weights; the harness's default for the device")
_BUDGET = flags.DEFINE_list("budget", ["64", "128", "576"], "tokens kept")
_SIDE = flags.DEFINE_list("side", ["4096", "8192", "16384"], "of the square products")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "that count", lower_bound=5)
_TRACE = flags.DEFINE_string("trace", None, "folder for a profile of one round more")
_OUT = flags.DEFINE_string("out", str(harness.RESULTS), "folder of the results")
_NO_TOKENIZER: Any = None


@dataclasses.dataclass(frozen=True)
class Pass:
    """A stage of one pass.

    Attributes:
        run: does it, and returns when the device is done.
        tokens: that it reads, padding left out.
        flops: that they cost.
    """

    run: Callable[[], None]
    tokens: int
    flops: int


def waiting(function: Callable[..., Any], *args: Any) -> Callable[[], None]:
    """Return a call that ends when the device is done."""
    return lambda: jax.block_until_ready(function(*args))


def passes(engine: Engine, plan: Plan, budgets: Sequence[int]) -> dict[str, Pass]:
    """Return the stages of one of a plan's passes by name, and run each once.

    Args:
        engine: with any weights.
        plan: whose pass in the middle is taken.
        budgets: tokens kept, K each.
    """
    cfg, groups = engine.cfg, plan.batches[len(plan.batches) // 2]
    batch = batching.collate(groups, plan.suffixes)
    side, g = cfg.vision.image_size, len(groups)
    pixels = jax.random.normal(jax.random.key(1), (g, side, side, 3))
    see = functools.partial(engine.encode, outputs=("features", "saliency"))
    features = see(pixels).require("features")
    common = np.asarray(plan.common_ids, np.int32)
    before = engine.begin(np.asarray(plan.prompt_ids, np.int32))
    seen = Pass(
        waiting(see, pixels), g * (1 + cfg.vision.num_tokens), g * costs.encode_flops(cfg.vision)
    )
    found = {"vision": seen}
    lengths = [len(plan.suffixes[q[0].user_text]) for group in groups for q in group.questions]
    for k in budgets:
        kept = jnp.broadcast_to(jnp.arange(k), (g, k))
        added, p = k + len(common), before.length + k + len(common)
        picture = costs.project_flops(cfg, k) + costs.extend_flops(cfg.text, before.length, added)
        prefill = functools.partial(engine.prefill, before, features, kept, common)
        found[f"prefix, K = {k}"] = Pass(waiting(prefill), g * added, g * picture)
        asked = waiting(engine.answer, prefill(), batch.suffix_ids, batch.lengths)
        flops = sum(costs.answer_flops(cfg.text, p, t) for t in lengths)
        found[f"suffix, K = {k}"] = Pass(asked, sum(lengths), flops)
    return found


def ceiling(sides: Sequence[int], dtype: str, rounds: int) -> dict[str, Any]:
    """Return the fastest square product: its side, seconds and operations per second."""
    product = jax.jit(functools.partial(jnp.matmul, preferred_element_type=jnp.dtype(dtype)))
    found = []
    for side in sides:
        x = jax.random.normal(jax.random.key(2), (side, side), jnp.dtype(dtype))
        seconds = harness.spread(harness.take_turns({"": waiting(product, x, x)}, rounds)[""])
        found.append({"side": side, "seconds": seconds, "FLOP/s": 2 * side**3 / seconds["median"]})
    return max(found, key=lambda each: each["FLOP/s"])


def rates(work: Pass, seconds: list[float], peak: float) -> dict[str, Any]:
    """Return what a stage reaches.

    Args:
        work: the stage.
        seconds: of each round.
        peak: operations per second of the fastest product.
    """
    spread = harness.spread(seconds)
    rate = work.flops / spread["median"]
    return {
        "seconds": spread,
        "tokens": work.tokens,
        "tokens per second": work.tokens / spread["median"],
        "FLOP": work.flops,
        "FLOP/s": rate,
        "utilisation": rate / peak,
    }


def minutes(
    run: definition.Run, plan: Plan, cfg: LlavaConfig, found: Mapping[str, Mapping[str, Any]]
) -> float:
    """Project a benchmark's tables from the rates of one pass, those of the nearest K each.

    Args:
        run: the benchmark and its settings.
        plan: of it.
        cfg: the model, all layers.
        found: stage → rates.
    """
    rate = {name: entry["FLOP/s"] for name, entry in found.items()}
    budgets = [int(name.split(" = ")[1]) for name in rate if name.startswith("prefix")]
    seconds = stages.vision(plan, cfg).flops / rate["vision"]
    for setting, times in workload.settings(run, cfg.vision.num_tokens).items():
        near = min(budgets, key=lambda k, wanted=setting.budget: abs(k - wanted))
        work = stages.decoder(plan, setting, cfg, steps=0)
        asked = work["suffix"] + work["head"]
        seconds += times * work["prefix"].flops / rate[f"prefix, K = {near}"]
        seconds += times * asked.flops / rate[f"suffix, K = {near}"]
    return seconds / 60


def random(cfg: LlavaConfig, dtype: str, mesh: Mesh | None) -> Any:
    """Return random weights of unit gain, each made on the devices that hold it."""

    @functools.partial(jax.jit, static_argnames=("shape", "place"))
    def draw(seed: int, shape: tuple[int, ...], place: NamedSharding | None) -> jax.Array:
        key = jax.random.key(seed, impl="rbg")
        x = jax.random.uniform(key, shape, jnp.dtype(dtype), -1, 1)
        x = (3 / shape[-1]) ** 0.5 * x if len(shape) > 1 else 1 + 0.1 * x
        return x if place is None else jax.lax.with_sharding_constraint(x, place)

    abstract = huggingface.abstract(cfg)
    leaves, tree = jax.tree.flatten(abstract)
    places = jax.tree.leaves(sharding.of_tree(abstract, mesh)) if mesh else [None] * len(leaves)
    made = [
        draw(i, leaf.shape, place)
        for i, (leaf, place) in enumerate(zip(leaves, places, strict=True))
    ]
    return tree.unflatten(made)


def of_run(run: definition.Run, engine: Engine, source: Source, peak: float) -> dict[str, Any]:
    """Measure a benchmark's passes, as many pictures each as the harness takes here.

    Args:
        run: the benchmark.
        engine: the model.
        source: what the harness knows of it.
        peak: operations per second of the fastest product.
    """
    grid = list(workload.settings(run, engine.cfg.vision.num_tokens))
    made = workload.plan(run, workload.SIZES[run.benchmark])
    images = memory.images_per_batch(made, grid, source)
    plan = dataclasses.replace(made, images_per_batch=images)
    works = passes(engine, plan, [int(k) for k in _BUDGET.value])
    sides = {name: work.run for name, work in works.items()}
    times = harness.take_turns(sides, _ROUNDS.value)
    if _TRACE.value:
        with jax.profiler.trace(f"{_TRACE.value}/{run.benchmark}"):
            harness.take_turns(sides, 0)
    found = {name: rates(work, times[name], peak) for name, work in works.items()}
    for name, entry in found.items():
        numbers = f"{1e3 * entry['seconds']['median']:>9.2f} ms{entry['tokens per second']:>10.0f}"
        print(f"{run.benchmark:<10}{name:<18}{numbers} tokens/s{entry['utilisation']:>7.1%}")
    took = minutes(run, plan, engine.cfg, found)
    return {"pictures per pass": images, "stages": found, "minutes, projected": took}


def main(_: Sequence[str]) -> None:
    """Measure, print and save."""
    cfg, mesh = MODELS[_MODEL.value](), devices.mesh(_MESH.value)
    dtype = _DTYPE.value or default_dtype(checkpoint.num_parameters(cfg))
    source = Source(pathlib.Path(), cfg, _NO_TOKENIZER, dtype, None, mesh, None, offline=True)
    engine = Engine(random(cfg, dtype, mesh), cfg, mesh)
    count = mesh.size if mesh else 1
    best = ceiling([int(side) for side in _SIDE.value], dtype, _ROUNDS.value)
    peak = count * best["FLOP/s"]
    print(f"{peak / 1e12:.4g} TFLOP/s: {count} × a {dtype} product of side {best['side']}")
    runs = definition.read("tables")
    found = {run.benchmark: of_run(run, engine, source, peak) for run in runs}
    took = sum(entry["minutes, projected"] for entry in found.values())
    print(f"Tables 1-4: {took:.3g} minutes, projected")
    kind = jax.devices()[0].device_kind
    content = {"device": kind, "devices": count, "mesh": sharding.describe(mesh)}
    content |= {"model": _MODEL.value, "dtype": dtype, "ceiling": {**best, "FLOP/s": peak}}
    content |= {"benchmarks": found, "minutes, projected": took}
    file = pathlib.Path(_OUT.value) / f"accelerator-{kind.lower().replace(' ', '-')}.json"
    atomic.write(file, {"machine": harness.machine(), **content})


if __name__ == "__main__":
    app.run(main)
