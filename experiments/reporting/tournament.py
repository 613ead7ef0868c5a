"""A tournament of pruners: who differs from whom, how surely, and what could have been seen.

Settings share the resamples of the pictures, hence every difference is paired.

Axis legend: R resamples, P points (a method at a budget).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

import calibration
from experiments.reporting import curves, evaluation, runs
from experiments.reporting.comparison import LEVEL, Differences, compare, rank
from experiments.reporting.documents import Cell, Column, Table


@dataclasses.dataclass(frozen=True)
class _Metric:
    """A metric that methods are ranked by."""

    name: str
    heading: str
    unit: str
    factor: float
    digits: int
    sign: int  # +1 where more is better


_METRICS = (
    _Metric("accuracy", "accuracy", " (points)", 100.0, 1, 1),
    _Metric("ece", "ECE", "", 1.0, 4, -1),
    _Metric("aurc", "AURC", "", 1.0, 4, -1),
)


@dataclasses.dataclass(frozen=True)
class _Field:
    """Who takes part: points, full tokens first, and each one's settings, one per seed."""

    run: runs.Run
    points: tuple[curves.Point, ...]
    settings: tuple[tuple[runs.Setting, ...], ...]

    def samples(self, metric: str) -> np.ndarray:
        """Return a metric, averaged over seeds inside each resample: float[1+R, P]."""
        means = [np.mean([s.samples(metric) for s in group], axis=0) for group in self.settings]
        return np.stack(means, axis=1)

    def compare(self, metric: str, pairs: Sequence[tuple[int, int]]) -> Differences:
        """Compare points."""
        return compare(self.samples(metric), pairs, int(self.run.full.unit.max()) + 1)

    @property
    def resampled(self) -> str:
        """What resamples are drawn from."""
        return "pictures" if self.run.full.mode == "default" else "rows"

    @property
    def budgets(self) -> dict[int, list[int]]:
        """Budget → its points, full tokens left out."""
        found: dict[int, list[int]] = {}
        for index, point in enumerate(self.points[1:], 1):
            found.setdefault(point.budget, []).append(index)
        return dict(sorted(found.items()))

    def cell(self, value: float, low: float | None = None, high: float | None = None) -> Cell:
        """Return a number about all rows."""
        ends = (None if x is None else float(x) for x in (low, high))
        return Cell(float(value), *ends, n=self.run.num_rows, images=self.run.num_images)


def tables(run: runs.Run) -> tuple[Table, ...]:
    """Put a run's settings to the tournament.

    Args:
        run: with full tokens and more.

    Returns:
        The standing; per metric the differences from full tokens; the flips; per metric the
        differences of all pairs at one budget, where there are any.

    Raises:
        InputError: there are full tokens only.
    """
    points = curves.of(run).points
    settings = tuple(
        run.find(pruner=point.pruner, budget=point.budget, **point.hyperparameters)
        for point in points
    )
    field = _Field(run, points, settings)
    of_full = [(i, 0) for i in range(1, len(points))]
    pairs = [p for group in field.budgets.values() for p in itertools.combinations(group, 2)]
    against = [_differences(field, metric, of_full, "full") for metric in _METRICS]
    between = [_differences(field, metric, pairs, "pairs") for metric in _METRICS if pairs]
    return (_standing(field), *against, _flips(field), *between)


def _standing(field: _Field) -> Table:
    """Return the metrics and ranks of every method, budget by budget."""
    columns, cells = [], {index: [] for index in range(len(field.points))}
    for metric in _METRICS:
        samples = field.samples(metric.name)
        with evaluation.on_host():
            found = calibration.percentile_interval(jnp.asarray(samples[1:]), LEVEL)
        low, high = map(np.asarray, found)
        unit = " %" if metric.factor == 100 else ""
        columns += [
            Column(metric.heading + unit, metric.name, metric.factor, metric.digits),
            Column("rank", f"{metric.name}_rank", digits=0),
        ]
        ranked = {}
        for group in field.budgets.values():
            ranks = rank(metric.sign * samples[:, group])
            numbers = zip(ranks.value, ranks.low, ranks.high, strict=True)
            ranked |= dict(zip(group, numbers, strict=True))
        for index, own in cells.items():
            own.append(field.cell(samples[0, index], low[index], high[index]))
            own.append(field.cell(*ranked[index]) if index in ranked else Cell())
    order = [0, *(i for group in field.budgets.values() for i in _by_rank(group, cells))]
    return Table(
        "tournament_standing",
        f"Standing per budget. {field.run.heading}",
        ("K", "method"),
        tuple(columns),
        tuple((_labels(field, index), tuple(cells[index])) for index in order),
        f"95 % intervals by resampling {field.resampled}. A rank's interval ends at methods that "
        "are surely better and surely worse at the same budget, all differences of one method "
        "taken together. Seeds are averaged, not resampled. AURC ranks answers by margin.",
    )


