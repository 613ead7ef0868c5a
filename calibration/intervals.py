"""Intervals: of resampled statistics, and of a proportion.

Axis legend: R resamples, J leave-one-out values.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri


def _tail(level: float) -> float:
    """Return the share on either side.

    Raises:
        ValueError: if level is outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it lies in (0, 1)")
    return (1 - level) / 2


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
    tail = _tail(level)
    low, high = jnp.quantile(samples, jnp.asarray([tail, 1 - tail]), axis=0)
    return low, high


def basic_interval(
    samples: jax.Array, value: jax.Array, level: float = 0.95
) -> tuple[jax.Array, jax.Array]:
    """Reflect the percentile interval at the value, [2θ − q_high, 2θ − q_low].

    It moves the way that bias moves: a plug-in ECE is higher on resamples than on the rows
    (Davison and Hinkley 1997, §5.2).

    Args:
        samples: float[R, ...].
        value: float[...], θ on the rows themselves.
        level: share of the resamples inside, in (0, 1).

    Returns:
        low and high: float[...]; NaN where a resample is NaN.

    Raises:
        AssertionError: if the shapes do not fit.
        ValueError: if level is outside (0, 1).
    """
    chex.assert_shape(value, samples.shape[1:])
    low, high = percentile_interval(samples, level)
    return 2 * value - high, 2 * value - low


def bca_interval(
    samples: jax.Array, value: jax.Array, left_out: jax.Array, level: float = 0.95
) -> tuple[jax.Array, jax.Array]:
    """Correct the percentiles for bias and for a spread that depends on the value.

    α′ = Φ(z₀ + (z₀ + z_α) / (1 − a (z₀ + z_α))), z₀ = Φ⁻¹ of the share of resamples below θ,
    ties counting ½, a = Σ dⱼ³ / 6 (Σ dⱼ²)^{3/2} with dⱼ = mean − θ₍ⱼ₎ (Efron 1987).

    Args:
        samples: float[R, ...].
        value: float[...], θ on the rows themselves.
        left_out: float[J, ...], from `jackknife` over what was resampled.
        level: share of the resamples inside, in (0, 1).

    Returns:
        low and high: float[...]; NaN where a resample is NaN, or all lie on one side of θ.

    Raises:
        AssertionError: if the shapes do not fit.
        ValueError: if level is outside (0, 1).
    """
    value = jnp.asarray(value)
    chex.assert_shape(value, samples.shape[1:])
    chex.assert_shape(left_out, (None, *value.shape))
    tail = _tail(level)
    value = value[None]
    below = jnp.mean(samples < value, axis=0) + jnp.mean(samples == value, axis=0) / 2
    bias = ndtri(below)
    pull = jnp.mean(left_out, axis=0, keepdims=True) - left_out
    scale = jnp.sqrt(jnp.sum(jnp.square(pull), axis=0, keepdims=True))
    pull = pull / jnp.where(scale == 0, 1, scale)
    acceleration = jnp.sum(pull**3, axis=0) / 6

    def end(share: float) -> jax.Array:
        z = bias + ndtri(jnp.asarray(share, samples.dtype))
        return _quantile(samples, ndtr(bias + z / (1 - acceleration * z)))

    return end(tail), end(1 - tail)


def _quantile(samples: jax.Array, share: jax.Array) -> jax.Array:
    """Take a quantile of its own in every column: float[R, ...], float[...] to float[...]."""
    columns, shares = samples.reshape(samples.shape[0], -1), share.reshape(-1)
    return jax.vmap(jnp.quantile, in_axes=(1, 0))(columns, shares).reshape(share.shape)


def wilson_interval(
    successes: jax.Array, count: jax.Array, level: float = 0.95
) -> tuple[jax.Array, jax.Array]:
    """Bound a proportion of independent rows, for bins with few of them (Wilson 1927).

    Args:
        successes: float[...].
        count: float[...], rows.
        level: confidence level, in (0, 1).

    Returns:
        low and high: float[...] in [0, 1]; NaN where count is 0.

    Raises:
        ValueError: if level is outside (0, 1).
    """
    count = jnp.asarray(count, jnp.result_type(successes, count, jnp.float32))
    z = -ndtri(jnp.asarray(_tail(level), count.dtype))
    rate = successes / count
    centre = (rate + z**2 / (2 * count)) / (1 + z**2 / count)
    spread = jnp.sqrt(rate * (1 - rate) / count + jnp.square(z / (2 * count)))
    width = z * spread / (1 + z**2 / count)
    return jnp.maximum(centre - width, 0), jnp.minimum(centre + width, 1)
