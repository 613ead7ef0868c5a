"""Curves over budgets: every setting of a run on the same resamples of its pictures.

Accuracy, ECE, NLL and overconfidence are sums over rows once the bins are known, so a resample
of pictures needs only what each picture adds: one matrix product serves all settings and
resamples. Settings share the resamples, hence their differences are paired.

Axis legend: E examples, G pictures, B bins, F = 3 + B features summed per picture, S settings,
P points (a method at a budget), R resamples.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import calibration
from experiments.harness import records
from experiments.harness.errors import InputError
from experiments.harness.terminal import inert
from experiments.reporting import predictions

NUM_BINS, NUM_RESAMPLES = 15, 1000
_FULL = "none"  # the pruner that keeps everything
_PRUNER = re.compile(r"\w[\w.-]*")
_NOT_THE_METHOD = ("pruner", "budget", "seed")


@dataclasses.dataclass(frozen=True)
class Point:
    """A method at one budget.

    Attributes:
        method: the pruner and those hyper-parameters in which its settings differ.
        pruner: its name.
        hyperparameters: all of them, order and positions included.
        budget: tokens kept, K.
        seeds: whose statistics are averaged; None for a pruner that has none.
    """

    method: str
    pruner: str
    hyperparameters: Mapping[str, Any]
    budget: int
    seeds: tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Curves:
    """A run's metrics over budgets.

    Attributes:
        heading: benchmark, model, data, rows and pictures, in words.
        points: full tokens first, then method by method, budgets rising.
        samples: metric → float[1+R, P]; row 0 counts every picture once, the others are the
            resamples, the same for all points.
    """

    heading: str
    points: tuple[Point, ...]
    samples: Mapping[str, jax.Array]

    def values(self, metric: str) -> calibration.Interval:
        """Return a metric with its 95 % interval: Interval of float[P]."""
        return _interval(self.samples[metric])

    def changes(self, metric: str) -> calibration.Interval:
        """Return the paired difference from full tokens: Interval of float[P]."""
        return _interval(self.samples[metric] - self.samples[metric][:, :1])

    def difference(self, metric: str, one: int, other: int) -> calibration.Interval:
        """Return the paired difference of two points, one − other: Interval of float[]."""
        return _interval(self.samples[metric][:, one] - self.samples[metric][:, other])

    def methods(self) -> dict[str, list[int]]:
        """Return method → indices of its points, full tokens left out."""
        found: dict[str, list[int]] = {}
        for index, point in enumerate(self.points[1:], 1):
            found.setdefault(point.method, []).append(index)
        return found


def _interval(samples: jax.Array) -> calibration.Interval:
    """Take the value from row 0 of float[1+R, ...], its interval from the others."""
    return calibration.Interval(samples[0], *calibration.percentile_interval(samples[1:]))


def load(out: pathlib.Path) -> Curves:
    """Read the sealed settings of a run folder and resample their pictures together.

    The intervals are about pictures; the seeds of a stochastic pruner are averaged inside
    each resample and not resampled themselves.

    Args:
        out: the run folder.

    Returns:
        Curves; a point with one seed has the intervals of results.json (mode default).

    Raises:
        InputError: no sealed setting, full tokens not among them or alone, or a setting that
            differs from them in more than the pruner, or in the questions it answers.
    """
    folders = _sealed(out)
    runs = [_read_run(folder) for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        _refuse_another_run(folder, run, folders[0], runs[0])
    sums = _sums(folders)
    pictures, rows = sums.shape[1], int(sums[0, :, 0].sum())
    found = statistics(picture_counts(pictures), sums)
    groups = _group([run["setting"] for run in runs])
    samples = {
        metric: jnp.stack([values[:, jnp.asarray(g)].mean(axis=1) for _, g in groups], axis=1)
        for metric, values in found.items()
    }
    heading = f"{_name(folders[0], runs[0])}; {rows} rows on {pictures} pictures"
    return Curves(heading, tuple(point for point, _ in groups), samples)


def _sealed(out: pathlib.Path) -> list[pathlib.Path]:
    """Return the folders of the finished settings, full tokens first."""
    folders = [file.parent for file in sorted(out.glob(f"*/{records.SEALED}"))]
    if not folders:
        raise InputError(f"{out} holds no finished setting; name the --out of a complete run")
    full = out / _FULL
    if full not in folders:
        raise InputError(f"{full} is not finished; the run's own command again completes it")
    if len(folders) == 1:
        raise InputError(f"{out} holds full tokens only; a curve needs a pruner, as --pruner=scope")
    return [full, *(folder for folder in folders if folder != full)]


def _read_run(folder: pathlib.Path) -> dict[str, Any]:
    """Return the parts of a run.json that are used here."""
    try:
        run = predictions.read_run(folder)
        found = {name: run[name] for name in ("identity", "setting")}
        _check_setting(found["setting"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{folder / records.RUN} does not describe a setting") from None
    return found


def _check_setting(setting: Mapping[str, Any]) -> None:
    """Raise ValueError if a setting is not as the harness writes it, so that it can be shown.

    Its words go into a table, a figure and a CSV file: they are printable, and a pruner's name is
    no formula.
    """
    number = type(setting["budget"]) is int and type(setting["seed"]) in (int, types.NoneType)
    words = all(f"{name}={value}".isprintable() for name, value in setting.items())
    if not (number and words and _PRUNER.fullmatch(setting["pruner"])):
        raise ValueError(f"{setting} is no setting")


def _refuse_another_run(
    folder: pathlib.Path, run: Mapping[str, Any], full: pathlib.Path, of_full: Mapping[str, Any]
) -> None:
    """Raise InputError if two settings differ in more than the setting itself."""
    one, other = run["identity"], of_full["identity"]
    names = sorted((one.keys() | other.keys()) - {"setting"})
    if different := [name for name in names if one.get(name) != other.get(name)]:
        raise InputError(f"{folder} is another run than {full}: {', '.join(different)} differ")


def _sums(folders: Sequence[pathlib.Path]) -> jax.Array:
    """Return the picture sums of settings that answer the same questions: float[S, G, F]."""
    splits = sorted({row.split for row in records.read_records(folders[0]).values()})
    found = [predictions.load(folder, splits) for folder in folders]
    for folder, rows in zip(folders[1:], found[1:], strict=True):
        if different := set(found[0].key) ^ set(rows.key):
            raise InputError(
                f"{folder} and {folders[0]} answer different questions, {len(different)} of them "
                f"are in one only, such as {min(different)}; paired differences need the same"
            )
    return jnp.stack([picture_sums(rows) for rows in found])


def picture_sums(rows: predictions.Predictions) -> jax.Array:
    """Sum over each picture's rows what the metrics are made of.

    Args:
        rows: a setting's evidence, E rows on G pictures.

    Returns:
        float[G, F]: rows, Σ aᵢ, Σ −log p_y, and Σ (cᵢ − aᵢ) in each of the B bins.
    """
    added = _features(rows.log_masses, rows.label, rows.valid)
    return jax.ops.segment_sum(added, rows.image, num_segments=int(rows.image.max()) + 1)


@jax.jit
def _features(log_masses: jax.Array, label: jax.Array, valid: jax.Array) -> jax.Array:
    """Return what each row adds to its picture: float[E, F]."""
    top = calibration.top_label(log_masses, label, valid)
    loss = -calibration.label_log_prob(log_masses, label, valid)
    bins = calibration.bin_index(top.confidence, num_bins=NUM_BINS)
    gaps = (top.confidence - top.correct)[:, None] * jax.nn.one_hot(bins, NUM_BINS)
    return jnp.column_stack([jnp.ones_like(loss), top.correct, loss, gaps])


def picture_counts(num_pictures: int) -> jax.Array:
    """Draw pictures with replacement, behind a row that counts each once: int32[1+R, G].

    The draws are those of `calibration.evaluate` with the key of results.json.
    """
    _, key = jax.random.split(jax.random.key(0))
    counts = calibration.resample_counts(key, num_pictures, NUM_RESAMPLES)
    return jnp.concatenate([jnp.ones_like(counts[:1]), counts])


def statistics(counts: jax.Array, sums: jax.Array) -> dict[str, jax.Array]:
    """Evaluate the metrics of every setting on every resample.

    With n rows, a right ones, loss l and gaps g_b of the counted pictures: accuracy a / n,
    ECE Σ_b |g_b| / n, NLL l / n, overconfidence Σ_b g_b / n.

    Args:
        counts: int[R, G].
        sums: float[S, G, F] from `picture_sums`.

    Returns:
        metric → float[R, S].
    """
    counts = counts.astype(sums.dtype)
    total = jnp.einsum("rg,sgf->rsf", counts, sums, precision=jax.lax.Precision.HIGHEST)
    n, gaps = total[..., 0], total[..., 3:]
    return {
        "accuracy": total[..., 1] / n,
        "ece": jnp.abs(gaps).sum(axis=-1) / n,
        "nll": total[..., 2] / n,
        "overconfidence": gaps.sum(axis=-1) / n,
    }


def _group(settings: Sequence[Mapping[str, Any]]) -> list[tuple[Point, list[int]]]:
    """Return the points and their settings' indices, budgets rising within a method."""
    names = [_method(setting, settings) for setting in settings]
    groups: dict[tuple[str, int], list[int]] = {}
    for index, (name, setting) in enumerate(zip(names, settings, strict=True)):
        groups.setdefault((name, setting["budget"]), []).append(index)
    points = []
    for (name, budget), group in groups.items():
        own = {k: v for k, v in settings[group[0]].items() if k not in _NOT_THE_METHOD}
        seeds = tuple(settings[index]["seed"] for index in group)
        points.append((Point(name, settings[group[0]]["pruner"], own, budget, seeds), group))
    return [points[0], *sorted(points[1:], key=lambda found: _rank(found[0]))]


def _rank(point: Point) -> tuple[Any, ...]:
    """Return what sorts points: pruner, hyper-parameters (None is no number), budget."""
    values = [(type(value).__name__, value) for value in point.hyperparameters.values()]
    return point.pruner, values, point.budget


def _method(setting: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]) -> str:
    """Name the pruner and the hyper-parameters in which its settings differ."""
    others = [other for other in settings if other["pruner"] == setting["pruner"]]
    words = [
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in setting.items()
        if name not in _NOT_THE_METHOD and any(other[name] != value for other in others)
    ]
    return " ".join([setting["pruner"], *words])


def _name(full: pathlib.Path, run: Mapping[str, Any]) -> str:
    """Say which benchmark, model and data it was; the names are in the setting's flags."""
    lines = (full / "flags.txt").read_text("utf-8", "replace").splitlines()
    flags = {name: value for name, _, value in (line.partition("=") for line in lines)}
    model, data = (pathlib.PurePath(flags.get(name, "?")).name for name in ("--model", "--data"))
    return inert(f"{run['identity']['benchmark']}: model {model}, data {data}")
