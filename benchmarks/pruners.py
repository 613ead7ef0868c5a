"""Every pruner alone: against torch from the same formulas, its growth, its share of the tower.

    python -m benchmarks.pruners
    python -m benchmarks.pruners --methods=scope,otprune --images=2 --growth=false --rounds=3

1. Tokens → picks of a batch, float32, ours through `pruning.select` and `select_inside`, torch's
   (`benchmarks.torch_pruners`) image by image, as official codes do. Sides take turns, medians of
   the rounds count, and what compiles has compiled before.
2. With N = 576, the vision tower of LLaVA-1.5 with random weights takes its turn too, from pixels
   to features and saliency: one image on a CPU, elsewhere as many as the methods have. What each
   method costs is a share of that, image by image. Greedy ones should take no more than 15 %.
3. Our growth with N (K = 64) and with K (N = 576), one image: the slope between logarithms.

Pictures are smooth with some artefacts (the recipes of tests/golden/pruners), 2880 tokens are five
of 576. Features and embeddings are both D = 1024 wide; a 7B projector's 4096 would make the
cosines of divprune, otprune, cdpruner and agilepruner four times as long. Methods inside the
decoder choose at their first cut, where all N are left, with one question an image of T = 60
tokens, 32 heads and D = 4096: 32 images of 576 take about 3 GiB. K is the nominal budget, of
which sparsevlm and pyramiddrop keep more at that cut.

torch (extra ``reference``) is left out where it is not installed or has not our device.
``--official=DIR`` times SCOPE's official selector of your own clone of kinredon/SCOPE beside: the
one function, which is run without the rest of its file, whose imports name its authors' folders.
Other official selectors are methods of patched models and cannot be called alone.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's idle threads leave XLA the cores
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # eigenvalues: see pruning/README.md, Speed
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory too

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import pruning
from benchmarks import harness
from llava_jax import config, testing
from llava_jax.engine import Engine

if importlib.util.find_spec("torch"):
    import torch

    from benchmarks import torch_pruners

METHODS = [
    name
    for stage in pruning.Stage
    for name in pruning.names()
    if (pruner := pruning.get(name)).stage is stage
    and pruner.__module__.startswith("pruning.")
    and name != "none"
]
GREEDY = ("scope", "divprune", "floc", "otprune", "cdpruner", "agilepruner", "vispruner")
LIMIT = 0.15

_CASE = flags.DEFINE_list(
    "case",
    ["32x576x192", "32x576x64", "8x2880x192"],
    "images x tokens x tokens kept",
)
_METHODS = flags.DEFINE_list("methods", METHODS, "registered names")
_IMAGES = flags.DEFINE_integer("images", None, "in place of those of every case", lower_bound=1)
_GROWTH = flags.DEFINE_boolean("growth", True, "measure growth with N and K as well")
_TOWER = flags.DEFINE_boolean("tower", True, "time the vision tower as well")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "that count", lower_bound=1)
_OFFICIAL = flags.DEFINE_string("official", None, "folder of a clone of kinredon/SCOPE")
_NAME = flags.DEFINE_string("name", "pruners", "of the file in benchmarks/results")

WIDTH, SIDE = 1024, 24
BEFORE, TEXT, HEADS, DECODER_WIDTH = 35, 60, 32, 4096

Side = Callable[[], Any]
Spreads = dict[str, Any]


@functools.cache
def recipes() -> Any:
    """Return the module of the golden inputs."""
    folder = pathlib.Path(__file__).parents[1] / "tests" / "golden" / "pruners"
    spec = importlib.util.spec_from_file_location("golden_inputs", folder / "golden_inputs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picture(seed: int, num_tokens: int) -> dict[str, np.ndarray]:
    """Return the fields of `pruning.Tokens` of one picture, float32."""
    rng, make = np.random.default_rng(seed), recipes()
    tiles = range(1000 * seed, 1000 * seed - (-num_tokens // SIDE**2))
    patches = [make.grid_features(tile, side=SIDE, dim=WIDTH) for tile in tiles]
    rows = [make.cls_attention(tile, side=SIDE).sum(0)[1:] for tile in tiles]
    features, saliency = np.concatenate(patches)[:num_tokens], np.concatenate(rows)[:num_tokens]
    hidden = np.concatenate([rng.standard_normal((1, WIDTH)), features])
    projection = rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5
    question = features[rng.integers(num_tokens)] + rng.standard_normal(WIDTH)
    likeness = features @ question / np.linalg.norm(features, axis=1)
    relevance = (likeness.max() - likeness) / np.ptp(likeness) + 1e-6
    fields = {
        "features": features,
        "embeddings": features @ projection,
        "hidden": hidden,
        "keys": hidden @ projection[:, :64],
        "saliency": saliency,
        "last_keys": hidden @ projection.T,
        "last_saliency": saliency / 16,
        "relevance": relevance,
    }
    return {name: value.astype(np.float32) for name, value in fields.items()}


def question(seed: int, num_tokens: int) -> dict[str, np.ndarray]:
    """Return the fields of `pruning.DecoderTokens` of one question before any cut, float32."""
    rng = np.random.default_rng(seed)
    visual = slice(BEFORE, BEFORE + num_tokens)
    rows = rng.standard_normal((HEADS, TEXT, visual.stop + TEXT), np.float32)
    future = np.triu(np.ones((TEXT, TEXT), bool), 1)
    rows[:, :, visual.stop :][:, future] = -np.inf
    np.exp(rows, out=rows)
    rows /= rows.sum(axis=-1, keepdims=True)
    means = rng.standard_normal((10, DECODER_WIDTH), np.float32)
    noise = rng.standard_normal((num_tokens, DECODER_WIDTH), np.float32)
    states = means[np.arange(num_tokens) * 10 // num_tokens] + 0.6 * noise
    text = rng.standard_normal((TEXT, DECODER_WIDTH), np.float32)
    return {
        **{name: states for name in ("hidden", "inputs", "keys")},
        **{name: text for name in ("text_hidden", "text_inputs", "text_keys")},
        "row": np.ascontiguousarray(rows[:, -1, visual]),
        "rows": np.ascontiguousarray(rows[:, :, visual]),
        "num_text": np.array(TEXT, np.int32),
        "final_norm": np.ones(DECODER_WIDTH, np.float32),
    }


class Batch:
    """Images of one size, for both sides.

    Attributes:
        count: images.
        num_tokens: N.
    """

    def __init__(self, count: int, num_tokens: int, names: Sequence[str]):
        self.count, self.num_tokens = count, num_tokens
        inside = {pruning.get(name).stage is pruning.Stage.DECODER for name in names}
        recipe = {True: question, False: picture}
        self._images = {
            kind: [recipe[kind](i, num_tokens) for i in range(count)] for kind in inside
        }
        self._arrays: dict[tuple[bool, str], jax.Array] = {}
        self._keys = jax.random.split(jax.random.key(0), count)

    def ours(self, name: str, budget: int) -> Side:
        """Return a call of our method on all images, and wait for it."""
        pruner = pruning.get(name)()
        needs = pruner.needs or ("saliency",)  # random: N is that of any field
        if pruner.stage is not pruning.Stage.DECODER:
            fields: dict[str, Any] = {need: self._array(False, need) for need in needs}
            if "relevance" in fields:
                fields["relevance"] = fields["relevance"][:, None]
            tokens = pruning.Tokens(**fields)
            call = functools.partial(pruning.select, pruner, tokens, budget, self._keys)
        else:
            fields = {need: self._array(True, need)[:, None] for need in needs}
            inside = dataclasses.replace(pruning.DecoderTokens(num_before=BEFORE), **fields)
            cut = pruner.cuts(budget, self.num_tokens, 32)[0]
            keys = self._keys[:, None]
            call = functools.partial(pruning.select_inside, pruner, inside, cut, keys)
        return lambda: jax.block_until_ready(call())

    def theirs(self, name: str, budget: int, device: str) -> Side:
        """Return calls of the torch function, image by image."""
        pruner, function = pruning.get(name)(), torch_pruners.METHODS[name]
        inside = pruner.stage is pruning.Stage.DECODER
        if inside:
            budget = pruner.cuts(budget, self.num_tokens, 32)[0].keep
        needs = pruner.needs or ("saliency",)
        images = [
            {need: torch.from_numpy(image[need]).to(device) for need in needs}
            for image in self._images[inside]
        ]
        return functools.partial(_one_by_one, function, images, budget)

    def official(self, function: Callable[..., Any], budget: int, device: str) -> Side:
        """Return calls of SCOPE's official selector, image by image."""
        fields = ("features", "saliency")
        images = [
            {field: torch.from_numpy(image[field])[None].to(device) for field in fields}
            for image in self._images[False]
        ]

        def choose(t: Any, budget: int) -> Any:
            return function(t["features"], budget, t["saliency"])

        return functools.partial(_one_by_one, choose, images, budget)

    def _array(self, inside: bool, field: str) -> jax.Array:
        if (inside, field) not in self._arrays:
            stacked = np.stack([image[field] for image in self._images[inside]])
            self._arrays[inside, field] = jnp.asarray(stacked)
        return self._arrays[inside, field]


