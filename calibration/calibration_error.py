"""Calibration errors: how far confidence is from accuracy where confidence is alike.

Axis legend: E examples, C choices, B bins. Every function weights its rows and is NaN if
a row that counts has an impossible value, or if no row counts.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from .binning import BinStats, Closed, bin_stats, bin_stats_equal_mass
from .rows import confidence_rows, weighted_sum
from .scores import probability_rows

Norm = Literal["l1", "l2", "max"]
Binning = Literal["width", "mass", "rank"]


def _stats(
    confidence: jax.Array,
    correct: jax.Array,
    weights: jax.Array | None,
    num_bins: int,
    closed: Closed,
    binning: Binning,
) -> BinStats:
    """Bin rows by equal width, by equal mass with midpoint edges, or by rank."""
    match binning:
        case "width":
            return bin_stats(confidence, correct, weights, num_bins=num_bins, closed=closed)
        case "mass":
            return bin_stats_equal_mass(confidence, correct, weights, num_bins=num_bins)
        case "rank":
            rows = (confidence, correct, weights)
            return bin_stats_equal_mass(*rows, num_bins=num_bins, cut="rank")
    raise ValueError(f'binning is {binning!r}; it is "width", "mass" or "rank"')


def expected_calibration_error(
    confidence: jax.Array,
    correct: jax.Array,
    weights: jax.Array | None = None,
    *,
    num_bins: int = 15,
    closed: Closed = "right",
    norm: Norm = "l1",
    binning: Binning = "width",
    debiased: bool = False,
) -> jax.Array:
    """Compare confidence with accuracy per bin.

    With the gap g_b = |C_b − A_b| / n_b: l1 is Σ_b n_b g_b / W (ECE; Naeini et al. 2015;
    Guo et al. 2017), l2 is √(Σ_b n_b g_b² / W) (RMSCE), max is max_b g_b (MCE). Debiased l2
    takes the variance of the bin's accuracy, ā(1 − ā) / (n_b − 1), from g_b², leaves bins of
    fewer than two rows out, and is at least 0 (Kumar et al. 2019, §4).

    Args:
        confidence: float[E] in [0, 1].
        correct: bool or 0/1[E].
        weights: float or int[E]; None is all 1.
        num_bins: B.
        closed: which side of a bin of equal width holds its edge.
        norm: how the gaps are joined.
        binning: bins of equal "width"; of equal "mass" with edges between the rows, ties
            together; or of equal mass by "rank", ties cut.
        debiased: subtract the sampling variance; l2 only.

    Returns:
        float[] in [0, 1].

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if norm or binning is unknown, or another norm than l2 is debiased.
    """
    if norm not in ("l1", "l2", "max"):
        raise ValueError(f'norm is {norm!r}; it is "l1", "l2" or "max"')
    if debiased and norm != "l2":
        raise ValueError(f'norm is {norm!r}; only "l2" can be debiased')
    stats = _stats(confidence, correct, weights, num_bins, closed, binning)
    total = jnp.sum(stats.count)
    gap_sums = jnp.abs(stats.sum_confidence - stats.sum_correct)
    gaps = gap_sums / stats.filled
    if norm == "l1":
        return jnp.sum(gap_sums) / total
    if norm == "max":
        return jnp.where(total > 0, jnp.max(gaps), jnp.nan)
    squares = jnp.square(gaps)
    if debiased:
        variance = stats.accuracy * (1 - stats.accuracy) / jnp.maximum(stats.count - 1, 1)
        squares = jnp.where(stats.count >= 2, squares - variance, 0 * squares)
    return jnp.sqrt(jnp.maximum(jnp.sum(stats.count * squares) / total, 0))


def average_calibration_error(
    confidence: jax.Array,
    correct: jax.Array,
    weights: jax.Array | None = None,
    *,
    num_bins: int = 15,
    closed: Closed = "right",
    binning: Binning = "width",
) -> jax.Array:
    """Average the gap |C_b − A_b| / n_b over the bins that hold a row.

    Args:
        confidence: float[E] in [0, 1].
        correct: bool or 0/1[E].
        weights: float or int[E]; None is all 1.
        num_bins: B.
        closed: which side of a bin of equal width holds its edge.
        binning: as in `expected_calibration_error`.

    Returns:
        float[] in [0, 1].

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if binning is unknown.
    """
    stats = _stats(confidence, correct, weights, num_bins, closed, binning)
    gaps = jnp.abs(stats.confidence - stats.accuracy)
    return jnp.sum(gaps) / jnp.sum(stats.count > 0)


def classwise_calibration_error(
    probabilities: jax.Array,
    label: jax.Array,
    weights: jax.Array | None = None,
    *,
    num_bins: int = 15,
    closed: Closed = "right",
    norm: Norm = "l1",
    binning: Binning = "width",
) -> jax.Array:
    """Average over the choices the calibration error of "the answer is k", pₖ.

    (1/C) Σₖ ECE(p_·ₖ, 1[y = k]) (Kull et al. 2019; marginal calibration of Kumar et al. 2019).

    Args:
        probabilities: float[E, C], each row sums to 1, 0 for a choice not offered.
        label: int[E].
        weights: float or int[E]; None is all 1.
        num_bins: B.
        closed: which side of a bin of equal width holds its edge.
        norm: how the gaps are joined.
        binning: as in `expected_calibration_error`.

    Returns:
        float[] in [0, 1].

    Raises:
        AssertionError: if the shapes do not fit.
        ValueError: as `expected_calibration_error`.
    """
    probabilities = probability_rows(probabilities, label)

    def error(column: jax.Array, choice: jax.Array) -> jax.Array:
        options = {"num_bins": num_bins, "closed": closed, "norm": norm, "binning": binning}
        return expected_calibration_error(column, label == choice, weights, **options)

    choices = jnp.arange(probabilities.shape[1])
    return jnp.mean(jax.vmap(error)(probabilities.T, choices))


def ks_calibration_error(
    confidence: jax.Array, correct: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
    """Take the largest cumulative gap, max_v |Σ_{cᵢ ≤ v} wᵢ (aᵢ − cᵢ)| / W.

    The Kolmogorov-Smirnov error (Gupta et al. 2021), which needs no bins; v runs over the
    distinct confidences, so ties are not cut.

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
    order = jnp.argsort(confidence)
    confidence, correct, weights = confidence[order], correct[order], weights[order]
    gap = jnp.where(weights != 0, weights * (correct - confidence), 0)
    ends = jnp.append(confidence[1:] != confidence[:-1], jnp.ones(min(gap.size, 1), bool))
    total = jnp.cumsum(gap)
    largest = jnp.max(jnp.where(ends, jnp.abs(total), 0), initial=0)
    return largest / jnp.sum(weights)


def spiegelhalter_z(
    confidence: jax.Array, correct: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
    """Test calibration: z = Σ w (a − c)(1 − 2c) / √(Σ w (1 − 2c)² c (1 − c)).

    Standard normal if every confidence is the true probability and rows are independent
    (Spiegelhalter 1986); rows that share an image are not, and |z| is then too large.

    Args:
        confidence: float[E] in [0, 1].
        correct: bool or 0/1[E].
        weights: float or int[E], counts; None is all 1.

    Returns:
        float[]; NaN also where every confidence is 0, ½ or 1.

    Raises:
        AssertionError: if the shapes differ.
    """
    confidence, correct, weights = confidence_rows(confidence, correct, weights)
    lean = 1 - 2 * confidence
    variance = jnp.square(lean) * confidence * (1 - confidence)
    gap = weighted_sum((correct - confidence) * lean, weights)
    return gap / jnp.sqrt(weighted_sum(variance, weights))
