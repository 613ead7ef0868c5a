"""POPE-shaped work against transformers on the same random weights: questions per second.

    python -m benchmarks.pope --size=0.85B --dtype=float32,bfloat16 --budget=64,128,576
    python -m benchmarks.pope --size=tiny-64,tiny-576,small-576
    python -m benchmarks.pope --size=7B --dtype=float16 --device=cuda

A picture has 18 rows with 10.25 distinct questions on average, 35 tokens of text before it and 25
to 28 after it, as POPE has. transformers answers every row (timed on some of them, since each costs
the same); ours answers the distinct ones, and all 18 for the column without merging. Sides take
turns, medians of the rounds count. Needs the extra ``reference``.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's idle threads leave XLA the cores
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory too

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import app, flags

import pruning
from benchmarks import harness, models, peers
from llava_jax import costs
from llava_jax.engine import Engine

_SIZE = flags.DEFINE_list("size", ["0.85B"], f"of {', '.join(models.SIZES)}")
_DTYPE = flags.DEFINE_list("dtype", ["float32"], "of both sides")
_BUDGET = flags.DEFINE_list("budget", ["64", "128", "576"], "tokens kept; all of them: no pruner")
_DEVICE = flags.DEFINE_enum("device", "cpu", ["cpu", "cuda"], "of both sides")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "that count", lower_bound=1)
_PICTURES = flags.DEFINE_integer("pictures", 1, "of ours per pass", lower_bound=1)
_ROWS = flags.DEFINE_integer("rows", 2, "that transformers answers per round", lower_bound=1)
_NAME = flags.DEFINE_string("name", "pope", "of the file in benchmarks/results")

PROMPT, COMMON, ROWS, DISTINCT = 35, 5, 18, 10.25


class Ours:
    """Our engine with POPE-shaped questions.

    Attributes:
        pixels: float32[G, H, W, 3].
        questions: Q distinct questions, each with the common start.
    """

    def __init__(self, params: Any, cfg: Any, num_pictures: int, num_questions: int = ROWS):
        rng = np.random.default_rng(0)
        self.engine, self.cfg = Engine(params, cfg), cfg
        side = cfg.vision.image_size
        self.pixels = rng.standard_normal((num_pictures, side, side, 3), np.float32)
        self.prompt = rng.integers(4, 30000, PROMPT).astype(np.int32)
        self.common = rng.integers(4, 30000, COMMON).astype(np.int32)
        lengths = rng.integers(20, 24, num_questions)
        self.questions = [[*self.common, *rng.integers(4, 30000, n)] for n in lengths]
        self.before = self.engine.begin(self.prompt)

    def see(self, budget: int | None) -> Any:
        """Encode the pictures."""
        outputs = ("features",) if budget is None else ("features", "saliency")
        return self.engine.encode(jnp.asarray(self.pixels), outputs)

    def answer(self, vision: Any, budget: int | None, questions: int) -> jax.Array:
        """Answer the first questions about every picture; float32[G, Q, V]."""
        return self.questions_only(self.prefix(vision, budget), questions)

    def questions_only(self, prefix: Any, questions: int) -> jax.Array:
        """Answer the first questions behind prefixes that are there; float32[G, Q, V]."""
        return self.engine.answer(prefix, *self._suffixes(questions))

    def prefix(self, vision: Any, budget: int | None) -> Any:
        """Select, and prefill the prefix of every picture."""
        features = vision.require("features")
        count = len(self.pixels)
        kept = np.broadcast_to(np.arange(features.shape[1]), features.shape[:2])
        if budget is not None:
            tokens = pruning.Tokens(features=features, saliency=vision.saliency)
            keys = jax.random.split(jax.random.key(0), count)
            kept = np.sort(pruning.select(pruning.get("scope")(), tokens, budget, keys), axis=1)
        return self.engine.prefill(self.before, features, jnp.asarray(kept), self.common)

    def _suffixes(self, questions: int) -> tuple[np.ndarray, np.ndarray]:
        own = [ids[COMMON:] for ids in self.questions[:questions]]
        padded = np.zeros((len(own), 24), np.int32)
        for row, ids in zip(padded, own, strict=True):
            row[: len(ids)] = ids
        lengths = np.array([len(ids) for ids in own])
        count = len(self.pixels)
        return np.tile(padded, (count, 1, 1)), np.tile(lengths, (count, 1))

    def flops(self, budget: int | None, questions: int) -> int:
        """Count the operations of ``answer(see(budget), budget, questions)``."""
        cfg, kept = self.cfg, budget or self.cfg.vision.num_tokens
        one = costs.encode_flops(cfg.vision) + costs.project_flops(cfg, kept)
        one += costs.extend_flops(cfg.text, PROMPT, kept + COMMON)
        for ids in self.questions[:questions]:
            one += costs.answer_flops(cfg.text, PROMPT + kept + COMMON, len(ids) - COMMON)
        return len(self.pixels) * one

    def memory(self, dtype: str) -> dict[str, float]:
        """Return GiB that the largest batch took beside the weights, and what was estimated."""
        statistics = jax.devices()[0].memory_stats() or {}
        prefix = PROMPT + self.cfg.vision.num_tokens + COMMON
        shapes = costs.Batch(len(self.pixels), ROWS, prefix, 24)
        estimate = costs.peak_bytes(self.cfg, shapes, jnp.dtype(dtype).itemsize)
        found = {"estimate": estimate, "measured": statistics.get("peak_bytes_in_use", 0)}
        return {name: round(count / 2**30, 3) for name, count in found.items()}

    def alone(self, budget: int | None) -> jax.Array:
        """Answer one question about one picture, nothing shared, nothing known before."""
        before = self.engine.begin(self.prompt)
        vision = self.engine.encode(jnp.asarray(self.pixels[:1]), ("features",))
        features = vision.require("features")
        kept = np.arange(features.shape[1])[None]
        prefix = self.engine.prefill(before, features, kept)
        ids = np.array(self.questions[0])[None, None]
        return self.engine.answer(prefix, ids, np.array([[ids.size]]))


def _wait(function: Callable[[], Any]) -> Callable[[], None]:
    """Return a call that ends when the devices are done."""

    def call() -> None:
        jax.block_until_ready(function())
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return call


def compare(ours: Ours, peer: peers.Peer, budget: int | None) -> dict[str, Any]:
    """Time every side in turns; return rates and ratios."""
    vision = jax.block_until_ready(ours.see(budget))
    rows = [ours.questions[i % ROWS] for i in range(_ROWS.value)]
    picture = ours.pixels[0]
    one = peer.question if budget is None else functools.partial(peer.pruned, budget=budget)
    few = ours.questions[:10]
    sides = {
        "transformers": lambda: [one(picture, ids) for ids in rows],
        "ours": lambda: ours.answer(ours.see(budget), budget, 10),
        "ours, all 18": lambda: ours.answer(ours.see(budget), budget, ROWS),
        "ours, features known": lambda: ours.answer(vision, budget, 10),
        "same plan in torch": lambda: peer.shared(picture, few, budget),
    }
    if budget is None:
        sides["ours, one question"] = lambda: ours.alone(budget)
    times = harness.take_turns({k: _wait(f) for k, f in sides.items()}, _ROUNDS.value)
    seconds = {k: harness.spread(v) for k, v in times.items()}
    rate = ours.flops(budget, 10) / seconds["ours"]["median"] / 1e12
    return {"seconds": seconds, "TFLOP/s of ours": float(f"{rate:.4g}"), **_ratios(times)}


def _ratios(times: dict[str, list[float]]) -> dict[str, Any]:
    """Return the ratios of the table from the seconds of each side.

    A quarter of the pictures has an eleventh distinct question; its time is that of one in the
    eight which lie between 10 and 18.
    """
    theirs = [ROWS / _ROWS.value * t for t in times["transformers"]]

    def per_picture(ten: Sequence[float]) -> list[float]:
        more = [(b - a) / 8 for a, b in zip(times["ours"], times["ours, all 18"], strict=True)]
        return [(t + DISTINCT % 1 * m) / _PICTURES.value for t, m in zip(ten, more, strict=True)]

    ours, known = per_picture(times["ours"]), per_picture(times["ours, features known"])
    whole = [t / _PICTURES.value for t in times["ours, all 18"]]
    ten = [t / _PICTURES.value for t in times["ours"]]
    found = {
        "questions per second": {
            "transformers": round(ROWS / np.median(theirs), 3),
            "ours": round(ROWS / np.median(ours), 3),
        },
        "ratio": harness.ratio(theirs, ours),
        "ratio, duplicates not merged": harness.ratio(theirs, whole),
        "ratio, features known": harness.ratio(theirs, known),
        "ratio, same plan in torch": harness.ratio(times["same plan in torch"], ten),
    }
    if "ours, one question" in times:
        each = [t / _ROWS.value for t in times["transformers"]]
        found["ratio, nothing shared"] = harness.ratio(each, times["ours, one question"])
    return found


def agreement(ours: Ours, peer: peers.Peer) -> dict[str, float]:
    """Return the largest difference of answer probabilities, over a softmax of four tokens."""
    choices = np.array([11, 222, 3333, 14444])
    logits = np.asarray(ours.answer(ours.see(None), None, 12))[0]
    theirs = np.stack([peer.question(ours.pixels[0], ids) for ids in ours.questions[:12]])
    a, b = (np.asarray(jax.nn.softmax(x[:, choices], axis=-1)) for x in (logits, theirs))
    return {"answer probability, largest difference": float(np.abs(a - b).max())}


def main(_: Sequence[str]) -> None:
    """Run every size, dtype and budget asked for; print and save."""
    if _DEVICE.value == "cpu":
        jax.config.update("jax_platforms", "cpu")
    results = []
    for size in _SIZE.value:
        for dtype in _DTYPE.value:
            model, cfg, params = models.build(size, dtype, _DEVICE.value)
            ours = Ours(params, cfg, _PICTURES.value)
            peer = peers.Peer(model, ours.prompt.tolist())
            entry = {"size": size, "dtype": dtype, "pictures per pass": _PICTURES.value}
            entry |= agreement(ours, peer)
            print(entry, flush=True)
            every = cfg.vision.num_tokens
            for budget in sorted({min(int(value), every) for value in _BUDGET.value}):
                found = compare(ours, peer, None if budget == every else budget)
                results.append(entry | {"budget": budget} | found)
                ratios = {k: v for k, v in results[-1].items() if k.startswith("ratio")}
                print(size, dtype, budget, ratios, found["TFLOP/s of ours"], flush=True)
                harness.save(_NAME.value, {"results": results})
            print("memory of a batch, GiB:", ours.memory(dtype), flush=True)


if __name__ == "__main__":
    app.run(main)