def _one_by_one(function: Callable[..., Any], images: list[Any], budget: int) -> None:
    with torch.inference_mode():
        for image in images:
            function(image, budget)
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def torch_device() -> str | None:
    """Return torch's name of our device, None where it cannot be compared."""
    if not importlib.util.find_spec("torch"):
        return None
    if jax.default_backend() == "cpu":
        return "cpu"
    return "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else None


def official_scope(folder: pathlib.Path) -> Callable[..., Any]:
    """Return the function `SCOPE` of the official file, and nothing else of it."""
    file = folder / "scope" / "clip_encoder.py"
    body = ast.parse(file.read_text(encoding="utf-8")).body
    body = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "SCOPE"]
    names: dict[str, Any] = {"torch": torch, "os": os}
    exec(compile(ast.Module([*body], []), str(file), "exec"), names)
    return names["SCOPE"]


def tower() -> Engine:
    """Return LLaVA-1.5 with random weights, its vision tower before a tiny decoder."""
    text = config.TextConfig(64, 64, 1, 1, 1, 64, 64)
    cfg = dataclasses.replace(config.llava_1_5_7b(), text=text)
    return Engine(testing.random_params(cfg), cfg)


def seeing(engine: Engine, count: int) -> Side:
    """Return a call of the vision tower on some images."""
    side = engine.cfg.vision.image_size
    pixels = jax.random.normal(jax.random.key(0), (count, side, side, 3))
    return lambda: jax.block_until_ready(engine.encode(pixels, ("features", "saliency")))


