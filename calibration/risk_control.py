"""Answering only what is certain enough: an error rate that holds with high probability.

Axis legend: E examples, in order of descending margin.
"""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
from jax.scipy.special import betainc

from .ranking import Cumulated, cumulate, rank_by_margin
from .rows import float_dtype, row_weights


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SelectiveRule:
    """Answer where the margin is at least a threshold.

    Attributes:
        threshold: float[], least margin to answer at; ∞ answers nothing.
        coverage: float[], share of the calibration rows that is answered.
        risk: float[], their error rate; NaN if nothing is answered.
    """

    threshold: jax.Array
    coverage: jax.Array
    risk: jax.Array


def selective_risk_control(
    margin: jax.Array,
    correct: jax.Array,
    weights: jax.Array | None = None,
    *,
    risk: float,
    delta: float = 0.05,
    num_thresholds: int = 50,
) -> SelectiveRule:
    """Answer as much as possible with an error rate of at most r, with probability 1 − δ.

    A threshold passes if its Clopper-Pearson bound is at most r: P(Bin(k, r) ≤ e) ≤ δ / m for
    its k answers with e errors. The m candidates are the least coverage that could pass, were
    all its answers right, and evenly spaced ones above it; they share δ (Bonferroni), so that
    the largest that passes may be taken (Geifman and El-Yaniv 2017; Angelopoulos et al. 2022).
    Rows must be independent: keep one per image, or take the bound for a rough one.

    Args:
        margin: float[E], larger is more confident.
        correct: bool or 0/1[E].
        weights: int[E], counts; None is all 1.
        risk: r, in (0, 1).
        delta: δ, chance that the error rate is larger, in (0, 1).
        num_thresholds: m.

    Returns:
        SelectiveRule; NaN if a margin that counts is NaN.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if risk or delta is outside (0, 1), or num_thresholds < 1.
    """
    for name, share in (("risk", risk), ("delta", delta)):
        if not 0 < share < 1:
            raise ValueError(f"{name} is {share}; it lies in (0, 1)")
    if num_thresholds < 1:
        raise ValueError(f"num_thresholds is {num_thresholds}; at least 1 is needed")
    chex.assert_equal_shape([margin, correct])
    margin = jnp.asarray(margin, float_dtype(margin))
    if not margin.size:
        return SelectiveRule(*[jnp.full((), jnp.nan, margin.dtype)] * 3)
    correct, weights = jnp.asarray(correct, margin.dtype), row_weights(weights, margin)
    ranking = rank_by_margin(margin)
    ranked, correct, weights = (x[ranking.order] for x in (margin, correct, weights))
    rows = cumulate(ranking, correct, weights)
    place = _candidates(rows, risk, delta / num_thresholds, num_thresholds)
    kept, wrong = rows.count[place + 1], rows.errors[place + 1]
    tail = betainc(jnp.maximum(kept - wrong, 1e-6), wrong + 1, 1 - risk)
    passed = (tail <= delta / num_thresholds) & (kept > wrong)
    best = jnp.argmax(jnp.where(passed, kept, -1))
    found, total = passed[best], rows.count[-1]
    rule = SelectiveRule(
        threshold=jnp.where(found, ranked[place[best]], jnp.inf),
        coverage=jnp.where(found, kept[best], 0) / total,
        risk=jnp.where(found, wrong[best] / kept[best], jnp.nan),
    )
    invalid = jnp.isnan(rows.error_rate)
    return jax.tree.map(lambda x: jnp.where(invalid, jnp.nan, x), rule)


def _candidates(rows: Cumulated, risk: float, delta: float, number: int) -> jax.Array:
    """Return the last ranks of the tie groups where the candidates' coverages fall: int[m]."""
    total = rows.count[-1]
    least = jnp.ceil(jnp.log(delta) / jnp.log1p(-jnp.asarray(risk, total.dtype)))
    wanted = jnp.minimum(jnp.linspace(jnp.minimum(least, total), total, number), total)
    rank = jnp.searchsorted(rows.count[1:], jnp.ceil(wanted), side="left")
    return rows.last[jnp.minimum(rank, rows.last.size - 1)]


def certified_coverage_at_risk(
    margin: jax.Array,
    correct: jax.Array,
    weights: jax.Array | None = None,
    *,
    risk: float,
    delta: float = 0.05,
) -> jax.Array:
    """Find the coverage at which the error rate is at most r with probability 1 − δ.

    Args:
        margin: float[E], larger is more confident.
        correct: bool or 0/1[E].
        weights: int[E], counts; None is all 1.
        risk: r, in (0, 1).
        delta: δ, in (0, 1).

    Returns:
        float[], the coverage of `selective_risk_control`; 0 if no coverage is certain.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if risk or delta is outside (0, 1).
    """
    return selective_risk_control(margin, correct, weights, risk=risk, delta=delta).coverage
