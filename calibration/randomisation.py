"""A test that settings differ, by exchanging them within the groups that were sampled.

Axis legend: E examples, G groups, S settings, R draws.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

_TIE = 1e-6  # of the observed value: sums in another order are no smaller a difference


def exchange_test(
    statistic: Callable[[jax.Array], jax.Array],
    coefficients: jax.Array,
    group: jax.Array,
    num_groups: int,
    *,
    key: jax.Array,
    num_draws: int = 999,
) -> jax.Array:
    """Test Σₛ cₛ mₛ = 0 of settings that answer the same questions (Fisher 1935, paired).

    If the settings do not differ, whose rows are whose within a group is chance: in every draw
    each group deals its settings' rows to the settings anew, and d* is the sum then.
    p = (1 + #{|d*| ≥ |d|}) / (R + 1). Its level holds exactly under exchangeable settings for
    any number of groups; the bootstrap of a calibration error is conservative where the error is
    mostly noise, as resampling adds noise of its own.

    Args:
        statistic: function of 0/1 weights[S · E] over the rows of all settings, one setting
            after the other, to a metric, or several, of the rows of weight 1: float[...].
        coefficients: float[S], such as (−1, 1), or those of a slope.
        group: int[E] in [0, num_groups), for instance the image of each row.
        num_groups: G.
        key: PRNG key.
        num_draws: R.

    Returns:
        float[...], two-sided; NaN where the statistic is.

    Raises:
        AssertionError: if group is not [E] or coefficients not [S].
    """
    chex.assert_rank([group, coefficients], 1)
    settings = jnp.arange(coefficients.size)

    def dealt(owner: jax.Array) -> jax.Array:
        """Return the sum where setting s has the rows of owner[g, s] in group g."""

        def metric(setting: jax.Array) -> jax.Array:
            taken = owner[group, setting][None, :] == settings[:, None]
            return statistic(taken.ravel().astype(jnp.int32))

        return jnp.tensordot(
            coefficients, jax.lax.map(metric, settings), 1, precision=jax.lax.Precision.HIGHEST
        )

    def draw(key: jax.Array) -> jax.Array:
        order = jnp.broadcast_to(settings, (num_groups, settings.size))
        return dealt(jax.random.permutation(key, order, axis=1, independent=True))

    observed = jnp.abs(dealt(jnp.broadcast_to(settings, (num_groups, settings.size))))
    drawn = jnp.abs(jax.lax.map(draw, jax.random.split(key, num_draws)))
    as_large = drawn >= (observed * (1 - _TIE))[None]
    p_value = (1 + jnp.sum(as_large, axis=0)) / (num_draws + 1)
    return jnp.where(jnp.any(jnp.isnan(drawn), axis=0) | jnp.isnan(observed), jnp.nan, p_value)
