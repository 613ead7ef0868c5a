"""The calibration package: time and memory of a bootstrap, its growth, and whether it is right.

    python -m benchmarks.calibration

Times 1,000 resamples of 9,000 rows for seven metrics against a loop of vectorised numpy, and the
calibration error alone against netcal and torchmetrics where they are installed. Then simulates
1,000 POPE-like data sets whose images have effects of their own: how often do 95 % intervals
cover, and how often does a paired test of two equal settings reject?
"""

from __future__ import annotations

import functools
import importlib.util
import pathlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import calibration
from benchmarks import harness
from calibration import columns

_ROUNDS = flags.DEFINE_integer("rounds", 5, "of each", lower_bound=1)
_DATA_SETS = flags.DEFINE_integer("data_sets", 1000, "simulated for coverage", lower_bound=10)
_TESTS = flags.DEFINE_integer("tests", 2000, "of equal settings simulated", lower_bound=10)
IMAGES, SPLITS, POSITIVES, NEGATIVES = 500, 3, 3, 3
ROWS = IMAGES * SPLITS * (POSITIVES + NEGATIVES)
NAMES = ("accuracy", "overconfidence", "ece", "brier", "nll", "aurc", "accuracy_at_80")
COVERED = ("accuracy", "brier", "aurc")


def simulate(key: jax.Array, num_settings: int = 1) -> tuple[jax.Array, jax.Array]:
    """Draw margins and correctness of 500 images x 18 rows, as POPE has them.

    Each image makes its questions harder or easier; its three positive questions are asked again
    in every split. Settings differ in luck alone.

    Returns:
        margin float[9000] and correct bool[num_settings, 9000].
    """
    image_key, margin_key, correct_key = jax.random.split(key, 3)
    questions = POSITIVES + SPLITS * NEGATIVES
    ease = jax.random.normal(image_key, (IMAGES, 1))
    margin = 1.55 * jax.random.gamma(margin_key, 2.2, (IMAGES, questions))
    luck = jax.random.uniform(correct_key, (num_settings, IMAGES, questions))
    right = luck < jax.nn.sigmoid(0.9 * margin + ease - 0.4)[None]
    own = np.arange(POSITIVES, questions).reshape(SPLITS, NEGATIVES)
    asked = np.concatenate([np.concatenate([np.arange(POSITIVES), split]) for split in own])
    return margin[:, asked].ravel(), right[:, :, asked].reshape(num_settings, -1)


IMAGE = np.repeat(np.arange(IMAGES), SPLITS * (POSITIVES + NEGATIVES)).astype(np.int32)


