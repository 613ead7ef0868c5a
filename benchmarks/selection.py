"""SCOPE's selection alone: against the formula in torch, and against submodular libraries.

    python -m benchmarks.selection
    python -m benchmarks.selection --case=1x576x128,32x576x128 --growth=false --rounds=9

1. From features to picks, cosines included, float32, against a plain torch program of the same
   formula that recomputes all gains for every pick, a batch at once.
2. Picks from given cosines, against the lazy facility location of submodlib and apricot. They are
   timed if they are installed: ``pip install submodlib-py apricot-select`` (as of 0.0.3, 0.6.1).
3. How our time grows with N and with K, beside the dense form.

Features are clustered, D = 1024, saliency is Dirichlet. Sides take turns, medians of the rounds
count. Orders are replayed in float64: `regret` is how far a pick is below the best at its step,
relative to it, and `ties` counts the steps where another token was as good up to 2e-6.
Needs the extra ``reference``. On two busy cores about five minutes.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's idle threads leave XLA the cores

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import app, flags

import pruning
from benchmarks import harness
from pruning import _greedy
from pruning._ops import cosine_similarity

_CASE = flags.DEFINE_list(
    "case",
    ["1x576x64", "1x576x128", "1x576x192", "1x2880x320", "32x576x128"],
    "images x tokens x tokens kept",
)
_GIVEN = flags.DEFINE_list("given", ["576x128", "2880x320"], "tokens x tokens kept, from cosines")
_GROWTH = flags.DEFINE_boolean("growth", True, "measure growth with N and K as well")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "that count", lower_bound=1)
_NAME = flags.DEFINE_string("name", "selection", "of the file in benchmarks/results")

WIDTH = 1024
SCORE = _greedy.Score(gamma=1.0, combine="multiply", dtype="float32")


def image(num_tokens: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return clustered features float32[N, D] and saliency float32[N] that adds up to 1."""
    rng = np.random.default_rng(seed)
    centres = 0.8 * rng.normal(size=WIDTH) + rng.normal(size=(40, WIDTH))
    noise = 0.7 * rng.normal(size=(num_tokens, WIDTH))
    saliency = rng.dirichlet(np.full(num_tokens, 0.5))
    features = centres[rng.integers(0, len(centres), num_tokens)] + noise
    return features.astype(np.float32), saliency.astype(np.float32)


@torch.inference_mode()
def torch_scope(features: torch.Tensor, saliency: torch.Tensor, budget: int) -> torch.Tensor:
    """Return int64[B, K], the formula of `pruning.scope` with α = γ = 1 as it stands."""
    unit = features / features.norm(dim=-1, keepdim=True)
    similarity = unit @ unit.transpose(-1, -2)
    coverage = torch.zeros_like(saliency)
    taken = torch.zeros_like(saliency, dtype=torch.bool)
    images = torch.arange(len(features))
    picks = []
    for _ in range(budget):
        gain = torch.clamp(similarity - coverage.unsqueeze(-1), min=0).sum(dim=-2)
        score = (gain * saliency).masked_fill(taken, -torch.inf)
        best = score.argmax(dim=-1)
        picks.append(best)
        taken[images, best] = True
        coverage = torch.maximum(coverage, similarity[images, best])
    return torch.stack(picks, dim=1)


def replay(features: np.ndarray, saliency: np.ndarray, order: np.ndarray) -> tuple[float, int]:
    """Return the largest regret of an order and the number of its ties, in float64."""
    unit = features.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    similarity = unit @ unit.T
    coverage, free = np.zeros(len(unit)), np.ones(len(unit), bool)
    gain = np.maximum(similarity, 0).sum(axis=0)
    regret, ties = 0.0, 0
    for pick in order:
        score = np.where(free, gain * saliency, -np.inf)
        regret = max(regret, (score.max() - score[pick]) / score.max())
        free[pick] = False
        ties += bool((score[free] >= score[pick] * (1 - 2e-6)).any())
        (risen,) = np.nonzero(similarity[pick] > coverage)
        rows, before = similarity[risen], coverage[risen, None]
        coverage[risen] = similarity[pick, risen]
        after = coverage[risen, None]
        gain -= (np.maximum(rows - before, 0) - np.maximum(rows - after, 0)).sum(axis=0)
    return regret, ties


