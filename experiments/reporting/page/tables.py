"""The page's tables: rows of plain strings, made from a run's numbers.

A cell may have two lines, a value and below it the 95 % interval.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

import calibration
from experiments.reporting import evaluation, runs
from experiments.reporting.page.naming import Named
from experiments.reporting.tables import COLUMNS

_CHANGES = (("Δ acc, points", "accuracy", 100, 1), ("Δ ECE", "ece", 1, 3), ("Δ NLL", "nll", 1, 3))
_TINY = 1e-30  # float32 has little below
_RESAMPLED = {"default": "pictures", "paper": "single questions"}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as people read it.

    Attributes:
        title: above it.
        columns: headings.
        rows: cells, as many as headings; the first names its row, and a line end parts a value
            from what is said small below it.
        note: below the title.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def metrics(named: Sequence[Named]) -> Table:
    """Return every column of the terminal's table, with intervals."""
    rows = []
    for one in named:
        found = one.setting.report.metrics
        cells = (_cell(found[name], factor, digits) for _, name, factor, digits in COLUMNS)
        rows.append((one.label, *cells))
    note = f"95 % intervals by resampling {_RESAMPLED[named[0].setting.mode]}."
    return Table("Metrics", ("setting", *(c[0] for c in COLUMNS)), tuple(rows), note)


def against_full(named: Sequence[Named]) -> Table:
    """Return each setting's paired difference from full tokens, and its flips."""
    full = named[0].setting
    rows = []
    for one in named[1:]:
        cells = (
            _cell(_difference(one.setting, full, name), factor, digits, sign="+")
            for _, name, factor, digits in _CHANGES
        )
        with evaluation.on_host():
            flips = calibration.mcnemar_exact(full.top.correct, one.setting.top.correct)
        lost, won, p_value = (
            float(x) for x in (flips.first_only, flips.second_only, flips.p_value)
        )
        spelled = f"{p_value:.2g}" if p_value > _TINY else f"< {_TINY:g}"
        rows.append((one.label, *cells, f"{lost:.0f}", f"{won:.0f}", spelled))
    return Table(
        "Against full tokens",
        ("setting", *(c[0] for c in _CHANGES), "right → wrong", "wrong → right", "McNemar p"),
        tuple(rows),
        f"Paired differences, setting − full tokens, with 95 % intervals by resampling "
        f"{_RESAMPLED[full.mode]}. McNemar's exact test takes questions for independent, also "
        "those about one picture: where they are not, the interval is what counts.",
    )


def over_seeds(named: Sequence[Named]) -> Table:
    """Return mean ± standard deviation (ddof = 1) of settings that differ in the seed alone."""
    labels = {one.setting.name: one.label for one in named}
    rows = []
    for group in runs.groups([one.setting for one in named]):
        if len(group) > 1:
            name = labels[group[0].name].replace(f", seed {group[0].about['seed']}", "", 1)
            cells = (_spread(group, *column[1:]) for column in COLUMNS)
            rows.append((f"{name}, {len(group)} seeds", *cells))
    note = "Mean ± standard deviation of seeds."
    return Table("Over seeds", ("setting", *(c[0] for c in COLUMNS)), tuple(rows), note)


def _difference(one: runs.Setting, other: runs.Setting, metric: str) -> calibration.Interval:
    """Return the paired difference of a metric, one − other."""
    samples = one.samples(metric) - other.samples(metric)
    with evaluation.on_host():
        low, high = calibration.percentile_interval(jnp.asarray(samples[1:]))
    return calibration.Interval(samples[0], low, high)


def _cell(found: Any, factor: float, digits: int, sign: str = "") -> str:
    """Spell an interval: its value, and below it the ends if it has any."""
    value, low, high = (factor * float(x) for x in (found.value, found.low, found.high))
    if not math.isfinite(value):
        return "–"
    spelled, *ends = (f"{x:{sign}.{digits}f}".replace("-", "−") for x in (value, low, high))
    if not (math.isfinite(low) and math.isfinite(high)):
        return spelled
    return f"{spelled}\n[{', '.join(ends)}]"


def _spread(group: Sequence[runs.Setting], metric: str, factor: float, digits: int) -> str:
    """Spell mean and standard deviation of a metric over some settings."""
    values = factor * np.array([float(s.report.metrics[metric].value) for s in group])
    if not np.isfinite(values).all():
        return "–"
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"
