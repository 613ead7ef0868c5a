"""Bootstrap by weights: a resample is a vector of counts, one per row.

A statistic of weighted rows needs no gather and no sort per resample. Two settings of
the same questions that share their counts are compared in pairs.

Axis legend: E examples, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import chex
import jax
import jax.numpy as jnp

Statistic = TypeVar("Statistic")


def _draw_counts(key: jax.Array, n: int, num_resamples: int) -> jax.Array:
    """Count each of n items in n draws with replacement: int32[R, n].

    The remainder of 32 random bits favours no item by more than n / 2³².
    """
    drawn = jax.random.bits(key, (num_resamples, n), jnp.uint32) % n
    return jax.vmap(lambda items: jnp.zeros(n, jnp.int32).at[items].add(1))(drawn)


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
    batch_size: int | None = None,
) -> Statistic:
    """Evaluate a statistic on every resample.

    Args:
        statistic: function of weights int[E] to a pytree of arrays.
        counts: int[R, E] from `resample_counts` or `cluster_resample_counts`.
        batch_size: resamples computed at once; None, one at a time, is fastest on CPU.

    Returns:
        The pytree with a leading axis R.

    Raises:
        AssertionError: if counts is not [R, E].
    """
    chex.assert_rank(counts, 2)
    return jax.lax.map(statistic, counts, batch_size=batch_size)


def percentile_interval(samples: jax.Array, level: float = 0.95) -> tuple[jax.Array, jax.Array]:
    """Cut equal tails off the resamples, with linear interpolation between them.

    Args:
        samples: float[R, ...].
        level: share of the resamples inside, in (0, 1).

    Returns:
        low and high: float[...]; NaN where a resample is NaN.

    Raises:
        ValueError: if level is outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it lies in (0, 1)")
    tail = (1 - level) / 2
    low, high = jnp.quantile(samples, jnp.asarray([tail, 1 - tail]), axis=0)
    return low, high
