"""Every column of the tables, pooled and per split, with its interval, in one program.

The only place of the package that calls `jax.jit`.

Axis legend: E examples, C choices, S splits, F folds, B bins, R resamples.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from . import folds, resampling, scaling, validation
from .binning import BinStats, bin_stats
from .columns import COLUMNS, VALUE_ONLY, Evidence, evaluate_columns, take_evidence
from .intervals import percentile_interval
from .smooth import smooth_calibration_error

Array = jax.typing.ArrayLike
Mode = Literal["default", "paper"]
NUM_FOLDS = 5  # SCOPE §4.6
PAPER_COLUMNS = (
    *("accuracy", "overconfidence", "ece", "brier", "nll", "aurc", "temperature_grid"),
    *("cross_validated_ece", "accuracy_at_80"),
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Interval:
    """A value with its 95 % percentile interval, of equal shapes.

    Attributes:
        value: float[...], on all rows.
        low: float[...], NaN for a column without an interval.
        high: float[...], NaN for a column without an interval.
    """

    value: jax.Array
    low: jax.Array
    high: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Report:
    """What the tables print of one setting.

    Attributes:
        metrics: column name → Interval of float[], over all rows.
        splits: column name → Interval of float[S], per split.
        bins: BinStats of all rows, data of the reliability diagram.
        split_bins: BinStats of each split, a leading axis S.
        fit: TemperatureFit of all rows; says whether T is at a bound.
        fold_temperatures: float[F], of the cross-validation.
        samples: column name → float[1+R], each column but `VALUE_ONLY` over all rows: on the rows
            themselves, then on every resample. Two settings of the same rows that share key,
            groups and mode were resampled alike: the difference of their samples is paired.
    """

    metrics: dict[str, Interval]
    splits: dict[str, Interval]
    bins: BinStats
    split_bins: BinStats
    fit: scaling.TemperatureFit
    fold_temperatures: jax.Array
    samples: dict[str, jax.Array]

    def to_dict(self, splits: Sequence[str] = ()) -> dict[str, Any]:
        """Return the report as JSON has it, None where there is no number.

        Args:
            splits: names of the S splits; those without a row are left out.

        Returns:
            {"metrics": {name: {"value", "low", "high"}}, "splits": {split: {"n", name: …}},
            "bins": {"edges", "count", "confidence", "accuracy"}, "split_bins": {split: …},
            "fold_temperatures": […]}.

        Raises:
            ValueError: if the number of names is not S.
        """
        host = jax.tree.map(np.asarray, self)
        counts = host.split_bins.count.sum(axis=1)
        if len(splits) != len(counts):
            raise ValueError(f"{len(splits)} names of splits; the report has {len(counts)}")
        filled = [(i, name) for i, name in enumerate(splits) if counts[i]]
        return {
            "metrics": {name: _numbers(found, ...) for name, found in host.metrics.items()},
            "splits": {
                split: {"n": int(counts[i])}
                | {name: _numbers(found, i) for name, found in host.splits.items()}
                for i, split in filled
            },
            "bins": _diagram(host.bins, ...),
            "split_bins": {split: _diagram(host.split_bins, i) for i, split in filled},
            "fold_temperatures": [_number(x) for x in host.fold_temperatures],
        }

    def to_json(self, splits: Sequence[str] = ()) -> str:
        """Return `to_dict` as JSON."""
        return json.dumps(self.to_dict(splits), allow_nan=False)

    def table_row(self) -> dict[str, float]:
        """Return the columns of SCOPE's Table 1: metric name → value."""
        return {name: float(self.metrics[name].value) for name in PAPER_COLUMNS}


def _numbers(found: Interval, place: Any) -> dict[str, float | None]:
    """Return {"value", "low", "high"} of one place of a column."""
    return {name: _number(value[place]) for name, value in vars(found).items()}


def _number(value: Any) -> float | None:
    """Return a float, None where it is not finite."""
    return float(value) if np.isfinite(value) else None


def _diagram(stats: BinStats, place: Any) -> dict[str, list[float]]:
    """Return a reliability diagram's numbers."""
    names = ("edges", "count", "confidence", "accuracy")
    return {name: getattr(stats, name)[place].tolist() for name in names}


