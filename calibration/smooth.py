"""Smooth calibration error: the gap smoothed by a kernel whose width it chooses itself.

Axis legend: E examples, M grid intervals.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .rows import confidence_rows

_INTERVALS = 4096  # error of the linear binning below 1e-7
_HALVINGS = 26  # of the bracket [0, 1] of the width


def smooth_calibration_error(
    confidence: jax.Array,
    correct: jax.Array,
    weights: jax.Array | None = None,
    *,
    sigma: float | None = None,
) -> jax.Array:
    """Integrate the smoothed gap, smECE_σ = ∫₀¹ |Σ wᵢ (cᵢ − aᵢ) K̃_σ(t, cᵢ) / W| dt.

    K̃_σ is the Gaussian of width σ reflected at 0 and 1; with σ chosen as the fixed point
    smECE_σ = σ the error is a consistent measure without bins (Błasiok and Nakkiran 2024).
    The reflected kernel is diagonal in cosines: K̃_σ multiplies cos(πkt) by exp(−(πkσ)²/2),
    so the integrand is exact up to the grid of 4,096 intervals.

    Args:
        confidence: float[E] in [0, 1].
        correct: bool or 0/1[E].
        weights: float or int[E]; None is all 1.
        sigma: width of the kernel; None is the fixed point.

    Returns:
        float[] in [0, 1]; NaN if a row that counts is impossible or none counts.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if sigma is not positive.
    """
    if sigma is not None and not sigma > 0:
        raise ValueError(f"sigma is {sigma}; a width is positive, or None")
    cosines = _cosines(_gaps(confidence, correct, weights))
    if sigma is not None:
        return _integral(cosines, jnp.asarray(sigma, cosines.dtype))

    def halve(_: int, bracket: jax.Array) -> jax.Array:
        middle = jnp.mean(bracket)
        wider = _integral(cosines, middle) > middle
        return jnp.where(wider, bracket.at[0].set(middle), bracket.at[1].set(middle))

    bracket = jax.lax.fori_loop(0, _HALVINGS, halve, jnp.arange(2, dtype=cosines.dtype))
    return _integral(cosines, bracket[1])


def _gaps(confidence: jax.Array, correct: jax.Array, weights: jax.Array | None) -> jax.Array:
    """Divide each row's w (c − a) / W between its two neighbours on the grid: float[M+1]."""
    confidence, correct, weights = confidence_rows(confidence, correct, weights)
    total = jnp.sum(weights)
    gap = jnp.where(weights != 0, weights * (confidence - correct), 0) / total
    place = jnp.where(jnp.isnan(confidence), 0, confidence) * _INTERVALS
    below = jnp.clip(jnp.floor(place), 0, _INTERVALS - 1).astype(jnp.int32)
    above = gap * (place - below)
    grid = jnp.full(_INTERVALS + 1, jnp.where(total > 0, 0, jnp.nan), gap.dtype)
    return grid.at[below].add(gap - above).at[below + 1].add(above)


def _cosines(values: jax.Array) -> jax.Array:
    """Return Σⱼ vⱼ cos(πkj/M), k = 0 … M, by the FFT of the even extension: float[M+1]."""
    ends = values.at[0].multiply(2).at[-1].multiply(2)
    return jnp.fft.rfft(jnp.concatenate([ends, ends[-2:0:-1]])).real / 2


def _integral(cosines: jax.Array, sigma: jax.Array) -> jax.Array:
    """Smooth the series, return it to the grid, and integrate its absolute value."""
    frequency = jnp.pi * jnp.arange(cosines.size, dtype=cosines.dtype)
    damped = cosines * jnp.exp(-jnp.square(frequency * sigma) / 2)
    smooth = jnp.abs(2 * _cosines(damped) - damped[0])
    return (jnp.sum(smooth) - (smooth[0] + smooth[-1]) / 2) / _INTERVALS
