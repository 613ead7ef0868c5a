"""What was measured of the paper's study: its runs, and one number of them at a time.

Axis legend: R resamples, S settings.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

import calibration
from experiments.reporting import evaluation, runs
from experiments.reporting.documents import Cell
from experiments.reporting.paper import exchange, scores
from experiments.reporting.paper.contrasts import Contrast, interval
from experiments.reporting.paper.scores import SCORE

TEMPERATURE = "temperature"
EMBEDDED = "pocket"
"""The model that is not the paper's, as ``--model`` names it."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The runs of the study.

    Attributes:
        runs: name → run; those of generated answers are ``gamma/<benchmark>``.
    """

    runs: Mapping[str, runs.Run]

    @property
    def heading(self) -> str:
        """Which model and data it was, and whether that can be the paper's."""
        if not self.runs:
            return "nothing was run"
        first = next(iter(self.runs.values()))
        mode = f"mode {first.full.mode}"
        if first.model == EMBEDDED:
            return f"{first.source}; {mode}; the small embedded model, no result of LLaVA-1.5-7B"
        return f"{first.source}; {mode}"

    def samples(self, name: str, metric: str, **about: Any) -> np.ndarray | None:
        """Return a metric on the rows themselves and on every resample, the mean over seeds.

        Args:
            name: of the run, or of one of its splits as ``pope:random``.
            metric: its name.
            about: the setting, such as ``pruner="scope", budget=64``.

        Returns:
            float64[1+R]; None if it was not run.
        """
        run = self.run(name)
        found = run.find(**about) if run else ()
        if not run or not found:
            return None
        each = [_samples(run, setting, metric) for setting in found]
        return np.asarray(each, np.float64).mean(axis=0)

    def run(self, name: str) -> runs.Run | None:
        """Return a run, or its rows of one split: the others are taken out of every setting."""
        whole, _, split = name.partition(":")
        found = self.runs.get(whole)
        return _of_split(found, split) if found and split else found

    def cell(self, name: str, metric: str, paper: float | None = None, **about: Any) -> Cell:
        """Return a number with its interval, n and, over several seeds, standard deviation.

        Args:
            name: of the run, or of one of its splits as ``pope:random``.
            metric: its name.
            paper: what the paper has there.
            about: the setting.
        """
        samples, run = self.samples(name, metric, **about), self.run(name)
        if samples is None or run is None:
            return Cell(paper=paper)
        value, low, high = interval(samples)
        each = [float(_samples(run, setting, metric)[0]) for setting in run.find(**about)]
        return Cell(
            value=value,
            low=low,
            high=high,
            n=run.num_rows,
            images=run.num_images,
            sd=statistics.stdev(each) if len(each) > 1 else None,
            paper=paper,
        )

    def contrast(
        self, name: str, metric: str, terms: Mapping[tuple[tuple[str, Any], ...], float]
    ) -> Contrast | None:
        """Test a weighted sum of settings; None if one was not run.

        Args:
            name: of the run, or of one of its splits.
            metric: its name.
            terms: setting, as pairs of name and value → weight.
        """
        run = self.run(name)
        found = [run.find(**dict(about)) for about in terms] if run else []
        if not run or not all(found):
            return None
        settings = [setting for group in found for setting in group]
        coefficients = [
            weight / len(group)
            for group, weight in zip(found, terms.values(), strict=True)
            for _ in group
        ]
        samples = np.stack([_samples(run, setting, metric) for setting in settings], axis=1)
        value, low, high = interval(samples @ np.asarray(coefficients))
        p_value = exchange.p_value(run, settings, coefficients, metric)
        return Contrast(value, low, high, p_value)


def _samples(run: runs.Run, setting: runs.Setting, metric: str) -> np.ndarray:
    if metric == SCORE:
        return scores.samples(run, setting)
    return _temperatures(setting) if metric == TEMPERATURE else setting.samples(metric)


@functools.cache
def _of_split(run: runs.Run, split: str) -> runs.Run:
    """Return a run with the rows of one split."""
    kept = run.full.rows.split == list(run.scorer.splits).index(split)
    settings = tuple(
        dataclasses.replace(setting, rows=setting.rows.take(kept)) for setting in run.settings
    )
    return dataclasses.replace(run, settings=settings)


@functools.cache
def _temperatures(setting: runs.Setting) -> np.ndarray:
    """Return the temperature of all rows and of every resample: float[1+R]."""
    rows = setting.rows
    drawn_rows = runs.draws(int(setting.unit.max()) + 1)[:, setting.unit]
    with evaluation.on_host():
        drawn = np.asarray(_fit(rows.log_masses, rows.label, rows.valid, drawn_rows))
    name = "temperature_grid" if setting.mode == "paper" else TEMPERATURE
    value = setting.report.metrics[name].value
    return np.concatenate([np.reshape(value, 1), drawn[1:]])


@jax.jit
def _fit(log_masses: jax.Array, label: jax.Array, valid: jax.Array, draws: jax.Array) -> jax.Array:
    """Fit the temperature on every resample."""

    def temperature(weights: jax.Array) -> jax.Array:
        return calibration.fit_temperature(log_masses, label, weights, valid=valid).temperature

    return calibration.bootstrap(temperature, draws)
