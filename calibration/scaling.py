"""Temperature scaling (Guo et al. 2017) of the answer's log masses.

One temperature T divides the log masses of the choices: p = softmax(z / T). T > 1
softens an overconfident model; the predicted choice never changes.

Axis legend: E examples, C choices, F folds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from .confidence import valid_choices
from .folds import training_weights
from .minimise import minimise
from .rows import float_dtype, row_weights

TEMPERATURE_GRID = np.arange(10, 201) / 20  # 0.50, 0.55, …, 10.00: the paper's two decimals


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TemperatureFit:
    """A fitted temperature.

    Attributes:
        temperature: float[], T.
        nll: float[], mean negative log-likelihood at T, in nats.
        at_bound: bool[], no finite optimum inside the bounds, T is the nearer bound.
        converged: bool[], the optimiser reached its tolerance, or T is a bound.
    """

    temperature: jax.Array
    nll: jax.Array
    at_bound: jax.Array
    converged: jax.Array


def apply_temperature(log_masses: jax.Array, temperature: jax.Array) -> jax.Array:
    """Divide the log masses by the temperature, z / T.

    Entries that are not finite stay as they are, so that gradients stay finite.

    Args:
        log_masses: float[..., C].
        temperature: float[] or float[...] > 0, one per row.

    Returns:
        float[..., C].
    """
    log_masses = jnp.asarray(log_masses, float_dtype(log_masses))
    temperature = jnp.asarray(temperature, log_masses.dtype)
    rows = jnp.broadcast_to(temperature, log_masses.shape[:-1])
    finite = jnp.isfinite(log_masses)
    scaled = jnp.where(finite, log_masses, 0) / rows[..., None]
    return jnp.where(finite, scaled, log_masses)


def _mean_nll(
    log_masses: jax.Array,
    label: jax.Array,
    weights: jax.Array | None,
    valid: jax.Array | None,
) -> Callable[[jax.Array], jax.Array]:
    """Return β = 1/T ↦ mean NLL of β z, convex, finite in value and gradient.

    NLL = β (z_top − z_y) + log Σₖ exp β (zₖ − z_top). Rows of weight 0 and rows whose
    label is not a valid choice (an infinite constant) are left out.
    """
    chex.assert_rank(log_masses, 2)
    chex.assert_shape(label, log_masses.shape[:1])
    valid = valid_choices(log_masses, valid)
    log_masses = jnp.asarray(log_masses, float_dtype(log_masses))
    is_label = jax.nn.one_hot(label, log_masses.shape[1], dtype=bool) & valid
    weights = row_weights(weights, log_masses[:, 0])
    weights = jnp.where(jnp.any(is_label, axis=1), weights, 0)
    counted = jnp.broadcast_to((weights != 0)[:, None], valid.shape)
    scores = jnp.where(valid & ~jnp.isfinite(log_masses), jnp.nan, log_masses)
    scores = jnp.where(counted, scores, 0)
    top = jnp.max(scores, axis=1, keepdims=True, where=valid, initial=-jnp.inf)
    below = jnp.where(valid & counted, scores - top, 0)
    share = weights / jnp.sum(weights)
    lead = -jnp.vdot(share, jnp.sum(jnp.where(is_label, below, 0), axis=1))
    offered = valid | ~counted

    def nll(beta: jax.Array) -> jax.Array:
        odds = jnp.where(offered, jnp.exp(beta * below), 0)
        return beta * lead + jnp.vdot(share, jnp.log(jnp.sum(odds, axis=1)))

    return nll


def fit_temperature(
    log_masses: jax.Array,
    label: jax.Array,
    weights: jax.Array | None = None,
    *,
    valid: jax.Array | None = None,
    bounds: tuple[float, float] = (1e-3, 1e3),
) -> TemperatureFit:
    """Minimise the mean negative log-likelihood over T, exactly.

    T* = argmin_T Σ wᵢ NLL(zᵢ / T, yᵢ) / W by L-BFGS on log T. The objective is convex in
    1/T, so the slope's sign at the bounds tells first whether an optimum lies between.

    Args:
        log_masses: float[E, C], any logits over the choices.
        label: int[E]; rows whose label is not a valid choice say nothing of T and are
            left out.
        weights: float or int[E]; None is all 1.
        valid: bool[E, C]; None is all.
        bounds: smallest and largest T.

    Returns:
        TemperatureFit; a NaN temperature if a row that counts is invalid, or if none
        counts.

    Raises:
        AssertionError: if the shapes do not fit.
    """
    nll = _mean_nll(log_masses, label, weights, valid)
    dtype = float_dtype(log_masses)

    def loss(log_temperature: jax.Array) -> jax.Array:
        return nll(jnp.exp(-log_temperature))

    ends = jnp.log(jnp.asarray(bounds, dtype))
    rise_low, rise_high = jax.vmap(jax.grad(loss))(ends)
    at_low, at_high = rise_low >= 0, rise_high <= 0
    at_bound = at_low | at_high
    start = jnp.clip(jnp.zeros_like(ends[0]), *ends)
    inside, converged = minimise(
        loss, start, wanted=~at_bound, project=lambda x: jnp.clip(x, *ends)
    )
    outside = jnp.where(at_low, jnp.asarray(bounds[0], dtype), bounds[1])
    temperature = jnp.where(at_bound, outside, jnp.exp(inside))
    value = nll(1 / temperature)
    temperature = jnp.where(jnp.isnan(value), jnp.nan, temperature)
    return TemperatureFit(temperature, value, at_bound, at_bound | converged)


def temperature_grid(
    log_masses: jax.Array,
    label: jax.Array,
    weights: jax.Array | None = None,
    *,
    valid: jax.Array | None = None,
    grid: jax.typing.ArrayLike = TEMPERATURE_GRID,
) -> jax.Array:
    """Pick the grid's temperature of least mean negative log-likelihood.

    Args:
        log_masses: float[E, C], any logits over the choices.
        label: int[E], as in `fit_temperature`.
        weights: float or int[E]; None is all 1.
        valid: bool[E, C]; None is all.
        grid: float[...] > 0; the default's steps of 0.05 are those of SCOPE, Table 1.

    Returns:
        float[], the first of equals; NaN as in `fit_temperature`.

    Raises:
        AssertionError: if the shapes do not fit.
    """
    nll = _mean_nll(log_masses, label, weights, valid)
    temperatures = jnp.asarray(grid, float_dtype(log_masses))
    losses = jax.vmap(nll)(1 / temperatures)
    best = jnp.argmin(losses)
    return jnp.where(jnp.isnan(losses[best]), jnp.nan, temperatures[best])


def cross_validated_temperature(
    log_masses: jax.Array,
    label: jax.Array,
    fold: jax.Array,
    weights: jax.Array | None = None,
    *,
    valid: jax.Array | None = None,
    num_folds: int = 5,
) -> tuple[jax.Array, jax.Array]:
    """Scale each fold by the temperature that the other folds fit.

    Args:
        log_masses: float[E, C], any logits over the choices.
        label: int[E], as in `fit_temperature`.
        fold: int[E] in [0, F), from `kfold` or `group_kfold`.
        weights: float or int[E]; None is all 1.
        valid: bool[E, C]; None is all.
        num_folds: F.

    Returns:
        temperatures: float[F], and scaled log masses: float[E, C], z / T of the row's
        fold; their pooled ECE is the cross-validated one.

    Raises:
        AssertionError: if the shapes do not fit.
    """

    def fit(training: jax.Array) -> jax.Array:
        return fit_temperature(log_masses, label, training, valid=valid).temperature

    temperatures = jax.lax.map(fit, training_weights(fold, num_folds, weights))
    return temperatures, apply_temperature(log_masses, temperatures[fold])
