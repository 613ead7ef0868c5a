"""How the time of the engine grows: with pictures, questions per picture, kept and visual tokens.

    python -m benchmarks.growth

Random weights of the smaller sizes of ``benchmarks.models``; sides take turns. Needs the extra
``reference`` (the weights are torch's).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jax
from absl import app, flags

from benchmarks import harness, models
from benchmarks.pope import Ours

_GROWTH_ROUNDS = flags.DEFINE_integer("growth_rounds", 5, "that count", lower_bound=1)

PICTURES, QUESTIONS, KEPT = (1, 2, 4, 8, 16), (4, 8, 16, 32, 64), (32, 64, 128, 256, 576)
SIZES = ("tiny-64", "tiny-576")  # N = 64 and 576 visual tokens


def _table(name: str, sides: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    calls = {key: _wait(function) for key, function in sides.items()}
    seconds = harness.take_turns(calls, _GROWTH_ROUNDS.value)
    found = {key: harness.spread(values) for key, values in seconds.items()}
    for key, value in found.items():
        print(f"{name:<24}{key:>6}{1e3 * value['median']:>10.2f} ms", flush=True)
    return found


def _wait(function: Callable[[], Any]) -> Callable[[], None]:
    return lambda: jax.block_until_ready(function())


def _measure(ours: Ours) -> dict[str, Any]:
    """Time pictures one after the other, questions behind one prefix, and prefixes."""
    half = ours.cfg.vision.num_tokens // 2
    vision = jax.block_until_ready(ours.see(half))
    prefix = ours.prefix(vision, half)

    def pictures(count: int) -> Any:
        return [ours.answer(ours.see(half), half, 12) for _ in range(count)]

    kept = [k for k in KEPT if k < ours.cfg.vision.num_tokens]
    return {
        "pictures": _table("pictures", {str(n): lambda n=n: pictures(n) for n in PICTURES}),
        "questions": _table(
            "questions, one prefix",
            {str(q): lambda q=q: ours.questions_only(prefix, q) for q in QUESTIONS},
        ),
        "kept": _table(
            "kept, select and prefix", {str(k): lambda k=k: ours.prefix(vision, k) for k in kept}
        ),
        "encode": _table("encode one picture", {"1": lambda: ours.see(half)}),
    }


def main(_: Sequence[str]) -> None:
    """Measure, print and save."""
    jax.config.update("jax_platforms", "cpu")
    found = {}
    for size in SIZES:
        print(size)
        _, cfg, params = models.build(size, "float32", "cpu")
        found[size] = _measure(Ours(params, cfg, 1, max(QUESTIONS)))
    harness.save("growth", {"seconds": found})


if __name__ == "__main__":
    app.run(main)
