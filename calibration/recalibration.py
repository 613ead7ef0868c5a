"""Recalibration with a few parameters: Platt, beta and vector scaling.

Each fit minimises the mean negative log-likelihood and returns what its `apply_*` takes.
Binary maps take a logit, log p − log(1 − p), so that no probability saturates.

Axis legend: E examples, C choices.
"""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp

from .confidence import label_log_prob, valid_choices
from .minimise import minimise
from .rows import float_dtype, row_weights, weighted_mean


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PlattFit:
    """A fitted logistic map, logit ↦ a · logit + b.

    Attributes:
        slope: float[], a.
        intercept: float[], b.
        nll: float[], mean negative log-likelihood, in nats.
        converged: bool[].
    """

    slope: jax.Array
    intercept: jax.Array
    nll: jax.Array
    converged: jax.Array


def _outcome_rows(
    logit: jax.Array, outcome: jax.Array, weights: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Bring rows to floats, NaN where a logit or an outcome is impossible."""
    chex.assert_rank([logit, outcome], 1)
    chex.assert_equal_shape([logit, outcome])
    logit = jnp.asarray(logit, float_dtype(logit))
    outcome = jnp.asarray(outcome, logit.dtype)
    possible = jnp.isfinite(logit) & ((outcome == 0) | (outcome == 1))
    weights = row_weights(weights, logit)
    logit = jnp.where(possible, logit, jnp.nan)
    return jnp.where(weights != 0, logit, 0), outcome, weights


def _binary_loss(logit: jax.Array, outcome: jax.Array, weights: jax.Array) -> jax.Array:
    """Average −log p of what happened."""
    return weighted_mean(jnp.logaddexp(0, logit) - outcome * logit, weights)


def fit_platt(logit: jax.Array, outcome: jax.Array, weights: jax.Array | None = None) -> PlattFit:
    """Fit p = σ(a · logit + b) by maximum likelihood (Platt 1999, without his prior).

    Args:
        logit: float[E], log-odds of the event, finite.
        outcome: bool or 0/1[E], whether it happened.
        weights: float or int[E]; None is all 1.

    Returns:
        PlattFit; NaN if a row that counts is invalid; not converged where the rows are
        separable and the slope has no bound.

    Raises:
        AssertionError: if the shapes differ.
    """
    logit, outcome, weights = _outcome_rows(logit, outcome, weights)

    def loss(x: jax.Array) -> jax.Array:
        return _binary_loss(x[0] * logit + x[1], outcome, weights)

    x, converged = minimise(loss, jnp.array([1, 0], logit.dtype))
    nll = loss(x)
    x = jnp.where(jnp.isnan(nll), jnp.nan, x)
    return PlattFit(x[0], x[1], nll, converged)


def apply_platt(fit: PlattFit, logit: jax.Array) -> jax.Array:
    """Map logits float[...] to recalibrated logits, a · logit + b."""
    return fit.slope * logit + fit.intercept


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BetaFit:
    """A fitted beta map, log-odds a ln p − b ln(1 − p) + c with a, b ≥ 0.

    Attributes:
        a: float[].
        b: float[].
        c: float[].
        nll: float[], mean negative log-likelihood, in nats.
        converged: bool[].
    """

    a: jax.Array
    b: jax.Array
    c: jax.Array
    nll: jax.Array
    converged: jax.Array


def fit_beta(logit: jax.Array, outcome: jax.Array, weights: jax.Array | None = None) -> BetaFit:
    """Fit beta calibration, p ↦ σ(a ln p − b ln(1 − p) + c) (Kull et al. 2017).

    The constrained optimum of a convex loss is the best of the fits with neither, one or
    both of a and b held at 0, among those whose a and b are not negative.

    Args:
        logit: float[E], log-odds of the event, finite.
        outcome: bool or 0/1[E], whether it happened.
        weights: float or int[E]; None is all 1.

    Returns:
        BetaFit; NaN if a row that counts is invalid.

    Raises:
        AssertionError: if the shapes differ.
    """
    logit, outcome, weights = _outcome_rows(logit, outcome, weights)
    features = jnp.stack([jax.nn.log_sigmoid(logit), -jax.nn.log_sigmoid(-logit)])

    def fit(free: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        def loss(x: jax.Array) -> jax.Array:
            score = jnp.einsum("ke,k->e", features, x[:2] * free, precision="highest")
            return _binary_loss(score + x[2], outcome, weights)

        x, converged = minimise(loss, jnp.array([1, 1, 0], logit.dtype))
        x = x.at[:2].multiply(free)
        return x, jnp.where(jnp.any(x[:2] < 0), jnp.inf, loss(x)), converged

    held = jnp.array([[1, 1], [1, 0], [0, 1], [0, 0]], logit.dtype)
    found, nll, converged = jax.lax.map(fit, held)
    best = jnp.argmin(nll)  # a NaN wins
    x = jnp.where(jnp.isnan(nll[best]), jnp.nan, found[best])
    return BetaFit(x[0], x[1], x[2], nll[best], converged[best])


def apply_beta(fit: BetaFit, logit: jax.Array) -> jax.Array:
    """Map logits float[...] to recalibrated logits, a ln p − b ln(1 − p) + c."""
    return fit.a * jax.nn.log_sigmoid(logit) - fit.b * jax.nn.log_sigmoid(-logit) + fit.c


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VectorFit:
    """A fitted scale and offset per choice.

    Attributes:
        scale: float[C].
        offset: float[C], centred: only differences matter.
        nll: float[], mean negative log-likelihood, in nats.
        converged: bool[].
    """

    scale: jax.Array
    offset: jax.Array
    nll: jax.Array
    converged: jax.Array


def fit_vector_scaling(
    log_masses: jax.Array,
    label: jax.Array,
    weights: jax.Array | None = None,
    *,
    valid: jax.Array | None = None,
) -> VectorFit:
    """Fit p = softmax(w ∘ log p + b) by maximum likelihood (Guo et al. 2017, §4.2).

    Args:
        log_masses: float[E, C], any logits over the choices; normalised first, as a scale
            per choice does not leave a common shift without effect.
        label: int[E]; rows whose label is not a valid choice are left out.
        weights: float or int[E]; None is all 1.
        valid: bool[E, C]; None is all.

    Returns:
        VectorFit; NaN if a row that counts is invalid.

    Raises:
        AssertionError: if the shapes do not fit.
    """
    chex.assert_rank(log_masses, 2)
    valid = valid_choices(log_masses, valid)
    log_p = _log_probabilities(log_masses, valid)
    offered = jnp.any(jax.nn.one_hot(label, log_p.shape[1], dtype=bool) & valid, axis=1)
    weights = jnp.where(offered, row_weights(weights, log_p[:, 0]), 0)
    log_p = jnp.where((weights != 0)[:, None], log_p, 0)

    def loss(x: tuple[jax.Array, jax.Array]) -> jax.Array:
        return weighted_mean(-label_log_prob(_scale(*x, log_p), label, valid), weights)

    zeros = jnp.zeros(log_p.shape[1], log_p.dtype)
    (scale, offset), converged = minimise(loss, (zeros + 1, zeros))
    nll = loss((scale, offset))
    scale, offset = (jnp.where(jnp.isnan(nll), jnp.nan, x) for x in (scale, offset))
    return VectorFit(scale, offset - jnp.mean(offset), nll, converged)


def _scale(scale: jax.Array, offset: jax.Array, log_p: jax.Array) -> jax.Array:
    """Return scale ∘ log p + offset: float[C], float[C], float[..., C] to float[..., C]."""
    leading = tuple(range(log_p.ndim - 1))
    return jnp.expand_dims(scale, leading) * log_p + jnp.expand_dims(offset, leading)


def _log_probabilities(log_masses: jax.Array, valid: jax.Array) -> jax.Array:
    """Normalise over the valid choices; 0 for the others, which no mask lets count."""
    log_masses = log_masses.astype(float_dtype(log_masses))
    scores = jnp.where(valid, log_masses, -jnp.inf)
    total = jax.nn.logsumexp(scores, axis=-1, keepdims=True)
    return jnp.where(valid, log_masses - total, 0)


def apply_vector_scaling(
    fit: VectorFit, log_masses: jax.Array, valid: jax.Array | None = None
) -> jax.Array:
    """Scale and shift the log probabilities of each choice.

    Args:
        fit: VectorFit.
        log_masses: float[..., C], any logits over the choices.
        valid: bool[..., C]; None is all.

    Returns:
        float[..., C], logits over the choices.
    """
    log_p = _log_probabilities(log_masses, valid_choices(log_masses, valid))
    return _scale(fit.scale, fit.offset, log_p)
