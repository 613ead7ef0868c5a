"""Selective prediction: how the error grows as less confident answers are kept.

Rows are ranked by a margin (log-odds), never by a float32 probability, which ties the
saturated rows. Rows of equal margin are taken in expectation over their random order.
Weights are counts: a row of weight 2 is two rows.

Axis legend: E examples, in order of descending margin once ranked.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .ranking import Cumulated, rank_and_cumulate


def risk_coverage_curve(
    margin: jax.Array, correct: jax.Array, weights: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Trace the selective risk against the coverage, with expected ties.

    Args:
        margin: float[E], larger is more confident.
        correct: bool or 0/1[E].
        weights: float or int[E], counts; None is all 1.

    Returns:
        coverage: float[E] ascending to 1, and risk: float[E], the expected error rate
        of the rows kept; NaN where none is kept yet, and as for `aurc`.

    Raises:
        AssertionError: if the shapes differ.
    """
    rows = rank_and_cumulate(margin, correct, weights)
    before, errors = rows.before
    risk = (errors + rows.rate * (rows.count[1:] - before)) / rows.count[1:]
    risk = jnp.where(jnp.isnan(rows.errors[-1]), jnp.nan, risk)
    return rows.count[1:] / rows.count[-1], risk


def selective_accuracy(
    margin: jax.Array,
    correct: jax.Array,
    weights: jax.Array | None = None,
    *,
    coverage: float = 0.8,
) -> jax.Array:
    """Average correctness of the ⌈n t⌉ most confident rows, with expected ties.

    Args:
        margin: float[E], larger is more confident.
        correct: bool or 0/1[E].
        weights: float or int[E], counts; None is all 1.
        coverage: t, share of the rows to keep, in (0, 1].

    Returns:
        float[] in [0, 1]; NaN as for `aurc`.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if coverage is outside (0, 1].
    """
    rows = rank_and_cumulate(margin, correct, weights)
    return 1 - ranked_selective_risk(rows, coverage=coverage)


def selective_risk(
    margin: jax.Array,
    correct: jax.Array,
    weights: jax.Array | None = None,
    *,
    coverage: float = 0.8,
) -> jax.Array:
    """Average the error of the ⌈n t⌉ most confident rows, with expected ties.

    Args:
        margin: float[E], larger is more confident.
        correct: bool or 0/1[E].
        weights: float or int[E], counts; None is all 1.
        coverage: t, share of the rows to keep, in (0, 1].

    Returns:
        float[] in [0, 1]; NaN as for `aurc`.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if coverage is outside (0, 1].
    """
    rows = rank_and_cumulate(margin, correct, weights)
    return ranked_selective_risk(rows, coverage=coverage)


def ranked_selective_risk(rows: Cumulated, *, coverage: float = 0.8) -> jax.Array:
    """Compute `selective_risk` of rows that are cumulated already.

    Args:
        rows: Cumulated.
        coverage: share of the rows to keep, in (0, 1].

    Returns:
        float[] in [0, 1].

    Raises:
        ValueError: if coverage is outside (0, 1].
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage is {coverage}; it lies in (0, 1]")
    count, errors = rows.count, rows.errors
    if not rows.first.size:
        return jnp.full((), jnp.nan, count.dtype)
    kept = jnp.ceil(count[-1] * coverage - _slack(count))  # 0.1 × 30 keeps 3
    cut = jnp.sum(count[1:-1] < kept)  # rank of the last row kept
    start, end = rows.first[cut], rows.last[cut] + 1
    rate = (errors[end] - errors[start]) / (count[end] - count[start])
    risk = (errors[start] + rate * (kept - count[start])) / kept
    return jnp.where(jnp.isnan(errors[-1]), jnp.nan, risk)


def _slack(count: jax.Array) -> jax.Array:
    """Return what rounding may have added to a product with the number of rows."""
    return max(1e-9, 4 * float(jnp.finfo(count.dtype).eps)) * count[-1]


def coverage_at_risk(
    margin: jax.Array,
    correct: jax.Array,
    weights: jax.Array | None = None,
    *,
    risk: float,
) -> jax.Array:
    """Find the largest share k/n whose k most confident rows err at most at rate r.

    With expected ties the errors of the k first rows are linear in k within a tie group.

    Args:
        margin: float[E], larger is more confident.
        correct: bool or 0/1[E].
        weights: float or int[E], counts; None is all 1.
        risk: r, in [0, 1].

    Returns:
        float[] in (0, 1]; NaN if no share is as good, and as for `aurc`.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if risk is outside [0, 1].
    """
    if not 0 <= risk <= 1:
        raise ValueError(f"risk is {risk}; it lies in [0, 1]")
    rows = rank_and_cumulate(margin, correct, weights)
    (before, errors_before), (count, errors) = rows.before, rows.through
    slack, rate = _slack(rows.count), rows.rate
    whole = jnp.where(errors <= risk * count + slack, count, 0)
    steeper = rate > risk
    cut = (rate * before - errors_before) / jnp.where(steeper, rate - risk, 1)
    cut = jnp.floor(cut + slack)
    part = jnp.where(steeper & (cut > before) & (cut < count), cut, 0)
    most = jnp.max(jnp.maximum(whole, part), initial=0)
    found = jnp.where(most > 0, most / rows.count[-1], jnp.nan)
    return found + 0 * rows.error_rate
