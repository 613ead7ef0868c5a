"""The columns of a report: one line each, name → function of weighted evidence.

A further metric is one function in its topic file and one line in `COLUMNS`.

Axis legend: E examples, C choices, B bins.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from . import areas, ranking, selective
from .binning import bin_index
from .confidence import choice_probabilities, label_log_prob, top_label
from .rows import weighted_mean

_NUM_BINS = 15


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the columns read of the rows; computed once, then weighted R times.

    Attributes:
        ranking: Ranking by margin; the other fields are in its order.
        confidence: float[E].
        correct: float[E], 0 or 1.
        log_prob: float[E], log probability of the right choice.
        squares: float[E], Σₖ (pₖ − 1[k = y])².
        answer_mass: float[E], share of the full softmax on the choices.
        gap_in_bin: float[E, B], confidence − correct in the row's bin.
        scaled_gap_in_bin: float[E, B], the same after the out-of-fold temperature.
    """

    ranking: ranking.Ranking
    confidence: jax.Array
    correct: jax.Array
    log_prob: jax.Array
    squares: jax.Array
    answer_mass: jax.Array
    gap_in_bin: jax.Array
    scaled_gap_in_bin: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weighted:
    """Evidence under one weighting of its rows.

    Attributes:
        evidence: Evidence.
        weights: float[E], counts in the order of the ranking.
        cumulated: Cumulated of the ranked rows.
    """

    evidence: Evidence
    weights: jax.Array
    cumulated: ranking.Cumulated

    def mean(self, values: jax.Array) -> jax.Array:
        """Average float[E]."""
        return weighted_mean(values, self.weights)

    def binned(self, gap_in_bin: jax.Array) -> jax.Array:
        """Sum the absolute gaps per bin, Σ_b |Σ_{i∈b} wᵢ (cᵢ − aᵢ)| / W."""
        gaps = jnp.matmul(self.weights, gap_in_bin, precision=jax.lax.Precision.HIGHEST)
        return jnp.sum(jnp.abs(gaps)) / jnp.sum(self.weights)


COLUMNS: Mapping[str, Callable[[Weighted], jax.Array]] = {
    "accuracy": lambda x: x.mean(x.evidence.correct),
    "mean_confidence": lambda x: x.mean(x.evidence.confidence),
    "overconfidence": lambda x: x.mean(x.evidence.confidence - x.evidence.correct),
    "ece": lambda x: x.binned(x.evidence.gap_in_bin),
    "brier": lambda x: x.mean(jnp.square(x.evidence.confidence - x.evidence.correct)),
    "brier_multiclass": lambda x: x.mean(x.evidence.squares),
    "nll": lambda x: x.mean(-x.evidence.log_prob),
    "aurc": lambda x: areas.ranked_aurc(x.cumulated),
    "augrc": lambda x: areas.ranked_augrc(x.cumulated),
    "confidence_auroc": lambda x: areas.ranked_auroc(x.cumulated),
    "cross_validated_ece": lambda x: x.binned(x.evidence.scaled_gap_in_bin),
    "accuracy_at_80": lambda x: 1 - selective.ranked_selective_risk(x.cumulated),
    "answer_mass": lambda x: x.mean(x.evidence.answer_mass),
}
VALUE_ONLY = ("temperature", "temperature_grid", "smooth_ece")  # too slow on every resample


def weigh(evidence: Evidence, weights: jax.Array) -> Weighted:
    """Weight the rows, and cumulate them for the columns of selective prediction.

    Args:
        evidence: Evidence of the E rows.
        weights: int[E], counts in the order of the ranking.

    Returns:
        Weighted.
    """
    weights = jnp.asarray(weights, evidence.correct.dtype)
    cumulated = ranking.cumulate(evidence.ranking, evidence.correct, weights)
    return Weighted(evidence, weights, cumulated)


def evaluate_columns(evidence: Evidence, weights: jax.Array) -> jax.Array:
    """Evaluate every column under one weighting.

    Args:
        evidence: Evidence of the E rows.
        weights: int[E], counts in the order of the ranking.

    Returns:
        float[columns], in the order of COLUMNS.
    """
    weighted = weigh(evidence, weights)
    return jnp.stack([column(weighted) for column in COLUMNS.values()])


def take_evidence(
    log_masses: jax.Array,
    scaled: jax.Array,
    label: jax.Array,
    answer_log_mass: jax.Array,
    valid: jax.Array,
    prediction: jax.Array | None = None,
) -> Evidence:
    """Take what the columns read, in the order of the margin.

    Args:
        log_masses: float[E, C].
        scaled: float[E, C], log masses after the out-of-fold temperature.
        label: int[E].
        answer_log_mass: float[E].
        valid: bool[E, C].
        prediction: int[E], the answers given, where not the likeliest; None is the likeliest.

    Returns:
        Evidence.
    """
    top = top_label(log_masses, label, valid, prediction=prediction)
    after = top_label(scaled, label, valid, prediction=prediction)
    correct = top.correct.astype(top.confidence.dtype)
    outcome = jax.nn.one_hot(label, log_masses.shape[1], dtype=correct.dtype)
    missed = choice_probabilities(log_masses, valid) - outcome
    ranked = ranking.rank_by_margin(top.margin)
    fields = {
        "confidence": top.confidence,
        "correct": correct,
        "log_prob": label_log_prob(log_masses, label, valid),
        "squares": jnp.sum(jnp.square(missed), axis=1),
        "answer_mass": jnp.exp(answer_log_mass),
        "gap_in_bin": _gap_in_bin(top.confidence, correct),
        "scaled_gap_in_bin": _gap_in_bin(after.confidence, correct),
    }
    return Evidence(ranked, **{k: v[ranked.order] for k, v in fields.items()})


def _gap_in_bin(confidence: jax.Array, correct: jax.Array) -> jax.Array:
    """Return confidence − correct in the row's bin and 0 in the others: float[E, B]."""
    member = jax.nn.one_hot(bin_index(confidence, num_bins=_NUM_BINS), _NUM_BINS)
    return member.astype(confidence.dtype) * (confidence - correct)[:, None]
