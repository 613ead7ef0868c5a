"""The metrics with their inputs checked on the host, before anything is computed.

Same names and signatures as the pure functions, for calls outside `jax.jit`. A wrong
input raises ValueError that names the row, the value and what would be right.

Axis legend: E examples, C choices.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import numpy as np

from . import binning, confidence, metrics, scaling, selective

P = ParamSpec("P")
T = TypeVar("T")
Array = jax.typing.ArrayLike


def _refuse(name: str, values: np.ndarray, bad: np.ndarray, right: str) -> None:
    """Raise ValueError that names the first bad entry, if there is one."""
    if bad.any():
        where = tuple(int(axis[0]) for axis in np.nonzero(bad))
        index = ", ".join(map(str, where))
        raise ValueError(f"{name}[{index}] is {values[where]}; {right}")


def _rows(name: str, values: Array, num_rows: int | None = None) -> np.ndarray:
    """Return the values as an array[E], E ≥ 1 and as expected."""
    rows = np.asarray(values)
    if rows.ndim != 1:
        raise ValueError(f"{name} has shape {rows.shape}; one value per row is needed")
    if rows.size == 0:
        raise ValueError(f"{name} is empty; at least one row is needed")
    if num_rows is not None and rows.size != num_rows:
        raise ValueError(f"{name} has {rows.size} rows; the others have {num_rows}")
    return rows


def check_weights(weights: Array | None, num_rows: int) -> None:
    """Raise ValueError unless weights are None or finite, ≥ 0 and not all 0: [E]."""
    if weights is None:
        return
    rows = _rows("weights", weights, num_rows)
    bad = ~(np.isfinite(rows) & (rows >= 0))
    _refuse("weights", rows, bad, "a weight is finite and at least 0")
    if not rows.any():
        raise ValueError("weights are all 0; at least one row must count")


def check_correct(correct: Array, num_rows: int) -> None:
    """Raise ValueError unless correct is a 0/1 or bool [E]."""
    rows = _rows("correct", correct, num_rows)
    _refuse("correct", rows, (rows != 0) & (rows != 1), "it is 0 or 1")


def check_confidence(confidence: Array, correct: Array, weights: Array | None = None) -> None:
    """Raise ValueError unless confidence[E] lies in [0, 1] and the rest fits."""
    rows = _rows("confidence", confidence)
    bad = ~((rows >= 0) & (rows <= 1))
    _refuse("confidence", rows, bad, "a confidence lies in [0, 1]")
    check_correct(correct, rows.size)
    check_weights(weights, rows.size)


def check_margin(margin: Array, correct: Array, weights: Array | None = None) -> None:
    """Raise ValueError unless margin[E] has no NaN and the rest fits."""
    rows = _rows("margin", margin)
    _refuse("margin", rows, np.isnan(rows), "a margin is a number or infinite")
    check_correct(correct, rows.size)
    check_weights(weights, rows.size)


def check_choices(
    log_masses: Array,
    label: Array,
    weights: Array | None = None,
    *,
    valid: Array | None = None,
    any_label: bool = False,
) -> None:
    """Raise ValueError unless valid choices are finite and labels valid choices.

    Args:
        log_masses: float[E, C].
        label: int[E].
        weights: float or int[E], or None.
        valid: bool[E, C], or None.
        any_label: admit labels ≥ 0 that are not a valid choice.

    Raises:
        ValueError: as said.
    """
    scores = np.asarray(log_masses)
    if scores.ndim != 2:
        raise ValueError(f"log_masses has shape {scores.shape}; [rows, choices] needed")
    offered = np.ones(scores.shape, bool) if valid is None else np.asarray(valid, bool)
    if offered.shape != scores.shape:
        raise ValueError(f"valid has shape {offered.shape}; log_masses {scores.shape}")
    labels = _rows("label", label, len(scores))
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"label has dtype {labels.dtype}; it is the choice's index")
    bad = ~np.isfinite(scores) & offered
    _refuse("log_masses", scores, bad, "a valid choice's log mass is finite")
    none = ~np.any(offered, axis=1, keepdims=True)
    _refuse("valid", offered, none & ~offered, "a row needs a valid choice")
    inside = (labels >= 0) & (labels < scores.shape[1])
    reachable = offered[np.arange(labels.size), np.where(inside, labels, 0)] & inside
    wrong = labels < 0 if any_label else ~reachable
    _refuse("label", labels, wrong, "it is the index of a valid choice")
    check_weights(weights, labels.size)


def check_fold(fold: Array, num_folds: int, num_rows: int) -> None:
    """Raise ValueError unless fold is an int[E] in [0, num_folds)."""
    rows = _rows("fold", fold, num_rows)
    bad = (rows < 0) | (rows >= num_folds) | (rows != np.floor(rows))
    _refuse("fold", rows, bad, f"a fold is an integer in [0, {num_folds})")


def check_log_mass(answer_log_mass: Array, num_rows: int) -> None:
    """Raise ValueError unless answer_log_mass[E] is finite and at most 0."""
    rows = _rows("answer_log_mass", answer_log_mass, num_rows)
    bad = ~(np.isfinite(rows) & (rows <= 0))
    _refuse("answer_log_mass", rows, bad, "a log mass is finite and at most 0")


def check_split(split: Array | None, num_splits: int, num_rows: int) -> None:
    """Raise ValueError unless split is an int[E] in [0, num_splits), or both absent."""
    if split is None:
        if num_splits:
            raise ValueError(f"num_splits is {num_splits} and split None; give both")
        return
    rows = _rows("split", split, num_rows)
    bad = (rows < 0) | (rows >= num_splits) | (rows != np.floor(rows))
    _refuse("split", rows, bad, f"a split is an integer in [0, {num_splits})")


def check_group(group: Array | None, num_rows: int) -> None:
    """Raise ValueError unless group is None or an int[E] ≥ 0."""
    if group is None:
        return
    rows = _rows("group", group, num_rows)
    bad = (rows < 0) | (rows != np.floor(rows))
    _refuse("group", rows, bad, "a group is an integer of at least 0")


def _guard(check: Callable[..., None], function: Callable[P, T]) -> Callable[P, T]:
    """Run a check on those arguments of a function that it names, then the function."""
    signature = inspect.signature(function)
    names = inspect.signature(check).parameters

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        bound = signature.bind(*args, **kwargs)
        check(**{k: v for k, v in bound.arguments.items() if k in names})
        return function(*args, **kwargs)

    return guarded


def _check_cross_validation(
    log_masses: Array,
    label: Array,
    fold: Array,
    weights: Array | None = None,
    *,
    valid: Array | None = None,
    num_folds: int = 5,
) -> None:
    """Raise ValueError unless the rows and their folds are in order."""
    check_choices(log_masses, label, weights, valid=valid)
    check_fold(fold, num_folds, len(np.asarray(label)))


accuracy = _guard(check_confidence, metrics.accuracy)
mean_confidence = _guard(check_confidence, metrics.mean_confidence)
overconfidence = _guard(check_confidence, metrics.overconfidence)
brier_score = _guard(check_confidence, metrics.brier_score)
bin_stats = _guard(check_confidence, binning.bin_stats)
expected_calibration_error = _guard(check_confidence, metrics.expected_calibration_error)
average_calibration_error = _guard(check_confidence, metrics.average_calibration_error)
aurc = _guard(check_margin, selective.aurc)
selective_accuracy = _guard(check_margin, selective.selective_accuracy)
risk_coverage_curve = _guard(check_margin, selective.risk_coverage_curve)
top_label = _guard(check_choices, confidence.top_label)
negative_log_likelihood = _guard(check_choices, metrics.negative_log_likelihood)
fit_temperature = _guard(check_choices, scaling.fit_temperature)
temperature_grid = _guard(check_choices, scaling.temperature_grid)
cross_validated_temperature = _guard(_check_cross_validation, scaling.cross_validated_temperature)