def _by_rank(group: Sequence[int], cells: dict[int, list[Cell]]) -> list[int]:
    """Sort the points of a budget by their rank in accuracy."""
    return sorted(group, key=lambda index: cells[index][1].value or 0)


def _labels(field: _Field, index: int) -> tuple[str, str]:
    """Return a point's budget and method."""
    point = field.points[index]
    return str(point.budget), "full tokens" if index == 0 else point.method


def _differences(
    field: _Field, metric: _Metric, pairs: Sequence[tuple[int, int]], family: str
) -> Table:
    """Return one family of differences, one − other."""
    found = field.compare(metric.name, pairs)
    labels: list[tuple[str, ...]] = [_labels(field, one) for one, _ in pairs]
    title, heads = f"Δ {metric.heading} from full tokens", ("K", "method")
    if family == "pairs":
        title, heads = f"Δ {metric.heading}, method − other", ("K", "method", "other")
        labels = [(*_labels(field, one), field.points[other].method) for one, other in pairs]
    shown = (metric.factor, metric.digits)
    columns = (
        Column(f"Δ {metric.heading}{metric.unit}", f"{metric.name}_difference", *shown, True),
        Column("p", "p_value", digits=4),
        Column("p, Holm", "p_holm", digits=4),
        Column("could be seen", "detectable_difference", *shown),
    )
    numbers = zip(found.value, found.low, found.high, strict=True)
    plain = zip(found.p_value, found.adjusted, found.detectable, strict=True)
    rows = (
        (label, (field.cell(*number), *map(field.cell, others)))
        for label, number, others in zip(labels, numbers, plain, strict=True)
    )
    return Table(
        f"tournament_{family}_{metric.name}",
        f"{title}. {field.run.heading}",
        heads,
        columns,
        tuple(rows),
        f"Paired, 95 % intervals by resampling {field.resampled}, p by Student's t with the "
        f"resamples' standard error. Holm's family are the {len(pairs)} differences of this table. "
        "Could be seen: the true difference that one test at 5 % finds in 80 of 100 runs, before "
        f"Holm; four times the {field.resampled} halve it.",
    )


def _flips(field: _Field) -> Table:
    """Return the questions that changed sides, setting by setting: seeds are no average here."""
    rows = []
    for index in itertools.chain(*field.budgets.values()):
        budget, method = _labels(field, index)
        for setting in field.settings[index]:
            seed = setting.about["seed"]
            name = method if seed is None else f"{method} seed={seed}"
            rows.append(((budget, name), tuple(map(field.cell, _flipped(field.run, setting)))))
    return Table(
        "tournament_flips",
        f"Answers that flipped from full tokens. {field.run.heading}",
        ("K", "method"),
        (
            Column("right → wrong", "right_to_wrong", digits=0),
            Column("wrong → right", "wrong_to_right", digits=0),
            Column("p, McNemar", "p_mcnemar", digits=4),
            Column("p, by picture", "p_clustered", digits=4),
        ),
        tuple(rows),
        "Both p are of equal accuracy and not corrected. McNemar's exact test takes rows for "
        "independent, which those of one picture are not; the other sums them by picture.",
    )


def _flipped(run: runs.Run, setting: runs.Setting) -> tuple[float, ...]:
    """Return the flips both ways, and p by row and by picture."""
    before, after = run.full.top.correct, setting.top.correct
    with evaluation.on_host():
        exact = calibration.mcnemar_exact(before, after)
        group = jnp.asarray(setting.unit)
        clustered = calibration.paired_difference_test(before, after, group)
    found = (exact.first_only, exact.second_only, exact.p_value, clustered.p_value)
    return tuple(map(float, found))
