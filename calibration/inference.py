"""Standard errors and tests for means, of rows that come in groups.

Axis legend: E examples, M hypotheses.
"""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, ndtri

from .rows import float_dtype, row_weights, weighted_mean


def clustered_standard_error(
    values: jax.Array, group: jax.Array | None = None, weights: jax.Array | None = None
) -> jax.Array:
    """Estimate the standard error of a mean of rows that come in groups.

    √(G/(G − 1) Σ_g (Σ_{i∈g} wᵢ (vᵢ − v̄))²) / W with G groups that have a row that counts
    (Liang and Zeger 1986; Miller 2024 for evaluations). Without groups every row is one, and
    a row of weight 2 is two: the textbook s/√n.

    Args:
        values: float[E].
        group: int[E] in [0, E), for instance the image of each row; None is none.
        weights: float or int[E], counts; None is all 1.

    Returns:
        float[]; NaN if a row that counts is NaN or has a group outside [0, E), or fewer than
        two groups count.

    Raises:
        AssertionError: if the shapes differ.
    """
    return _mean_and_error(values, group, weights)[1]


def _mean_and_error(
    values: jax.Array, group: jax.Array | None, weights: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the mean, its standard error, and the number of groups that count."""
    chex.assert_rank(values, 1)
    values = jnp.asarray(values, float_dtype(values))
    weights = row_weights(weights, values)
    total = jnp.sum(weights)
    if group is None:
        num_groups = total
        mean = weighted_mean(values, weights)
        squares = weighted_mean(jnp.square(values - mean), weights) * total
    else:
        chex.assert_equal_shape([values, group])
        inside = (group >= 0) & (group < values.size)
        values = jnp.where(inside, values, jnp.nan)
        mean = weighted_mean(values, weights)
        pull = jnp.where(weights != 0, weights * (values - mean), 0)
        sums = jax.ops.segment_sum(pull, group, values.size)
        squares = jnp.sum(jnp.square(sums)) + 0 * mean
        sizes = jax.ops.segment_sum(weights, group, values.size)
        num_groups = jnp.sum(sizes > 0).astype(values.dtype)
    error = jnp.sqrt(num_groups / (num_groups - 1) * squares) / total
    return mean, jnp.where(num_groups > 1, error, jnp.nan), num_groups


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DifferenceTest:
    """A test of a mean difference.

    Attributes:
        difference: float[], second − first.
        standard_error: float[].
        statistic: float[], t = difference / standard error.
        p_value: float[], two-sided, Student's t with one degree less than groups.
    """

    difference: jax.Array
    standard_error: jax.Array
    statistic: jax.Array
    p_value: jax.Array


def paired_difference_test(
    first: jax.Array,
    second: jax.Array,
    group: jax.Array | None = None,
    weights: jax.Array | None = None,
) -> DifferenceTest:
    """Test whether two settings have the same mean on the same questions.

    t = d̄ / SE(d̄), dᵢ = secondᵢ − firstᵢ, SE clustered by group.

    Args:
        first: float[E], for instance correctness or Brier loss per question.
        second: float[E], the same of the other setting.
        group: int[E] in [0, E); None is none.
        weights: float or int[E], counts; None is all 1.

    Returns:
        DifferenceTest; p is NaN where no difference varies, as when the settings are equal.

    Raises:
        AssertionError: if the shapes differ.
    """
    chex.assert_equal_shape([first, second])
    dtype = float_dtype(first, second)
    values = jnp.asarray(second, dtype) - jnp.asarray(first, dtype)
    mean, error, num_groups = _mean_and_error(values, group, weights)
    freedom, statistic = num_groups - 1, mean / error
    p_value = betainc(freedom / 2, 0.5, freedom / (freedom + jnp.square(statistic)))
    return DifferenceTest(mean, error, statistic, p_value)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class McNemar:
    """The questions that only one of two settings got right.

    Attributes:
        first_only: float[], how many only the first did.
        second_only: float[], how many only the second did.
        p_value: float[], two-sided and exact.
    """

    first_only: jax.Array
    second_only: jax.Array
    p_value: jax.Array


def mcnemar_exact(first: jax.Array, second: jax.Array, weights: jax.Array | None = None) -> McNemar:
    """Test equal accuracy by the questions that changed sides (McNemar 1947, exact).

    p = 2 P(Bin(b + c, ½) ≤ min(b, c)), at most 1. It takes rows for independent: with several
    questions per image use `paired_difference_test` with its groups.

    Args:
        first: bool or 0/1[E], correctness of the first setting.
        second: bool or 0/1[E], of the second.
        weights: int[E], counts; None is all 1.

    Returns:
        McNemar; NaN if a row that counts is neither 0 nor 1.

    Raises:
        AssertionError: if the shapes differ.
    """
    chex.assert_equal_shape([first, second])
    dtype = float_dtype(first, second)
    first, second = jnp.asarray(first, dtype), jnp.asarray(second, dtype)
    weights = row_weights(weights, first)
    possible = ((first == 0) | (first == 1)) & ((second == 0) | (second == 1))
    weights = jnp.where(possible | (weights == 0), weights, jnp.nan)
    first_only, second_only = (
        jnp.sum(jnp.where(weights == 0, 0, weights * x * (1 - y)))
        for x, y in ((first, second), (second, first))
    )
    fewer, more = jnp.minimum(first_only, second_only), jnp.maximum(first_only, second_only)
    p_value = jnp.minimum(2 * betainc(more, fewer + 1, jnp.asarray(0.5, dtype)), 1)
    p_value = jnp.where(more == fewer, 1, p_value) + 0 * more
    return McNemar(first_only, second_only, p_value)


def holm(p_values: jax.Array) -> jax.Array:
    """Adjust p-values of M tests so that all may be read together (Holm 1979).

    p̃₍ᵢ₎ = max_{j ≤ i} min(1, (M − j + 1) p₍ⱼ₎) for the sorted p₍₁₎ ≤ … ≤ p₍M₎.

    Args:
        p_values: float[M].

    Returns:
        float[M], in the given order; NaN if one is NaN.

    Raises:
        AssertionError: if p_values is not [M].
    """
    chex.assert_rank(p_values, 1)
    order = jnp.argsort(p_values)
    factor = p_values.size - jnp.arange(p_values.size)
    adjusted = jax.lax.cummax(jnp.minimum(p_values[order] * factor, 1))
    adjusted = jnp.where(jnp.any(jnp.isnan(p_values)), jnp.nan, adjusted)
    return jnp.zeros_like(adjusted).at[order].set(adjusted)


def minimum_detectable_difference(
    standard_error: jax.Array, *, level: float = 0.95, power: float = 0.8
) -> jax.Array:
    """Say how small a difference a test would probably find, (z_{1−α/2} + z_power) · SE.

    Args:
        standard_error: float[...], of the difference.
        level: 1 − α of the two-sided test, in (0, 1).
        power: chance to find a difference of this size, in (0, 1).

    Returns:
        float[...].

    Raises:
        ValueError: if level or power is outside (0, 1).
    """
    for name, share in (("level", level), ("power", power)):
        if not 0 < share < 1:
            raise ValueError(f"{name} is {share}; it lies in (0, 1)")
    quantiles = ndtri(jnp.asarray([(1 + level) / 2, power]))
    return jnp.sum(quantiles) * standard_error
