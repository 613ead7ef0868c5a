"""Bootstrap by weights: a resample is a vector of counts, one per row.

A statistic of weighted rows needs no gather and no sort per resample. Two settings of
the same questions that share their counts are compared in pairs.

Axis legend: E examples, R resamples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import chex
import jax
import jax.numpy as jnp

from .intervals import percentile_interval

Statistic = TypeVar("Statistic")
BATCH = 8
"""Resamples computed at once: few enough to stay in a CPU's cache, enough for its cores."""


def _draw_counts(key: jax.Array, n: int, num_resamples: int) -> jax.Array:
    """Count each of n items in n draws with replacement: int32[R, n].

    The remainder of 32 random bits favours no item by more than n / 2³².
    """

    def draw(key: jax.Array) -> jax.Array:
        drawn = jax.random.bits(key, (n,), jnp.uint32) % n
        return jnp.zeros(n, jnp.int32).at[drawn].add(1, mode="promise_in_bounds")

    return _in_batches(draw, jax.random.split(key, num_resamples), BATCH)


def _in_batches(
    function: Callable[[jax.Array], Statistic], items: jax.Array, batch_size: int | None
) -> Statistic:
    """Map over the first axis; the last batch is filled up, so that one shape is compiled."""
    number, size = items.shape[0], batch_size or 1
    places = jnp.minimum(jnp.arange(-(-number // size) * size), number - 1)
    filled = items if places.size == number else items[places]
    found = jax.lax.map(function, filled, batch_size=batch_size)
    return jax.tree.map(lambda x: x[:number], found)


def resample_counts(key: jax.Array, num_rows: int, num_resamples: int) -> jax.Array:
    """Draw rows with replacement, as many as there are (Efron 1979).

    Args:
        key: PRNG key.
        num_rows: E.
        num_resamples: R.

    Returns:
        int32[R, E]; each resample sums to E.
    """
    return _draw_counts(key, num_rows, num_resamples)


def cluster_resample_counts(
    key: jax.Array, group: jax.Array, num_groups: int, num_resamples: int
) -> jax.Array:
    """Draw whole groups with replacement, as many as there are.

    The rows of an image are not independent, and POPE even repeats them; the image is
    the unit that was sampled (Cameron, Gelbach and Miller 2008).

    Args:
        key: PRNG key.
        group: int[E] in [0, num_groups), the image of each row.
        num_groups: number of groups.
        num_resamples: R.

    Returns:
        int32[R, E]; rows of one group have equal counts.

    Raises:
        AssertionError: if group is not [E].
    """
    chex.assert_rank(group, 1)
    return _draw_counts(key, num_groups, num_resamples)[:, group]


def bootstrap(
    statistic: Callable[[jax.Array], Statistic],
    counts: jax.Array,
    *,
    batch_size: int | None = BATCH,
) -> Statistic:
    """Evaluate a statistic on every resample.

    Args:
        statistic: function of weights int[E] to a pytree of arrays.
        counts: int[R, E] from `resample_counts` or `cluster_resample_counts`.
        batch_size: resamples computed at once; None is one at a time.

    Returns:
        The pytree with a leading axis R.

    Raises:
        AssertionError: if counts is not [R, E].
    """
    chex.assert_rank(counts, 2)
    return _in_batches(statistic, counts, batch_size)


def jackknife(
    statistic: Callable[[jax.Array], Statistic], group: jax.Array, num_groups: int
) -> Statistic:
    """Evaluate a statistic without each group in turn (Quenouille 1949).

    Args:
        statistic: function of weights int[E] to a pytree of arrays.
        group: int[E] in [0, num_groups); `jnp.arange(E)` leaves single rows out.
        num_groups: number of groups.

    Returns:
        The pytree with a leading axis of num_groups.

    Raises:
        AssertionError: if group is not [E].
    """
    chex.assert_rank(group, 1)

    def without(left_out: jax.Array) -> Statistic:
        return statistic((group != left_out).astype(jnp.int32))

    return jax.lax.map(without, jnp.arange(num_groups))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """How much a second setting differs from a first on the same questions.

    Attributes:
        value: second − first, on the rows themselves.
        low: lower end of the interval.
        high: upper end.
        p_value: two-sided, of no difference.
    """

    value: Any
    low: Any
    high: Any
    p_value: Any


def paired_bootstrap(
    first: Callable[[jax.Array], Statistic],
    second: Callable[[jax.Array], Statistic],
    counts: jax.Array,
    *,
    level: float = 0.95,
    batch_size: int | None = BATCH,
) -> PairedDifference:
    """Compare two settings on the same resamples of the same questions.

    d* = second(w*) − first(w*) for every resample; the percentile interval of d*, and
    p = 2 min(#{d* ≤ 0} + 1, #{d* ≥ 0} + 1) / (R + 1), at most 1: the level at which that
    interval begins to leave 0 out.

    Args:
        first: statistic of a setting, a function of weights int[E].
        second: the same of another setting on the same rows.
        counts: int[R, E] from `resample_counts` or `cluster_resample_counts`.
        level: share of the resamples inside the interval, in (0, 1).
        batch_size: resamples computed at once; None is one at a time.

    Returns:
        PairedDifference, each field shaped as a statistic; NaN where a resample is NaN.

    Raises:
        AssertionError: if counts is not [R, E].
        ValueError: if level is outside (0, 1).
    """

    def difference(weights: jax.Array) -> Statistic:
        return jax.tree.map(jnp.subtract, second(weights), first(weights))

    samples = bootstrap(difference, counts, batch_size=batch_size)
    value = difference(jnp.ones_like(counts[0]))
    ends = jax.tree.map(lambda x: jnp.stack(percentile_interval(x, level)), samples)
    return PairedDifference(
        value=value,
        low=jax.tree.map(lambda x: x[0], ends),
        high=jax.tree.map(lambda x: x[1], ends),
        p_value=jax.tree.map(_two_sided, samples),
    )


def _two_sided(samples: jax.Array) -> jax.Array:
    """Return the two-sided p-value of resampled differences float[R, ...]."""
    tails = jnp.stack([jnp.sum(samples <= 0, axis=0), jnp.sum(samples >= 0, axis=0)])
    p_value = jnp.minimum(2 * (jnp.min(tails, axis=0) + 1) / (samples.shape[0] + 1), 1)
    return jnp.where(jnp.any(jnp.isnan(samples), axis=0), jnp.nan, p_value)