def evaluate(
    log_masses: Array,
    label: Array,
    answer_log_mass: Array | None = None,
    *,
    prediction: Array | None = None,
    valid: Array | None = None,
    group: Array | None = None,
    split: Array | None = None,
    num_splits: int = 0,
    key: jax.Array,
    num_resamples: int = 1000,
    mode: Mode = "default",
) -> Report:
    """Compute every column of one setting, compiled once per shape.

    mode="default" resamples and deals to folds whole groups (images); mode="paper"
    single rows, and admits a label that is not a valid choice (always A–D): the row
    counts as wrong and its NLL is infinite. Splits are resampled jointly. The interval
    of cross_validated_ece resamples the pooled out-of-fold rows, without refitting.

    Args:
        log_masses: float[E, C], log probability masses of the choices.
        label: int[E], index of the right choice.
        answer_log_mass: float[E] ≤ 0, log mass of all choices together; None is not known,
            and its column NaN.
        prediction: int[E], the choice that was given as the answer; None is the likeliest.
        valid: bool[E, C], choices that the question has; None is all.
        group: int[E], the image of each row; None is a group of its own for each row. One
            group alone says nothing of the spread: its intervals are NaN.
        split: int[E] in [0, S); None is allowed if S is 0.
        num_splits: S.
        key: PRNG key; settings that share it are resampled alike.
        num_resamples: R.
        mode: how rows are resampled and dealt to folds.

    Returns:
        Report.

    Raises:
        ValueError: if an input is invalid; it names the row, the value, the remedy.
    """
    if mode not in ("default", "paper"):
        raise ValueError(f'mode is {mode!r}; it is "default" or "paper"')
    validation.check_choices(log_masses, label, valid=valid, any_label=mode == "paper")
    shape = np.shape(log_masses)
    if answer_log_mass is None:
        answer_log_mass = np.full(shape[0], np.nan, np.float32)
    else:
        validation.check_log_mass(answer_log_mass, shape[0])
    validation.check_prediction(prediction, shape, valid)
    validation.check_split(split, num_splits, shape[0])
    validation.check_group(group, shape[0])
    groups = np.arange(shape[0]) if group is None else np.asarray(group)
    names, groups = np.unique(groups, return_inverse=True)
    return _program(
        jnp.asarray(log_masses),
        jnp.asarray(label, jnp.int32),
        jnp.asarray(answer_log_mass),
        jnp.asarray(np.ones(shape, bool) if valid is None else valid, bool),
        jnp.asarray(groups, jnp.int32),
        jnp.asarray(np.zeros(shape[0]) if split is None else split, jnp.int32),
        None if prediction is None else jnp.asarray(prediction, jnp.int32),
        key,
        num_groups=names.size,
        num_splits=num_splits,
        num_resamples=num_resamples,
        mode=mode,
    )