def agreement(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Compare orders int[B, K]: equal at the same step, and equal as sets."""
    common = [len(set(a) & set(b)) for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)]
    return {
        "same_order": round(float((ours == theirs).mean()), 4),
        "same_set": round(sum(common) / ours.size, 4),
    }


def from_features(num_images: int, num_tokens: int, budget: int) -> dict[str, Any]:
    """Time features → picks of a batch, ours and torch's."""
    images = [image(num_tokens, seed) for seed in range(num_images)]
    features, saliency = (np.stack(part) for part in zip(*images, strict=True))
    tokens = pruning.Tokens(features=jnp.asarray(features), saliency=jnp.asarray(saliency))
    keys = jax.random.split(jax.random.key(0), num_images)
    tensors = torch.tensor(features), torch.tensor(saliency)
    orders = {}

    def ours():
        picks = pruning.select(pruning.Scope(), tokens, budget, keys)
        orders["ours"] = np.asarray(picks)

    def theirs():
        orders["torch"] = torch_scope(*tensors, budget).numpy()

    seconds = harness.take_turns({"ours": ours, "torch": theirs}, _ROUNDS.value)
    replays = [replay(*images[i], orders["ours"][i]) for i in range(min(num_images, 4))]
    return {
        "images": num_images,
        "tokens": num_tokens,
        "kept": budget,
        **{name: harness.spread(values) for name, values in seconds.items()},
        "ratio": harness.ratio(seconds["torch"], seconds["ours"]),
        **agreement(orders["ours"], orders["torch"]),
        "regret": float(f"{max(regret for regret, _ in replays):.1e}"),
        "ties": sum(ties for _, ties in replays),
        "load": round(os.getloadavg()[0], 2),
    }


def from_cosines(num_tokens: int, budget: int) -> dict[str, Any]:
    """Time cosines → picks of pure coverage, ours and the libraries'."""
    features, _ = image(num_tokens, seed=0)
    similarity = jnp.maximum(jax.jit(cosine_similarity)(features), 0)
    weight = jnp.ones(num_tokens)
    orders: dict[str, Any] = {}
    sides: dict[str, Callable[[], Any]] = {}
    for name in ("ours", "dense"):
        form = {"ours": _greedy.maximise, "dense": _greedy.dense}[name]
        run = jax.jit(functools.partial(form, SCORE, budget=budget))

        def side(name=name, run=run):
            orders[name] = np.asarray(run(similarity, weight))

        sides[name] = side
    for name, library in LIBRARIES.items():
        if importlib.util.find_spec(name):
            sides[name] = library(np.asarray(similarity, np.float64), budget, orders)
    seconds = harness.take_turns(sides, _ROUNDS.value)
    rows: dict[str, Any] = {"tokens": num_tokens, "kept": budget}
    for name, values in seconds.items():
        rows[name] = harness.spread(values)
        if name != "ours":
            rows[name]["ratio"] = harness.ratio(values, seconds["ours"])
            rows[name] |= agreement(orders["ours"][None], np.asarray(orders[name])[None])
    return rows | {"load": round(os.getloadavg()[0], 2)}


def submodlib_side(similarity: np.ndarray, budget: int, orders: dict) -> Callable[[], None]:
    """Return a call of submodlib's C++ lazy greedy; its objects are built beforehand."""
    import submodlib

    def build():
        return submodlib.FacilityLocationFunction(
            n=len(similarity), mode="dense", sijs=similarity, separate_rep=False
        )

    built = [build() for _ in range(_ROUNDS.value + 1)]

    def run():
        picks = built.pop().maximize(
            budget=budget,
            optimizer="LazyGreedy",
            stopIfZeroGain=False,
            stopIfNegativeGain=False,
            verbose=False,
            show_progress=False,
        )
        orders["submodlib"] = [pick for pick, _ in picks]

    return run


def apricot_side(similarity: np.ndarray, budget: int, orders: dict) -> Callable[[], None]:
    """Return a call of apricot's lazy greedy."""
    import apricot

    def run():
        selection = apricot.FacilityLocationSelection(
            budget, metric="precomputed", optimizer="lazy"
        )
        orders["apricot"] = selection.fit(similarity).ranking

    return run


LIBRARIES = {"submodlib": submodlib_side, "apricot": apricot_side}


def growth(settings: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Time our two forms from given cosines, and the cosines, for several (N, K)."""
    rows = []
    cosines = jax.jit(cosine_similarity)
    for num_tokens, budget in settings:
        features, saliency = map(jnp.asarray, image(num_tokens, seed=0))
        similarity = cosines(features)
        sides: dict[str, Callable[[], Any]] = {
            "cosines": lambda f=features: cosines(f).block_until_ready()
        }
        for form in (_greedy.lazy, _greedy.dense):
            if form is _greedy.dense and num_tokens > 1152:  # seconds and more
                continue
            run = jax.jit(functools.partial(form, SCORE, budget=budget))
            sides[form.__name__] = lambda run=run, s=similarity, w=saliency: run(
                s, w
            ).block_until_ready()
        seconds = harness.take_turns(sides, _ROUNDS.value)
        spreads = {name: harness.spread(values) for name, values in seconds.items()}
        rows.append({"tokens": num_tokens, "kept": budget, **spreads})
    return rows


def milliseconds(row: dict[str, Any], name: str) -> str:
    """Return the median of one side, or nothing where it was not timed."""
    return f"{1e3 * row[name]['median']:.4g}" if name in row else "–"


def show(results: dict[str, Any]) -> None:
    """Print the tables."""
    print("| images, tokens, kept | torch ms | ours ms | ratio | same order | regret | ties |")
    print("|---|---|---|---|---|---|---|")
    for row in results["from_features"]:
        shape = f"{row['images']}, {row['tokens']}, {row['kept']}"
        times = f"{milliseconds(row, 'torch')} | {milliseconds(row, 'ours')}"
        same = f"{row['same_order']} | {row['regret']} | {row['ties']}"
        print(f"| {shape} | {times} | {row['ratio']['median']}x | {same} |")
    for row in results["from_cosines"]:
        print(f"\nN = {row['tokens']}, K = {row['kept']}: ours {milliseconds(row, 'ours')} ms")
        for name in ("dense", *LIBRARIES):
            if name in row:
                side = row[name]
                factor = f"{side['ratio']['median']}x, same set {side['same_set']}"
                print(f"  {name} {milliseconds(row, name)} ms, {factor}")
    for title in ("growth_in_tokens", "growth_in_kept"):
        for row in results.get(title, ()):
            times = [f"{name} {milliseconds(row, name)}" for name in ("cosines", "lazy", "dense")]
            print(f"N = {row['tokens']}, K = {row['kept']}: {', '.join(times)} ms")


def main(_: list[str]) -> None:
    """Measure, print and save."""
    libraries = {"submodlib": "submodlib-py", "apricot": "apricot-select"}
    present = [name for name in LIBRARIES if importlib.util.find_spec(name)]
    results: dict[str, Any] = {
        "rounds": _ROUNDS.value,
        "peers": {libraries[name]: importlib.metadata.version(libraries[name]) for name in present},
        "from_features": [from_features(*map(int, case.split("x"))) for case in _CASE.value],
        "from_cosines": [from_cosines(*map(int, case.split("x"))) for case in _GIVEN.value],
    }
    if _GROWTH.value:
        sizes = [144, 576, 1152, 2880, 5760]
        results["growth_in_tokens"] = growth([(size, 64) for size in sizes])
        results["growth_in_kept"] = growth([(576, kept) for kept in (32, 64, 128, 192, 320, 576)])
    show(results)
    print(harness.save(_NAME.value, results))


if __name__ == "__main__":
    app.run(main)
