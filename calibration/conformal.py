"""Conformal prediction: sets of choices that hold the right one at a stated rate.

The guarantee is marginal and needs exchangeable calibration and test rows: rows of one image
are not exchangeable with those of another image one by one; calibrate on other images.

Axis legend: E examples, C choices, L levels of a parameter.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from .rows import row_weights, weighted_mean
from .scores import probability_rows


def lac_scores(probabilities: jax.Array) -> jax.Array:
    """Score a choice by what it lacks to certainty, 1 − pₖ (Sadinle et al. 2019).

    Args:
        probabilities: float[..., C].

    Returns:
        float[..., C].
    """
    return 1 - probabilities


def aps_scores(probabilities: jax.Array, uniform: jax.Array | None = None) -> jax.Array:
    """Score a choice by the mass of the choices at least as likely (Romano et al. 2020).

    sₖ = Σ_{pⱼ > pₖ} pⱼ + u pₖ; ties are ordered by index.

    Args:
        probabilities: float[..., C].
        uniform: float[...] in [0, 1), u of each row; None is 1, sets a little too large.

    Returns:
        float[..., C].
    """
    order = jnp.argsort(-probabilities, axis=-1, stable=True)
    ranked = jnp.take_along_axis(probabilities, order, axis=-1)
    share = 1 if uniform is None else uniform[..., None]
    total = jnp.cumsum(ranked, axis=-1) - (1 - share) * ranked
    return jnp.take_along_axis(total, jnp.argsort(order, axis=-1), axis=-1)


def conformal_threshold(
    scores: jax.Array, weights: jax.Array | None = None, *, alpha: float
) -> jax.Array:
    """Take the ⌈(n + 1)(1 − α)⌉-th smallest score of the right answers.

    Args:
        scores: float[E].
        weights: int[E], counts; None is all 1.
        alpha: rate at which sets may miss, in (0, 1).

    Returns:
        float[]; ∞, every choice, if there are too few rows for α; NaN if a score that counts
        is NaN.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if alpha is outside (0, 1).
    """
    _check_share("alpha", alpha)
    chex.assert_rank(scores, 1)
    weights = row_weights(weights, scores)
    order = jnp.argsort(jnp.where(weights != 0, scores, jnp.inf))
    ranked, counts = scores[order], jnp.cumsum(weights[order])
    needed = jnp.ceil((jnp.sum(weights) + 1) * (1 - alpha) * (1 - 4 * jnp.finfo(scores.dtype).eps))
    enough = jnp.any(counts >= needed)
    found = ranked[jnp.argmax(counts >= needed)] if scores.size else jnp.inf
    threshold = jnp.where(enough, found, jnp.inf)
    invalid = jnp.any(jnp.isnan(scores) & (weights != 0))
    return jnp.where(invalid, jnp.nan, threshold)


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value}; it lies in (0, 1)")


def _of_label(scores: jax.Array, label: jax.Array) -> jax.Array:
    chex.assert_shape(label, scores.shape[:-1])
    known = (label >= 0) & (label < scores.shape[-1])
    found = jnp.take_along_axis(scores, jnp.where(known, label, 0)[:, None], axis=-1)[:, 0]
    return jnp.where(known, found, jnp.nan)


def lac_threshold(
    probabilities: jax.Array,
    label: jax.Array,
    weights: jax.Array | None = None,
    *,
    alpha: float,
) -> jax.Array:
    """Calibrate least-ambiguous sets, {k : 1 − pₖ ≤ q} (Sadinle et al. 2019).

    Args:
        probabilities: float[E, C], each row sums to 1, 0 for a choice not offered.
        label: int[E].
        weights: int[E], counts; None is all 1.
        alpha: rate at which sets may miss the right choice, in (0, 1).

    Returns:
        q, float[], as `conformal_threshold`.

    Raises:
        AssertionError: if the shapes do not fit.
        ValueError: if alpha is outside (0, 1).
    """
    scores = lac_scores(probability_rows(probabilities, label))
    return conformal_threshold(_of_label(scores, label), weights, alpha=alpha)


def aps_threshold(
    probabilities: jax.Array,
    label: jax.Array,
    weights: jax.Array | None = None,
    *,
    alpha: float,
    uniform: jax.Array | None = None,
) -> jax.Array:
    """Calibrate adaptive sets, the likeliest choices up to a mass (Romano et al. 2020).

    Args:
        probabilities: float[E, C], each row sums to 1, 0 for a choice not offered.
        label: int[E].
        weights: int[E], counts; None is all 1.
        alpha: rate at which sets may miss the right choice, in (0, 1).
        uniform: float[E], as in `aps_scores`.

    Returns:
        q, float[], as `conformal_threshold`.

    Raises:
        AssertionError: if the shapes do not fit.
        ValueError: if alpha is outside (0, 1).
    """
    scores = aps_scores(probability_rows(probabilities, label), uniform)
    return conformal_threshold(_of_label(scores, label), weights, alpha=alpha)


def prediction_set(
    probabilities: jax.Array,
    threshold: jax.Array,
    valid: jax.Array | None = None,
    *,
    scores: Callable[[jax.Array], jax.Array] = lac_scores,
) -> jax.Array:
    """Collect the choices whose score is within the threshold, {k : sₖ ≤ q}.

    Args:
        probabilities: float[..., C].
        threshold: q, float[], from `lac_threshold` or `aps_threshold`.
        valid: bool[..., C], choices that the question has; None is all.
        scores: `lac_scores`, `aps_scores`, or another score of probabilities.

    Returns:
        bool[..., C].
    """
    inside = scores(probabilities) <= threshold
    return inside if valid is None else inside & valid


def conformal_risk_control(
    losses: jax.Array,
    levels: jax.Array,
    weights: jax.Array | None = None,
    *,
    alpha: float,
    bound: float = 1.0,
) -> jax.Array:
    """Choose the least level whose expected loss is at most α (Angelopoulos et al. 2024).

    λ̂ = inf{λ : n/(n + 1) R̂(λ) + B/(n + 1) ≤ α}, for losses that do not grow with λ.

    Args:
        losses: float[E, L], of each row at each level, at most B.
        levels: float[L], λ, ascending.
        weights: int[E], counts; None is all 1.
        alpha: expected loss to allow, in (0, bound).
        bound: B.

    Returns:
        float[]; NaN if no level is good enough, or a loss that counts is NaN.

    Raises:
        AssertionError: if the shapes do not fit.
        ValueError: if alpha is outside (0, bound).
    """
    if not 0 < alpha < bound:
        raise ValueError(f"alpha is {alpha}; it lies in (0, {bound})")
    chex.assert_rank(losses, 2)
    chex.assert_shape(levels, losses.shape[1:])
    weights = row_weights(weights, losses[:, 0])
    total = jnp.sum(weights)
    risk = jax.vmap(weighted_mean, in_axes=(1, None))(losses, weights)
    good = (total * risk + bound) / (total + 1) <= alpha
    found = jnp.where(jnp.any(good), levels[jnp.argmax(good)], jnp.nan)
    return jnp.where(jnp.any(jnp.isnan(risk)), jnp.nan, found)
