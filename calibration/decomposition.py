"""The parts of the Brier score: calibration, discrimination, and what the task leaves open.

Axis legend: E examples, B bins.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from .binning import Closed, bin_index, bin_stats
from .isotonic import isotonic_regression
from .rows import confidence_rows, pooled_ties, weighted_mean


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BrierParts:
    """The exact decomposition of a binned Brier score.

    Brier = reliability − resolution + uncertainty + within_bin_variance
    − 2 · within_bin_covariance.

    Attributes:
        reliability: float[], Σ n_b (c̄_b − ā_b)² / W.
        resolution: float[], Σ n_b (ā_b − ā)² / W.
        uncertainty: float[], ā (1 − ā).
        within_bin_variance: float[], Σ wᵢ (cᵢ − c̄_b)² / W.
        within_bin_covariance: float[], Σ wᵢ (cᵢ − c̄_b)(aᵢ − ā_b) / W.
    """

    reliability: jax.Array
    resolution: jax.Array
    uncertainty: jax.Array
    within_bin_variance: jax.Array
    within_bin_covariance: jax.Array


def brier_decomposition(
    confidence: jax.Array,
    correct: jax.Array,
    weights: jax.Array | None = None,
    *,
    num_bins: int = 15,
    closed: Closed = "right",
) -> BrierParts:
    """Split the Brier score by bins, exactly (Murphy 1973; Stephenson et al. 2008).

    Args:
        confidence: float[E] in [0, 1].
        correct: bool or 0/1[E].
        weights: float or int[E]; None is all 1.
        num_bins: B.
        closed: which side of a bin holds its edge.

    Returns:
        BrierParts; NaN if a row that counts is impossible or none counts.

    Raises:
        AssertionError: if the shapes differ.
    """
    stats = bin_stats(confidence, correct, weights, num_bins=num_bins, closed=closed)
    confidence, correct, weights = confidence_rows(confidence, correct, weights)
    index = bin_index(confidence, num_bins=num_bins, closed=closed)
    base = weighted_mean(correct, weights)
    share = stats.count / jnp.sum(weights)
    spread = confidence - stats.confidence[index]
    return BrierParts(
        reliability=jnp.sum(share * jnp.square(stats.confidence - stats.accuracy)),
        resolution=jnp.sum(share * jnp.square(stats.accuracy - base)),
        uncertainty=base * (1 - base),
        within_bin_variance=weighted_mean(jnp.square(spread), weights),
        within_bin_covariance=weighted_mean(spread * (correct - stats.accuracy[index]), weights),
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CorpParts:
    """The decomposition of the Brier score by isotonic recalibration.

    score = miscalibration − discrimination + uncertainty.

    Attributes:
        miscalibration: float[] ≥ 0, S − S_iso: what recalibration would gain.
        discrimination: float[] ≥ 0, UNC − S_iso.
        uncertainty: float[], ā (1 − ā).
        score: float[], S, the Brier score.
    """

    miscalibration: jax.Array
    discrimination: jax.Array
    uncertainty: jax.Array
    score: jax.Array


def corp_decomposition(
    confidence: jax.Array, correct: jax.Array, weights: jax.Array | None = None
) -> CorpParts:
    """Split the Brier score without bins (CORP; Dimitriadis, Gneiting and Jordan 2021).

    Args:
        confidence: float[E] in [0, 1].
        correct: bool or 0/1[E].
        weights: float or int[E]; None is all 1.

    Returns:
        CorpParts; NaN if a row that counts is impossible or none counts.

    Raises:
        AssertionError: if the shapes differ.
    """
    confidence, correct, weights = confidence_rows(confidence, correct, weights)
    order = jnp.argsort(confidence)
    confidence, correct, weights = confidence[order], correct[order], weights[order]
    fitted = isotonic_regression(pooled_ties(correct, confidence, weights), weights)
    base = weighted_mean(correct, weights)
    score = weighted_mean(jnp.square(confidence - correct), weights)
    best = weighted_mean(jnp.square(fitted - correct), weights)
    uncertainty = base * (1 - base)
    return CorpParts(score - best, uncertainty - best, uncertainty, score)
