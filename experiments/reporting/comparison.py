"""Methods compared in pairs on shared resamples: differences with tests, and ranks.

Axis legend: R resamples, M methods, D differences.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

import calibration
from experiments.reporting import evaluation

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Differences:
    """Paired differences of a metric, one family of tests.

    Attributes:
        value: float[D].
        low: float[D], end of the 95 % percentile interval.
        high: float[D].
        p_value: float[D], two-sided, of no difference.
        adjusted: float[D], p_value after Holm over the D differences.
        detectable: float[D], the difference that a single test would find in 80 of 100 runs.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray
    adjusted: np.ndarray
    detectable: np.ndarray


def compare(samples: np.ndarray, pairs: Sequence[tuple[int, int]], num_units: int) -> Differences:
    """Compare methods in pairs, one − other.

    t = d / s with s² = U / (U − 1) · Var(d*) over the resamples, p by Student's t with U − 1
    degrees of freedom. A share of resamples beyond 0 would not do for p: it is no smaller than
    2 / (R + 1), and Holm multiplies it by up to D.

    Args:
        samples: float[1+R, M], a metric on the rows themselves, then on every resample.
        pairs: D of (one, other), indices of methods.
        num_units: U, pictures that were resampled.

    Returns:
        Differences; p is 1 where two methods never differ, NaN where a resample is NaN.
    """
    one, other = np.array(pairs).T
    drawn = samples[:, one].astype(float) - samples[:, other]
    error = np.std(drawn[1:], axis=0, ddof=1) * np.sqrt(num_units / max(num_units - 1, 1))
    with evaluation.on_host():
        low, high = calibration.percentile_interval(jnp.asarray(drawn[1:]), LEVEL)
        p_value = _student(drawn[0], error, num_units - 1)
        numbers = (
            *(low, high, p_value, calibration.holm(p_value)),
            calibration.minimum_detectable_difference(jnp.asarray(error), level=LEVEL),
        )
    return Differences(drawn[0], *map(np.asarray, numbers))


def _student(value: np.ndarray, error: np.ndarray, freedom: int) -> jax.Array:
    """Return the two-sided p-values of float[D] estimates with their standard errors."""
    statistic = np.where(value == 0, 0.0, np.inf)  # where no resample differs
    np.divide(value, error, out=statistic, where=error != 0)
    share = freedom / (freedom + np.square(statistic))
    return jax.scipy.special.betainc(freedom / 2, 0.5, jnp.asarray(share))


def rank(samples: np.ndarray) -> calibration.Interval:
    """Rank methods, with 95 % intervals of each one's rank.

    Method j is surely better than i if d_ji / s_ji > c_i, and c_i is the 95 % quantile of
    max_j |d*_ij − d_ij| / s_ij: all differences from i hold together. The rank of i then lies
    between 1 + those surely better and M − those surely worse (Mogstad, Romano, Shaikh and
    Wilhelm 2024). Quantiles of the resamples' own ranks would not cover it among near equals.

    Args:
        samples: float[1+R, M] of a metric of which more is better.

    Returns:
        Interval of int[M]; 1 is the best, equals share the better rank.
    """
    samples = samples.astype(float)
    gaps = samples[:, :, None] - samples[:, None, :]
    error = np.std(gaps[1:], axis=0, ddof=1)
    scale = np.where(error > 0, error, np.inf)
    critical = np.quantile(np.max(np.abs(gaps[1:] - gaps[0]) / scale, axis=2), LEVEL, axis=0)
    lead = gaps[0] / scale
    surely_better, surely_worse = (np.sum(x > critical[:, None], axis=1) for x in (-lead, lead))
    return calibration.Interval(
        1 + np.sum(gaps[0] < 0, axis=1), 1 + surely_better, len(lead) - surely_worse
    )