def _rows(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draw one setting: margin float[9000] and correct bool[9000]."""
    margin, correct = simulate(key)
    return margin, correct[0]


def evidence_of(margin: jax.Array, correct: jax.Array) -> columns.Evidence:
    """Sort rows once for any number of resamples."""
    log_masses = jnp.stack([margin, jnp.zeros_like(margin)], axis=1)
    label = jnp.where(correct, 0, 1)
    mass = jnp.zeros(margin.size)
    valid = jnp.ones(log_masses.shape, bool)
    return columns.take_evidence(log_masses, log_masses, label, mass, valid)


def _statistic(
    evidence: columns.Evidence, names: Sequence[str]
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Return the function of weights, in ranked order, that a resample needs."""

    def statistic(weights: jax.Array) -> dict[str, jax.Array]:
        weighted = columns.weigh(evidence, weights)
        return {name: columns.COLUMNS[name](weighted) for name in names}

    return statistic


@functools.partial(jax.jit, static_argnames=("num_resamples", "num_units"))
def resample(
    evidence: columns.Evidence,
    key: jax.Array,
    unit: jax.Array,
    *,
    num_units: int,
    num_resamples: int,
) -> dict[str, jax.Array]:
    """Draw units and evaluate the seven metrics on every resample."""
    counts = calibration.resample_counts(key, num_units, num_resamples)
    statistic, ranked = _statistic(evidence, NAMES), unit[evidence.ranking.order]
    return calibration.bootstrap(lambda drawn: statistic(drawn[ranked]), counts)


def numpy_loop(
    margin: np.ndarray, correct: np.ndarray, unit: np.ndarray, num_resamples: int
) -> np.ndarray:
    """Do the same as one would in numpy: vectorised over rows, a loop over resamples.

    Args:
        margin: float[E].
        correct: bool[E].
        unit: int[units, rows], the rows of each unit that is drawn.
        num_resamples: R.

    Returns:
        float[R, 7].
    """
    rng = np.random.default_rng(0)
    n, found = margin.size, []
    confidence = 1 / (1 + np.exp(-margin))
    edges = np.arange(16) / 15
    for _ in range(num_resamples):
        drawn = unit[rng.integers(0, len(unit), len(unit))].ravel()
        m, c, a = margin[drawn], confidence[drawn], correct[drawn]
        gap = c - a
        bins = np.clip(np.searchsorted(edges, c) - 1, 0, 14)
        wrong = np.cumsum(1 - a[np.argsort(-m)])
        risk = wrong / np.arange(1, n + 1)
        found.append(
            [
                a.mean(),
                gap.mean(),
                np.abs(np.bincount(bins, gap, 15)).sum() / n,
                np.square(gap).mean(),
                np.logaddexp(0, np.where(a, -m, m)).mean(),
                risk.mean(),
                1 - risk[int(np.ceil(0.8 * n)) - 1],
            ]
        )
    return np.array(found)


def peers(confidence: np.ndarray, correct: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Return one call of each peer's calibration error on the rows, of those installed."""
    found: dict[str, Callable[[], Any]] = {}
    if importlib.util.find_spec("netcal"):
        from netcal.metrics import ECE

        found["netcal ECE, one call"] = lambda: ECE(15).measure(confidence, correct.astype(int))
    if importlib.util.find_spec("torchmetrics"):
        import torch
        from torchmetrics.functional.classification import binary_calibration_error

        pair = torch.from_numpy(confidence), torch.from_numpy(correct.astype(int))
        found["torchmetrics ECE, one call"] = lambda: binary_calibration_error(*pair, n_bins=15)
    found["ours ECE, one call"] = lambda: jax.block_until_ready(error(confidence, correct))
    return found


error = jax.jit(calibration.expected_calibration_error)


def peak_mib(function: Callable[[], Any]) -> float:
    """Return by how much a call raises the process's resident memory at its highest."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    function()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    text = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", text)[1]) / 1024


def race(rounds: int) -> dict[str, Any]:
    """Time all sides on the same rows."""
    margin, correct = (np.array(x) for x in _rows(jax.random.key(0)))
    evidence = evidence_of(jnp.asarray(margin), jnp.asarray(correct))
    key, row = jax.random.key(1), jnp.arange(ROWS)
    run = functools.partial(resample, evidence, key, num_resamples=1000)

    def rows() -> None:
        jax.block_until_ready(run(row, num_units=ROWS))

    def images() -> None:
        jax.block_until_ready(run(jnp.asarray(IMAGE), num_units=IMAGES))

    one_by_one, by_image = np.arange(ROWS)[:, None], np.arange(ROWS).reshape(IMAGES, -1)
    sides = {
        "ours, rows": rows,
        "ours, images": images,
        "numpy, rows": lambda: numpy_loop(margin, correct, one_by_one, 1000),
        "numpy, images": lambda: numpy_loop(margin, correct, by_image, 1000),
    }
    confidence = np.array(jax.nn.sigmoid(jnp.asarray(margin)))
    seconds = harness.take_turns(sides, rounds)
    calls = harness.take_turns(peers(confidence, correct), 5 * rounds)
    return {
        "seconds": {name: harness.spread(s) for name, s in (seconds | calls).items()},
        "numpy over ours": {
            unit: harness.ratio(seconds[f"numpy, {unit}"], seconds[f"ours, {unit}"])
            for unit in ("rows", "images")
        },
        "MiB above the data": {name: round(peak_mib(sides[name]), 1) for name in sides},
    }


def growth() -> list[dict[str, Any]]:
    """Time the seven metrics over rows and resamples."""
    found = []
    for copies, num_resamples in ((1, 250), (1, 500), (1, 1000), (1, 2000), (11, 100), (111, 100)):
        drawn = [_rows(jax.random.key(k)) for k in range(copies)]
        evidence = evidence_of(*(jnp.concatenate(x) for x in zip(*drawn, strict=True)))
        num_rows = copies * ROWS
        run = functools.partial(
            resample,
            evidence,
            unit=jnp.arange(num_rows),
            num_units=num_rows,
            num_resamples=num_resamples,
        )
        jax.block_until_ready(run(jax.random.key(0)))
        begun = time.perf_counter()
        jax.block_until_ready(run(jax.random.key(1)))
        seconds = time.perf_counter() - begun
        each = 1e9 * seconds / num_rows / num_resamples
        found.append(
            {
                "rows": num_rows,
                "resamples": num_resamples,
                "seconds": round(seconds, 3),
                "ns per row and resample": round(each, 1),
            }
        )
    return found


@functools.partial(jax.jit, static_argnames=("num_resamples", "num_units"))
def _covers(
    keys: jax.Array,
    truth: Mapping[str, jax.Array],
    unit: jax.Array,
    *,
    num_units: int,
    num_resamples: int,
) -> dict[str, jax.Array]:
    """Return how often the interval of each metric holds the truth."""

    def one(key: jax.Array) -> dict[str, jax.Array]:
        data_key, draw_key = jax.random.split(key)
        evidence = evidence_of(*_rows(data_key))
        statistic, ranked = _statistic(evidence, COVERED), unit[evidence.ranking.order]
        counts = calibration.resample_counts(draw_key, num_units, num_resamples)
        samples = calibration.bootstrap(lambda drawn: statistic(drawn[ranked]), counts)
        found = {}
        for name, values in samples.items():
            low, high = calibration.percentile_interval(values)
            found[name] = (low <= truth[name]) & (truth[name] <= high)
        return found

    return jax.tree.map(jnp.mean, jax.lax.map(one, keys))


@jax.jit
def _values(keys: jax.Array) -> dict[str, jax.Array]:
    def one(key: jax.Array) -> dict[str, jax.Array]:
        return _statistic(evidence_of(*_rows(key)), COVERED)(jnp.ones(ROWS))

    return jax.tree.map(jnp.mean, jax.lax.map(one, keys))


@jax.jit
def _rejects(keys: jax.Array) -> dict[str, jax.Array]:
    """Return how often a paired test of two equal settings says that they differ."""

    def one(key: jax.Array) -> dict[str, jax.Array]:
        first, second = simulate(key, num_settings=2)[1].astype(jnp.float32)
        image = jnp.asarray(IMAGE)
        test = calibration.paired_difference_test
        return {
            "clustered by image": test(first, second, image).p_value < 0.05,
            "rows independent": test(first, second).p_value < 0.05,
        }

    return jax.tree.map(jnp.mean, jax.lax.map(one, keys))


def coverage(data_sets: int, tests: int) -> dict[str, Any]:
    """Simulate, and say how often intervals cover and tests reject."""
    truth = _values(jax.random.split(jax.random.key(2), 2000))
    keys = jax.random.split(jax.random.key(3), data_sets)
    units = {"clustered by image": (jnp.asarray(IMAGE), IMAGES), "rows": (jnp.arange(ROWS), ROWS)}
    found = {}
    for name, (unit, number) in units.items():
        shares = _covers(keys, truth, unit, num_units=number, num_resamples=400)
        found[name] = {metric: round(float(share), 3) for metric, share in shares.items()}
    rejected = _rejects(jax.random.split(jax.random.key(4), tests))
    return {
        "data sets": data_sets,
        "95 % intervals that cover": found,
        "tests": tests,
        "equal settings rejected at 5 %": {k: round(float(v), 4) for k, v in rejected.items()},
    }


def main(_: Sequence[str]) -> None:
    """Measure, print and save."""
    content = {
        "race": race(_ROUNDS.value),
        "growth": growth(),
        "simulation": coverage(_DATA_SETS.value, _TESTS.value),
    }
    for name, part in content.items():
        print(name, part, sep="\n")
    harness.save("calibration", content)


if __name__ == "__main__":
    app.run(main)
