"""Curves over budgets: the methods of a run, each against full tokens.

Settings share the resamples of the pictures, hence their differences are paired.

Axis legend: P points (a method at a budget), R resamples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

import calibration
from experiments.harness.errors import InputError
from experiments.reporting import runs

METRICS = ("accuracy", "ece", "nll", "overconfidence")


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
    samples: Mapping[str, np.ndarray]

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


def _interval(samples: np.ndarray) -> calibration.Interval:
    """Take the value from row 0 of float[1+R, ...], its interval from the others."""
    low, high = calibration.percentile_interval(jnp.asarray(samples[1:]))
    return calibration.Interval(jnp.asarray(samples[0]), low, high)


def of(run: runs.Run) -> Curves:
    """Put the settings of a run together to points.

    The intervals are about pictures; the seeds of a stochastic pruner are averaged inside
    each resample and not resampled themselves.

    Args:
        run: with full tokens and more.

    Returns:
        Curves; a point with one seed has the intervals of results.json.

    Raises:
        InputError: there are full tokens only.
    """
    if len(run.settings) == 1:
        where = run.path
        raise InputError(f"{where} holds full tokens only; a curve needs a pruner, --pruner=scope")
    groups = _group([setting.about for setting in run.settings])
    samples = {
        metric: np.stack(
            [np.mean([run.settings[i].samples(metric) for i in g], axis=0) for _, g in groups],
            axis=1,
        )
        for metric in METRICS
    }
    return Curves(run.heading, tuple(point for point, _ in groups), samples)


def _group(settings: Sequence[Mapping[str, Any]]) -> list[tuple[Point, list[int]]]:
    """Return the points and their settings' indices, budgets rising within a method."""
    names = [runs.method(setting, settings) for setting in settings]
    groups: dict[tuple[str, int], list[int]] = {}
    for index, (name, setting) in enumerate(zip(names, settings, strict=True)):
        groups.setdefault((name, setting["budget"]), []).append(index)
    points = []
    for (name, budget), group in groups.items():
        own = {k: v for k, v in settings[group[0]].items() if k not in runs.NOT_THE_METHOD}
        seeds = tuple(settings[index]["seed"] for index in group)
        points.append((Point(name, settings[group[0]]["pruner"], own, budget, seeds), group))
    return [points[0], *sorted(points[1:], key=lambda found: _rank(found[0]))]


def _rank(point: Point) -> tuple[Any, ...]:
    """Return what sorts points: pruner, hyper-parameters (None is no number), budget."""
    values = [(type(value).__name__, value) for value in point.hyperparameters.values()]
    return point.pruner, values, point.budget
