"""Calibration of a model's answers: pure metrics, fits and resampling in JAX.

Rows first; every row-wise function takes weights (a 0/1 mask or bootstrap counts).
`calibration.checked` holds the same functions with their inputs checked on the host.
"""

from . import checked
from .binning import BinStats, bin_edges, bin_index, bin_stats
from .columns import COLUMNS, VALUE_ONLY
from .confidence import TopLabel, answer_log_masses, label_log_prob, top_label
from .folds import group_kfold, kfold, training_weights
from .metrics import (
    accuracy,
    average_calibration_error,
    brier_score,
    expected_calibration_error,
    mean_confidence,
    negative_log_likelihood,
    overconfidence,
)
from .report import Interval, Report, evaluate
from .resampling import (
    bootstrap,
    cluster_resample_counts,
    percentile_interval,
    resample_counts,
)
from .scaling import (
    TEMPERATURE_GRID,
    TemperatureFit,
    apply_temperature,
    cross_validated_temperature,
    fit_temperature,
    temperature_grid,
)
from .selective import (
    Cumulated,
    Ranking,
    aurc,
    cumulate,
    rank_by_margin,
    ranked_aurc,
    ranked_selective_accuracy,
    risk_coverage_curve,
    selective_accuracy,
)

__all__ = [
    "COLUMNS",
    "TEMPERATURE_GRID",
    "VALUE_ONLY",
    "BinStats",
    "Cumulated",
    "Interval",
    "Ranking",
    "Report",
    "TemperatureFit",
    "TopLabel",
    "accuracy",
    "answer_log_masses",
    "apply_temperature",
    "aurc",
    "average_calibration_error",
    "bin_edges",
    "bin_index",
    "bin_stats",
    "bootstrap",
    "brier_score",
    "checked",
    "cluster_resample_counts",
    "cross_validated_temperature",
    "cumulate",
    "evaluate",
    "expected_calibration_error",
    "fit_temperature",
    "group_kfold",
    "kfold",
    "label_log_prob",
    "mean_confidence",
    "negative_log_likelihood",
    "overconfidence",
    "percentile_interval",
    "rank_by_margin",
    "ranked_aurc",
    "ranked_selective_accuracy",
    "resample_counts",
    "risk_coverage_curve",
    "selective_accuracy",
    "temperature_grid",
    "top_label",
    "training_weights",
]
