"""Accuracy, confidence and the proper scores.

Axis legend: E examples, C choices. Every function weights its rows: 0/1 weights are a
mask, integer weights are bootstrap counts. All are NaN if a row that counts has an
impossible value, or if no row counts.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from .confidence import label_log_prob
from .rows import confidence_rows, float_dtype, row_weights, weighted_mean


def accuracy(
    confidence: jax.Array, correct: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
    """Average correctness, Σ wᵢ aᵢ / W.

    Args:
        confidence: float[E] in [0, 1]; only its validity matters here.
        correct: bool or 0/1[E].
        weights: float or int[E]; None is all 1.

    Returns:
        float[] in [0, 1].

    Raises:
        AssertionError: if the shapes differ.
    """
    confidence, correct, weights = confidence_rows(confidence, correct, weights)
    return weighted_mean(correct, weights)


def mean_confidence(
    confidence: jax.Array, correct: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
    """Average confidence, Σ wᵢ cᵢ / W.

    Args:
        confidence: float[E] in [0, 1].
        correct: bool or 0/1[E]; only its validity matters here.
        weights: float or int[E]; None is all 1.

    Returns:
        float[] in [0, 1].

    Raises:
        AssertionError: if the shapes differ.
    """
    confidence, correct, weights = confidence_rows(confidence, correct, weights)
    return weighted_mean(confidence, weights)


def overconfidence(
    confidence: jax.Array, correct: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
    """Subtract accuracy from mean confidence, Σ wᵢ (cᵢ − aᵢ) / W.

    Args:
        confidence: float[E] in [0, 1].
        correct: bool or 0/1[E].
        weights: float or int[E]; None is all 1.

    Returns:
        float[] in [−1, 1], negative for an underconfident model.

    Raises:
        AssertionError: if the shapes differ.
    """
    confidence, correct, weights = confidence_rows(confidence, correct, weights)
    return weighted_mean(confidence - correct, weights)


def brier_score(
    confidence: jax.Array, correct: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
    """Average the squared error of the confidence, Σ wᵢ (cᵢ − aᵢ)² / W.

    The top-label score (Brier 1950 for one event): for two choices it equals the mean
    of (p_yes − y)², half of the sum over both classes.

    Args:
        confidence: float[E] in [0, 1].
        correct: bool or 0/1[E].
        weights: float or int[E]; None is all 1.

    Returns:
        float[] in [0, 1].

    Raises:
        AssertionError: if the shapes differ.
    """
    confidence, correct, weights = confidence_rows(confidence, correct, weights)
    return weighted_mean(jnp.square(confidence - correct), weights)


def brier_score_multiclass(
    probabilities: jax.Array, label: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
    """Average the squared error summed over all choices, Σ wᵢ Σₖ (pₖ − 1[k = y])² / W.

    Brier's own form; for two choices twice `brier_score`.

    Args:
        probabilities: float[E, C], each row sums to 1, 0 for a choice not offered.
        label: int[E]; a label outside [0, C) is no choice, all of which are then wrong.
        weights: float or int[E]; None is all 1.

    Returns:
        float[] in [0, 2].

    Raises:
        AssertionError: if the shapes do not fit.
    """
    probabilities = probability_rows(probabilities, label)
    outcome = jax.nn.one_hot(label, probabilities.shape[1], dtype=probabilities.dtype)
    loss = jnp.sum(jnp.square(probabilities - outcome), axis=1)
    return weighted_mean(loss, row_weights(weights, loss))


def probability_rows(probabilities: jax.Array, label: jax.Array) -> jax.Array:
    """Bring probabilities to floats; a row with one outside [0, 1] is all NaN.

    Args:
        probabilities: float[E, C].
        label: int[E].

    Returns:
        float[E, C].

    Raises:
        AssertionError: if the shapes do not fit.
    """
    chex.assert_rank(probabilities, 2)
    chex.assert_shape(label, probabilities.shape[:1])
    probabilities = jnp.asarray(probabilities, float_dtype(probabilities))
    possible = jnp.all((probabilities >= 0) & (probabilities <= 1), axis=1, keepdims=True)
    return jnp.where(possible, probabilities, jnp.nan)


def negative_log_likelihood(
    log_masses: jax.Array,
    label: jax.Array,
    weights: jax.Array | None = None,
    *,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Average −log p of the right choice among the valid ones, in nats, unclipped.

    Args:
        log_masses: float[E, C], any logits over the choices.
        label: int[E].
        weights: float or int[E]; None is all 1.
        valid: bool[E, C]; None is all.

    Returns:
        float[] ≥ 0; ∞ if a row that counts has a label that is not a valid choice.

    Raises:
        AssertionError: if the shapes do not fit.
    """
    chex.assert_rank(log_masses, 2)
    loss = -label_log_prob(log_masses, label, valid)
    return weighted_mean(loss, row_weights(weights, loss))
