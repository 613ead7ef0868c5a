"""Differences and trends of settings. Axis legend: R resamples, S settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A weighted sum of settings, Σ wₛ mₛ.

    Attributes:
        value: on the rows themselves.
        low: end of its 95 % interval, by paired resamples of pictures.
        high: end of its 95 % interval.
        p_value: two-sided, that it is 0, by exchanging settings within pictures.
    """

    value: float
    low: float
    high: float
    p_value: float


def interval(samples: np.ndarray) -> tuple[float, float, float]:
    """Return the value and its 95 % percentile interval.

    Args:
        samples: float[1+R], on the rows themselves, then on every resample.
    """
    low, high = np.percentile(samples[1:], [2.5, 97.5])
    return float(samples[0]), float(low), float(high)


def slope_weights(x: Sequence[float]) -> np.ndarray:
    """Return the weights whose sum is the least-squares slope over x: (x − x̄) / Σ (x − x̄)².

    Args:
        x: S of them, not all equal.

    Returns:
        float64[S].

    Raises:
        ValueError: all are equal.
    """
    centred = np.asarray(x, np.float64) - np.mean(x)
    squares = float(np.sum(centred**2))
    if not squares:
        raise ValueError(f"x is {list(x)}; a slope needs two different values")
    return centred / squares


def all_hold(contrasts: Sequence[Contrast], sign: int) -> float:
    """Return the p-value of the claim that every contrast has this sign.

    Each must be shown, so the largest p-value counts, 1 where the sign is another
    (intersection-union test; Berger 1982).

    Args:
        contrasts: at least one.
        sign: 1 or −1.
    """
    return max(c.p_value if np.sign(c.value) == sign else 1.0 for c in contrasts)
