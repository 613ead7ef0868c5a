"""The metrics with their inputs checked on the host, before anything is computed.

Same names and signatures as the pure functions, for calls outside `jax.jit`. A wrong
input raises ValueError that names the row, the value and what would be right.

Axis legend: E examples, C choices.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from . import (
    areas,
    binning,
    calibration_error,
    confidence,
    conformal,
    decomposition,
    inference,
    isotonic,
    recalibration,
    risk_control,
    scaling,
    scores,
    selective,
    smooth,
)
from .validation import (
    check_answers,
    check_choices,
    check_confidence,
    check_correct_pair,
    check_cross_validation,
    check_logit,
    check_losses,
    check_margin,
    check_p_values,
    check_pair,
    check_probabilities,
    check_scores,
    check_sequence,
    check_values,
)

P = ParamSpec("P")
T = TypeVar("T")


def _guard(check: Callable[..., None], function: Callable[P, T]) -> Callable[P, T]:
    """Run a check on those arguments of a function that it names, then the function."""
    signature = inspect.signature(function)
    names = inspect.signature(check).parameters

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        bound = signature.bind(*args, **kwargs)
        check(**{k: v for k, v in bound.arguments.items() if k in names})
        return function(*args, **kwargs)

    return guarded


accuracy = _guard(check_confidence, scores.accuracy)
mean_confidence = _guard(check_confidence, scores.mean_confidence)
overconfidence = _guard(check_confidence, scores.overconfidence)
brier_score = _guard(check_confidence, scores.brier_score)
brier_score_multiclass = _guard(check_probabilities, scores.brier_score_multiclass)
negative_log_likelihood = _guard(check_choices, scores.negative_log_likelihood)

bin_stats = _guard(check_confidence, binning.bin_stats)
bin_stats_equal_mass = _guard(check_confidence, binning.bin_stats_equal_mass)
expected_calibration_error = _guard(check_confidence, calibration_error.expected_calibration_error)
average_calibration_error = _guard(check_confidence, calibration_error.average_calibration_error)
classwise_calibration_error = _guard(
    check_probabilities, calibration_error.classwise_calibration_error
)
ks_calibration_error = _guard(check_confidence, calibration_error.ks_calibration_error)
spiegelhalter_z = _guard(check_confidence, calibration_error.spiegelhalter_z)
smooth_calibration_error = _guard(check_confidence, smooth.smooth_calibration_error)
brier_decomposition = _guard(check_confidence, decomposition.brier_decomposition)
corp_decomposition = _guard(check_confidence, decomposition.corp_decomposition)

aurc = _guard(check_margin, areas.aurc)
e_aurc = _guard(check_margin, areas.e_aurc)
augrc = _guard(check_margin, areas.augrc)
e_augrc = _guard(check_margin, areas.e_augrc)
confidence_auroc = _guard(check_margin, areas.confidence_auroc)
selective_accuracy = _guard(check_margin, selective.selective_accuracy)
selective_risk = _guard(check_margin, selective.selective_risk)
coverage_at_risk = _guard(check_margin, selective.coverage_at_risk)
risk_coverage_curve = _guard(check_margin, selective.risk_coverage_curve)
selective_risk_control = _guard(check_margin, risk_control.selective_risk_control)
certified_coverage_at_risk = _guard(check_margin, risk_control.certified_coverage_at_risk)

top_label = _guard(check_answers, confidence.top_label)
label_log_prob = _guard(check_choices, confidence.label_log_prob)
fit_temperature = _guard(check_choices, scaling.fit_temperature)
temperature_grid = _guard(check_choices, scaling.temperature_grid)
cross_validated_temperature = _guard(check_cross_validation, scaling.cross_validated_temperature)
fit_vector_scaling = _guard(check_choices, recalibration.fit_vector_scaling)
fit_platt = _guard(check_logit, recalibration.fit_platt)
fit_beta = _guard(check_logit, recalibration.fit_beta)
fit_isotonic = _guard(check_confidence, isotonic.fit_isotonic)
fit_histogram_binning = _guard(check_confidence, isotonic.fit_histogram_binning)

isotonic_regression = _guard(check_sequence, isotonic.isotonic_regression)

conformal_threshold = _guard(check_scores, conformal.conformal_threshold)
conformal_risk_control = _guard(check_losses, conformal.conformal_risk_control)
lac_threshold = _guard(check_probabilities, conformal.lac_threshold)
aps_threshold = _guard(check_probabilities, conformal.aps_threshold)

clustered_standard_error = _guard(check_values, inference.clustered_standard_error)
paired_difference_test = _guard(check_pair, inference.paired_difference_test)
mcnemar_exact = _guard(check_correct_pair, inference.mcnemar_exact)
holm = _guard(check_p_values, inference.holm)
