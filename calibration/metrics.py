"""Calibration metrics of (confidence, correct) rows, and the proper scores.

Axis legend: E examples, C choices, B bins. Every function weights its rows: 0/1 weights
are a mask, integer weights are bootstrap counts. All are NaN if a row that counts has
an impossible value, or if no row counts.
"""

from __future__ import annotations

from typing import Literal

import chex
import jax
import jax.numpy as jnp

from .binning import BinStats, Closed, bin_stats
from .confidence import label_log_prob
from .rows import confidence_rows, row_weights, weighted_mean

Norm = Literal["l1", "l2", "max"]


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


def _bin_gaps(stats: BinStats) -> jax.Array:
    """Return |C_b − A_b| / n_b, 0 for an empty bin: float[B]."""
    count = jnp.where(stats.count == 0, 1, stats.count)
    return jnp.abs(stats.sum_confidence - stats.sum_correct) / count


def expected_calibration_error(
    confidence: jax.Array,
    correct: jax.Array,
    weights: jax.Array | None = None,
    *,
    num_bins: int = 15,
    closed: Closed = "right",
    norm: Norm = "l1",
) -> jax.Array:
    """Compare confidence with accuracy per equal-width bin.

    With the gap g_b = |C_b − A_b| / n_b: l1 is Σ_b n_b g_b / W (ECE; Naeini et al. 2015;
    Guo et al. 2017), l2 is √(Σ_b n_b g_b² / W) (RMSCE), max is max_b g_b (MCE).

    Args:
        confidence: float[E] in [0, 1].
        correct: bool or 0/1[E].
        weights: float or int[E]; None is all 1.
        num_bins: B.
        closed: which side of a bin holds its edge.
        norm: how the gaps are joined.

    Returns:
        float[] in [0, 1].

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if norm is unknown.
    """
    stats = bin_stats(confidence, correct, weights, num_bins=num_bins, closed=closed)
    gaps, total = _bin_gaps(stats), jnp.sum(stats.count)
    match norm:
        case "l1":
            gap_sums = jnp.abs(stats.sum_confidence - stats.sum_correct)
            return jnp.sum(gap_sums) / total
        case "l2":
            return jnp.sqrt(jnp.sum(stats.count * gaps**2) / total)
        case "max":
            return jnp.where(total > 0, jnp.max(gaps), jnp.nan)
    raise ValueError(f'norm is {norm!r}; it is "l1", "l2" or "max"')


def average_calibration_error(
    confidence: jax.Array,
    correct: jax.Array,
    weights: jax.Array | None = None,
    *,
    num_bins: int = 15,
    closed: Closed = "right",
) -> jax.Array:
    """Average the gap |C_b − A_b| / n_b over the bins that hold a row.

    Args:
        confidence: float[E] in [0, 1].
        correct: bool or 0/1[E].
        weights: float or int[E]; None is all 1.
        num_bins: B.
        closed: which side of a bin holds its edge.

    Returns:
        float[] in [0, 1].

    Raises:
        AssertionError: if the shapes differ.
    """
    stats = bin_stats(confidence, correct, weights, num_bins=num_bins, closed=closed)
    return jnp.sum(_bin_gaps(stats)) / jnp.sum(stats.count > 0)


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
