"""The p-value of a sum of settings: they are exchanged within pictures.

Axis legend: E examples, G pictures, S settings, F sums of a benchmark's score.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import calibration
from calibration import columns
from experiments.reporting import evaluation, runs
from experiments.reporting.paper import scores

NUM_DRAWS = 999
"""The smallest p-value is one in 1,000."""
_KEY = 1


def p_value(
    run: runs.Run, settings: Sequence[runs.Setting], coefficients: Sequence[float], metric: str
) -> float:
    """Return the two-sided p-value of Σₛ cₛ mₛ = 0; see `calibration.exchange_test`.

    Args:
        run: of the settings.
        settings: S of them.
        coefficients: S of them.
        metric: a column of `calibration`, or `scores.SCORE`.
    """
    weights = tuple(coefficients)
    if metric != scores.SCORE:
        return _by_column(tuple(settings), weights)[metric]
    with evaluation.on_host():
        sums = np.stack([scores.sums(run, setting) for setting in settings])
        return float(_of_score(jnp.asarray(sums), jnp.asarray(weights), run.benchmark))


@functools.cache
def _by_column(
    settings: tuple[runs.Setting, ...], coefficients: tuple[float, ...]
) -> dict[str, float]:
    """Return the p-value of every column: one pass over the draws serves all."""
    with evaluation.on_host():
        rows, unit = _evidence(settings)
        num_units = int(unit.max()) + 1
        found = _of_columns(rows, jnp.asarray(coefficients), unit, num_units=num_units)
        return dict(zip(calibration.COLUMNS, found.tolist(), strict=True))


def _evidence(settings: Sequence[runs.Setting]) -> tuple[dict[str, Any], np.ndarray]:
    """Return the rows of all settings, one after the other, and the unit of a setting's rows."""
    rows = [setting.rows for setting in settings]
    scaled = np.concatenate([setting.scaled for setting in settings])
    fields = ("log_masses", "label", "answer_log_mass", "valid", "prediction")
    joined = {
        name: None
        if getattr(rows[0], name) is None
        else np.concatenate([getattr(r, name) for r in rows])
        for name in fields
    }
    if joined["answer_log_mass"] is None:
        joined["answer_log_mass"] = np.full(len(scaled), np.nan, np.float32)
    return joined | {"scaled": scaled}, settings[0].unit


@functools.partial(jax.jit, static_argnames="num_units")
def _of_columns(
    rows: dict[str, Any], coefficients: jax.Array, unit: jax.Array, *, num_units: int
) -> jax.Array:
    """Return float[columns]."""
    evidence = columns.take_evidence(**rows)

    def statistic(weights: jax.Array) -> jax.Array:
        return columns.evaluate_columns(evidence, weights[evidence.ranking.order])

    how = {"key": jax.random.key(_KEY), "num_draws": NUM_DRAWS}
    return calibration.exchange_test(statistic, coefficients, unit, num_units, **how)


@functools.partial(jax.jit, static_argnames="benchmark")
def _of_score(sums: jax.Array, coefficients: jax.Array, benchmark: str) -> jax.Array:
    """Return the p-value of a benchmark's score, made of sums float[S, G, F] over pictures."""
    num_pictures = sums.shape[1]
    flat = sums.reshape(-1, sums.shape[2])

    def statistic(weights: jax.Array) -> jax.Array:
        return scores.of_sums(benchmark, weights[None, :] @ flat)[0]

    how = {"key": jax.random.key(_KEY), "num_draws": NUM_DRAWS}
    pictures = jnp.arange(num_pictures)
    return calibration.exchange_test(statistic, coefficients, pictures, num_pictures, **how)
