"""Thresholds whose error rate is at most a target, with high probability: learn, then test.

The rows of a picture depend on each other, so the picture is the unit. The error rate is that of
rows, E[errors of a picture] / E[rows of a picture], that is 1 − accuracy.

Axis legend: T thresholds, G pictures.
"""

from __future__ import annotations

import dataclasses

import numpy as np


def betting_p_value(
    errors: np.ndarray, rows: np.ndarray, *, risk: float, delta: float = 0.05
) -> np.ndarray:
    """Test whether the error rate is at least r, by betting that it is less.

    Xᵢ = r + (errorsᵢ − r rowsᵢ) / max rows lies in [0, 1] and has a mean of at least r if the
    error rate is at least r. The capital Π (1 + bᵢ (r − Xᵢ)) then grows by luck only:
    p = 1 / max over i, with bᵢ = min(1, √(2 log(1/δ) / (G σ²ᵢ₋₁))) from the pictures before i
    (Waudby-Smith and Ramdas 2024; Bates et al. 2021). It uses how alike the pictures are, which
    Hoeffding's and Bentkus's bounds cannot.

    Args:
        errors: float[..., G], wrong rows of each picture, in an order that does not depend on
            them.
        rows: float[G], all rows of each.
        risk: r, in (0, 1).
        delta: level that the bets are made for; p is valid at any.

    Returns:
        float[...]: P(p ≤ u) ≤ u if the error rate is at least r.
    """
    values = risk + (errors - risk * rows) / np.max(rows)
    number = np.arange(1, len(rows) + 1)
    mean = (0.5 + np.cumsum(values, axis=-1)) / (number + 1)
    variance = (0.25 + np.cumsum(np.square(values - mean), axis=-1)) / (number + 1)
    before = np.concatenate([np.full_like(variance[..., :1], 0.25), variance[..., :-1]], axis=-1)
    bet = np.minimum(1, np.sqrt(2 * np.log(1 / delta) / (len(rows) * before)))
    capital = np.cumsum(np.log1p(bet * (risk - values)), axis=-1)
    return np.minimum(1, np.exp(-np.max(capital, axis=-1)))


def last_certain(
    errors: np.ndarray, rows: np.ndarray, *, risk: float, delta: float = 0.05
) -> int | None:
    """Choose the last of a fixed sequence of thresholds before the first that may be too risky.

    Each is tested at the whole δ; testing ends where one fails, so that the chance of choosing
    one whose error rate is above r is at most δ (Angelopoulos et al. 2022, fixed sequence).

    Args:
        errors: float[T, G], the safest threshold first.
        rows: float[G].
        risk: r, in (0, 1).
        delta: δ, in (0, 1).

    Returns:
        Index of the threshold, None if the first is not certain.
    """
    passed = betting_p_value(errors, rows, risk=risk, delta=delta) <= delta
    count = len(passed) if np.all(passed) else int(np.argmin(passed))
    return count - 1 if count else None


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A threshold for a target, and those that the same rule chooses without each fold.

    Attributes:
        index: chosen on all pictures, None if none is certain.
        folds: F, chosen without each fold.
    """

    index: int | None
    folds: tuple[int | None, ...]


def cross_validated(
    errors: np.ndarray, rows: np.ndarray, fold: np.ndarray, *, risk: float, delta: float = 0.05
) -> Chosen:
    """Choose a threshold on all pictures, and without each fold.

    Args:
        errors: float[T, G], the safest threshold first.
        rows: float[G].
        fold: int[G] in [0, F).
        risk: r, in (0, 1).
        delta: δ, in (0, 1).

    Returns:
        Chosen.
    """
    own = tuple(
        last_certain(errors[:, fold != f], rows[fold != f], risk=risk, delta=delta)
        for f in range(fold.max() + 1)
    )
    return Chosen(last_certain(errors, rows, risk=risk, delta=delta), own)
