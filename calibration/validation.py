"""What inputs must be: checks on the host that name the row, the value and what would be right.

Axis legend: E examples, C choices, L levels, M hypotheses.
"""

from __future__ import annotations

import jax
import numpy as np

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


def check_logit(logit: Array, outcome: Array, weights: Array | None = None) -> None:
    """Raise ValueError unless logit[E] is finite and outcome 0/1 or bool [E]."""
    rows = _rows("logit", logit)
    _refuse("logit", rows, ~np.isfinite(rows), "a logit is finite")
    outcomes = _rows("outcome", outcome, rows.size)
    _refuse("outcome", outcomes, (outcomes != 0) & (outcomes != 1), "it is 0 or 1")
    check_weights(weights, rows.size)


def check_probabilities(probabilities: Array, label: Array, weights: Array | None = None) -> None:
    """Raise ValueError unless each row of probabilities[E, C] lies in [0, 1] and sums to 1."""
    values = np.asarray(probabilities)
    if values.ndim != 2:
        raise ValueError(f"probabilities has shape {values.shape}; [rows, choices] needed")
    _refuse("probabilities", values, ~((values >= 0) & (values <= 1)), "one lies in [0, 1]")
    sums = values.sum(axis=1, dtype=np.float64)
    _refuse("sum of probabilities", sums, np.abs(sums - 1) > 1e-3, "a row sums to 1")
    labels = _rows("label", label, len(values))
    wrong = (labels < 0) | (labels >= values.shape[1]) | (labels != np.floor(labels))
    _refuse("label", labels, wrong, "it is the index of a choice")
    check_weights(weights, labels.size)


def check_values(values: Array, group: Array | None = None, weights: Array | None = None) -> None:
    """Raise ValueError unless values[E] are finite and groups lie in [0, E)."""
    rows = _rows("values", values)
    _refuse("values", rows, ~np.isfinite(rows), "a value is finite")
    if group is not None:
        groups = _rows("group", group, rows.size)
        bad = (groups < 0) | (groups >= rows.size) | (groups != np.floor(groups))
        _refuse("group", groups, bad, f"a group is an integer in [0, {rows.size})")
    check_weights(weights, rows.size)


def check_pair(
    first: Array, second: Array, group: Array | None = None, weights: Array | None = None
) -> None:
    """Raise ValueError unless first[E] and second[E] are finite and the rest fits."""
    rows = _rows("first", first)
    _refuse("first", rows, ~np.isfinite(rows), "a value is finite")
    others = _rows("second", second, rows.size)
    _refuse("second", others, ~np.isfinite(others), "a value is finite")
    check_values(rows, group, weights)


def check_correct_pair(first: Array, second: Array, weights: Array | None = None) -> None:
    """Raise ValueError unless first and second are 0/1 or bool [E]."""
    rows = _rows("first", first)
    check_correct(rows, rows.size)
    check_correct(second, rows.size)
    check_weights(weights, rows.size)


def check_scores(scores: Array, weights: Array | None = None) -> None:
    """Raise ValueError unless scores[E] have no NaN."""
    rows = _rows("scores", scores)
    _refuse("scores", rows, np.isnan(rows), "a score is a number or infinite")
    check_weights(weights, rows.size)


def check_losses(losses: Array, levels: Array, weights: Array | None = None) -> None:
    """Raise ValueError unless losses[E, L] are finite and levels[L] ascend."""
    values, steps = np.asarray(losses), _rows("levels", levels)
    if values.ndim != 2 or values.shape[1] != steps.size or not values.size:
        raise ValueError(f"losses has shape {values.shape}; [rows, {steps.size} levels] needed")
    _refuse("losses", values, ~np.isfinite(values), "a loss is finite")
    _refuse("levels", steps[1:], np.diff(steps) < 0, "levels ascend")
    check_weights(weights, len(values))


def check_sequence(values: Array, weights: Array) -> None:
    """Raise ValueError unless values[E] are finite and weights fit."""
    rows = _rows("values", values)
    _refuse("values", rows, ~np.isfinite(rows), "a value is finite")
    check_weights(weights, rows.size)


def check_p_values(p_values: Array) -> None:
    """Raise ValueError unless p_values[M] lie in [0, 1]."""
    rows = _rows("p_values", p_values)
    _refuse("p_values", rows, ~((rows >= 0) & (rows <= 1)), "a p-value lies in [0, 1]")


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


def check_prediction(prediction: Array | None, shape: tuple[int, ...], valid: Array | None) -> None:
    """Raise ValueError unless prediction is None or holds valid choices: int[E]."""
    if prediction is None:
        return
    rows = _rows("prediction", prediction, shape[0])
    offered = np.ones(shape, bool) if valid is None else np.asarray(valid, bool)
    inside = (rows >= 0) & (rows < shape[1]) & (rows == np.floor(rows))
    known = offered[np.arange(rows.size), np.where(inside, rows, 0).astype(int)] & inside
    _refuse("prediction", rows, ~known, "it is the index of a valid choice")


def check_answers(
    log_masses: Array,
    label: Array,
    valid: Array | None = None,
    *,
    prediction: Array | None = None,
) -> None:
    """Raise ValueError unless the choices are in order and the prediction is one of them."""
    check_choices(log_masses, label, valid=valid)
    check_prediction(prediction, np.shape(log_masses), valid)


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


def check_cross_validation(
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