def compare(case: str, names: Sequence[str], engine: Engine | None) -> dict[str, Any]:
    """Time all methods on images of one size, both sides and the tower in turns."""
    count, num_tokens, budget = map(int, case.split("x"))
    count, device = _IMAGES.value or count, torch_device()
    batch = Batch(count, num_tokens, names)
    sides: dict[str, Side] = {}
    for name in names:
        sides[f"{name}, ours"] = batch.ours(name, budget)
        if device:
            sides[f"{name}, torch"] = batch.theirs(name, budget, device)
    if device and _OFFICIAL.value and "scope" in names:
        function = official_scope(pathlib.Path(_OFFICIAL.value))
        sides["scope, official"] = batch.official(function, budget, device)
    seen = 1 if jax.default_backend() == "cpu" else count  # a CPU gains nothing from a batch
    if engine and num_tokens == SIDE**2:
        sides["tower"] = seeing(engine, seen)
    seconds = harness.take_turns(sides, _ROUNDS.value)
    rows = {name: _row(name, seconds, count) for name in names}
    result: dict[str, Any] = {"images": count, "tokens": num_tokens, "kept": budget}
    result["methods"] = rows
    if "tower" in seconds:
        result["tower"] = harness.spread([value / seen for value in seconds["tower"]])
        for row in rows.values():
            if row["stage"] != pruning.Stage.DECODER.value:
                row["share of tower"] = round(row["ours"]["median"] / result["tower"]["median"], 4)
    return result


def _row(name: str, seconds: dict[str, list[float]], count: int) -> Spreads:
    """Return one method's seconds per image, and torch's times as many as ours."""
    ours = seconds[f"{name}, ours"]
    row: Spreads = {"stage": pruning.get(name).stage.value}
    for side in ("ours", "torch", "official"):
        if (values := seconds.get(f"{name}, {side}")) is not None:
            row[side] = harness.spread([value / count for value in values])
            if side != "ours":
                row[f"ratio to {side}"] = harness.ratio(values, ours)
    return row


