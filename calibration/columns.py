"""The columns of the tables: one line each, name → function of weighted evidence.

A further metric is one function in its topic file and one line in `COLUMNS`.

Axis legend: E examples, C choices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from . import metrics, selective
from .confidence import label_log_prob, top_label
from .rows import row_weights, weighted_mean


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the columns read of the rows; computed once, then weighted R times.

    Attributes:
        ranking: Ranking by margin; the other fields are in its order.
        confidence: float[E].
        correct: float[E], 0 or 1.
        log_prob: float[E], log probability of the right choice.
        scaled_confidence: float[E], after the out-of-fold temperature.
        answer_mass: float[E], share of the full softmax on the choices.
    """

    ranking: selective.Ranking
    confidence: jax.Array
    correct: jax.Array
    log_prob: jax.Array
    scaled_confidence: jax.Array
    answer_mass: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weighted:
    """Evidence under one weighting of its rows.

    Attributes:
        evidence: Evidence.
        weights: int[E], counts in the order of the ranking.
        cumulated: Cumulated of the ranked rows.
    """

    evidence: Evidence
    weights: jax.Array
    cumulated: selective.Cumulated

    @property
    def rated(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return what the metrics of confidences take."""
        return self.evidence.confidence, self.evidence.correct, self.weights

    @property
    def rescaled(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the same after the out-of-fold temperature."""
        return self.evidence.scaled_confidence, self.evidence.correct, self.weights

    def mean(self, values: jax.Array) -> jax.Array:
        """Average float[E]."""
        return weighted_mean(values, row_weights(self.weights, values))


COLUMNS: Mapping[str, Callable[[Weighted], jax.Array]] = {
    "accuracy": lambda x: metrics.accuracy(*x.rated),
    "mean_confidence": lambda x: metrics.mean_confidence(*x.rated),
    "overconfidence": lambda x: metrics.overconfidence(*x.rated),
    "ece": lambda x: metrics.expected_calibration_error(*x.rated),
    "brier": lambda x: metrics.brier_score(*x.rated),
    "nll": lambda x: x.mean(-x.evidence.log_prob),
    "aurc": lambda x: selective.ranked_aurc(x.cumulated),
    "cross_validated_ece": lambda x: metrics.expected_calibration_error(*x.rescaled),
    "accuracy_at_80": lambda x: selective.ranked_selective_accuracy(x.cumulated),
    "answer_mass": lambda x: x.mean(x.evidence.answer_mass),
}
VALUE_ONLY = ("temperature", "temperature_grid")  # a fit per resample is not worth it


def evaluate_columns(evidence: Evidence, weights: jax.Array) -> jax.Array:
    """Evaluate every column under one weighting.

    Args:
        evidence: Evidence of the E rows.
        weights: int[E], counts in the order of the ranking.

    Returns:
        float[columns], in the order of COLUMNS.
    """
    cumulated = selective.cumulate(evidence.ranking, evidence.correct, weights)
    weighted = Weighted(evidence, weights, cumulated)
    return jnp.stack([column(weighted) for column in COLUMNS.values()])


def take_evidence(
    log_masses: jax.Array,
    scaled: jax.Array,
    label: jax.Array,
    answer_log_mass: jax.Array,
    valid: jax.Array,
) -> Evidence:
    """Take what the columns read, in the order of the margin.

    Args:
        log_masses: float[E, C].
        scaled: float[E, C], log masses after the out-of-fold temperature.
        label: int[E].
        answer_log_mass: float[E].
        valid: bool[E, C].

    Returns:
        Evidence.
    """
    top = top_label(log_masses, label, valid)
    ranking = selective.rank_by_margin(top.margin)
    fields = {
        "confidence": top.confidence,
        "correct": top.correct.astype(top.confidence.dtype),
        "log_prob": label_log_prob(log_masses, label, valid),
        "scaled_confidence": top_label(scaled, label, valid).confidence,
        "answer_mass": jnp.exp(answer_log_mass),
    }
    return Evidence(ranking, **{k: v[ranking.order] for k, v in fields.items()})