def lower(
    num_rows: int,
    num_choices: int,
    *,
    num_groups: int,
    num_splits: int = 0,
    num_resamples: int = 1000,
    mode: Mode = "default",
    predicted: bool = False,
) -> jax.stages.Lowered:
    """Lower the program of `evaluate` for float32 evidence of this shape, ahead of it.

    Its `compile()` fills JAX's persistent compilation cache while something else computes.

    Args:
        num_rows: E.
        num_choices: C.
        num_groups: distinct groups.
        num_splits: S.
        num_resamples: R.
        mode: as in `evaluate`.
        predicted: whether `prediction` will be given.

    Returns:
        The lowered program.
    """

    def rows(dtype: jnp.dtype, *more: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((num_rows, *more), dtype)

    return _program.lower(
        rows(jnp.float32, num_choices),
        rows(jnp.int32),
        rows(jnp.float32),
        rows(jnp.bool_, num_choices),
        rows(jnp.int32),
        rows(jnp.int32),
        rows(jnp.int32) if predicted else None,
        jax.random.key(0),
        num_groups=num_groups,
        num_splits=num_splits,
        num_resamples=num_resamples,
        mode=mode,
    )


@functools.partial(jax.jit, static_argnames=("num_groups", "num_splits", "num_resamples", "mode"))
def _program(
    log_masses: jax.Array,
    label: jax.Array,
    answer_log_mass: jax.Array,
    valid: jax.Array,
    group: jax.Array,
    split: jax.Array,
    prediction: jax.Array | None,
    key: jax.Array,
    *,
    num_groups: int,
    num_splits: int,
    num_resamples: int,
    mode: Mode,
) -> Report:
    """Trace `evaluate` after its checks."""
    fold_key, resample_key = jax.random.split(key)
    unit = jnp.arange(group.size) if mode == "paper" else group
    num_units = group.size if mode == "paper" else num_groups
    fold = folds.group_kfold(fold_key, unit, num_units, NUM_FOLDS)
    masks = split[None, :] == jnp.arange(num_splits)[:, None]
    masks = jnp.concatenate([jnp.ones_like(split)[None, :], masks.astype(jnp.int32)])

    def fit(weights: jax.Array) -> scaling.TemperatureFit:
        return scaling.fit_temperature(log_masses, label, weights, valid=valid)

    def grid(weights: jax.Array) -> jax.Array:
        return scaling.temperature_grid(log_masses, label, weights, valid=valid)

    training = folds.training_weights(fold, NUM_FOLDS)
    fits = jax.lax.map(fit, jnp.concatenate([masks, training]))
    fitted, fold_fits = jnp.split(fits.temperature, [1 + num_splits])
    scaled = scaling.apply_temperature(log_masses, fold_fits[fold])
    evidence = take_evidence(log_masses, scaled, label, answer_log_mass, valid, prediction)
    order = evidence.ranking.order
    draws = resampling.resample_counts(resample_key, num_units, num_resamples)
    samples = _samples(evidence, draws, unit[order], masks[:, order])
    columns = {name: _interval(found) for name, found in samples.items()}
    rated = (evidence.confidence, evidence.correct)
    smooth = jax.lax.map(lambda w: smooth_calibration_error(*rated, w), masks[:, order])
    for name, value in zip(VALUE_ONLY, (fitted, jax.lax.map(grid, masks), smooth), strict=True):
        columns[name] = Interval(value, *[jnp.full_like(value, jnp.nan)] * 2)
    bins = jax.lax.map(lambda w: bin_stats(*rated, w), masks[:, order])
    return Report(
        metrics=jax.tree.map(lambda x: x[0], columns),
        splits=jax.tree.map(lambda x: x[1:], columns),
        bins=jax.tree.map(lambda x: x[0], bins),
        split_bins=jax.tree.map(lambda x: x[1:], bins),
        fit=jax.tree.map(lambda x: x[0], fits),
        fold_temperatures=fold_fits,
        samples=jax.tree.map(lambda x: x[:, 0], samples),
    )


def _samples(
    evidence: Evidence, draws: jax.Array, unit: jax.Array, masks: jax.Array
) -> dict[str, jax.Array]:
    """Evaluate the columns on the rows themselves and on every resample.

    Args:
        evidence: Evidence of the E rows.
        draws: int32[R, units], how often each was drawn.
        unit: int32[E], which a row belongs to, in the order of the ranking.
        masks: int32[1+S, E], all rows and each split.

    Returns:
        Column name → float[1+R, 1+S]; resamples of a single unit are NaN, as they say nothing.
    """

    def statistic(drawn: jax.Array) -> jax.Array:
        weights = drawn[unit]
        return jax.lax.map(lambda mask: evaluate_columns(evidence, mask * weights), masks)

    num_units = draws.shape[1]
    draws = jnp.concatenate([jnp.ones_like(draws[:1]), draws])  # 0: the rows as given
    found = resampling.bootstrap(statistic, draws)
    if num_units == 1:
        found = found.at[1:].set(jnp.nan)
    return {name: found[..., i] for i, name in enumerate(COLUMNS)}


def _interval(samples: jax.Array) -> Interval:
    """Return the value, row 0, with the interval of the other rows: Interval of float[1+S]."""
    return Interval(samples[0], *percentile_interval(samples[1:]))