def growth(names: Sequence[str], settings: Sequence[tuple[int, int]], axis: int) -> dict[str, Any]:
    """Time ours on one image for several (N, K), and fit the exponent of one of the two."""
    batches = {n: Batch(1, n, names) for n, _ in settings}
    sides = {f"{name}, {n}, {k}": batches[n].ours(name, k) for n, k in settings for name in names}
    seconds = harness.take_turns(sides, _ROUNDS.value)
    sizes = np.log([setting[axis] for setting in settings])
    found = {}
    for name in names:
        spreads = [harness.spread(seconds[f"{name}, {n}, {k}"]) for n, k in settings]
        slope = np.polyfit(sizes, np.log([spread["median"] for spread in spreads]), 1)[0]
        found[name] = {"exponent": round(float(slope), 2), "seconds": spreads}
    return {"settings": settings, "methods": found}


def show_case(result: dict[str, Any]) -> None:
    """Print the table of one size."""
    shape = f"{result['images']} images, N = {result['tokens']}, K = {result['kept']}"
    print(f"\n{shape}, ms per image" + ("; tower " + _ms(result, "tower")) * ("tower" in result))
    print("| method | stage | torch | ours | ratio | share of tower | official |")
    print("|---|---|---|---|---|---|---|")
    for name, row in result["methods"].items():
        marked = f"**{name}**" if name in GREEDY else name
        ratio = f"{row['ratio to torch']['median']}x" if "torch" in row else "–"
        share = f"{row['share of tower']:.1%}" if "share of tower" in row else "–"
        times = f"{_ms(row, 'torch')} | {_ms(row, 'ours')} | {ratio}"
        print(f"| {marked} | {row['stage']} | {times} | {share} | {_ms(row, 'official')} |")


def _ms(row: Spreads, name: str) -> str:
    return f"{1e3 * row[name]['median']:.3g}" if name in row else "–"


def verdict(results: Sequence[dict[str, Any]]) -> str:
    """Say whether every greedy method stays below the limit at each size beside the tower."""
    shares = {
        f"{name} (K = {result['kept']})": result["methods"][name]["share of tower"]
        for result in results
        if "tower" in result
        for name in GREEDY
        if name in result["methods"]
    }
    if not shares:
        return "no greedy method was timed beside the tower"
    above = {name: share for name, share in shares.items() if share > LIMIT}
    most = max(shares, key=lambda name: shares[name])
    if not above:
        return f"all greedy methods ≤ {LIMIT:.0%} of the tower; most: {most}, {shares[most]:.1%}"
    listed = ", ".join(f"{name} {share:.1%}" for name, share in above.items())
    return f"above {LIMIT:.0%} of the tower: {listed}"


def show_growth(title: str, result: dict[str, Any]) -> None:
    """Print how the time of every method grows."""
    heads = " | ".join(f"{n}, {k}" for n, k in result["settings"])
    print(f"\nGrowth with {title}, one image, ms\n| N, K | {heads} | exponent |")
    print("|---" * (2 + len(result["settings"])) + "|")
    for name, row in result["methods"].items():
        times = " | ".join(f"{1e3 * spread['median']:.3g}" for spread in row["seconds"])
        print(f"| {name} | {times} | {row['exponent']} |")


def main(_: Sequence[str]) -> None:
    """Measure, print and save."""
    names = _METHODS.value
    if unknown := [name for name in names if name not in METHODS]:
        raise app.UsageError(f"no methods {unknown}; known: {', '.join(METHODS)}")
    if not (device := torch_device()):
        print(f"torch is not compared: not installed, or not on this {jax.default_backend()}")
    engine = tower() if _TOWER.value else None
    results: dict[str, Any] = {"rounds": _ROUNDS.value, "torch device": device, "cases": []}
    for case in _CASE.value:
        results["cases"].append(compare(case, names, engine))
        show_case(results["cases"][-1])
    results["verdict"] = verdict(results["cases"])
    print("\n" + results["verdict"])
    if _GROWTH.value:
        in_tokens = [(n, 64) for n in (288, 576, 1152, 2304)]
        in_kept = [(576, k) for k in (32, 64, 128, 256)]
        results["growth_in_tokens"] = growth(names, in_tokens, 0)
        results["growth_in_kept"] = growth(names, in_kept, 1)
        show_growth("N", results["growth_in_tokens"])
        show_growth("K", results["growth_in_kept"])
    print(harness.save(_NAME.value, results))


if __name__ == "__main__":
    app.run(main)
