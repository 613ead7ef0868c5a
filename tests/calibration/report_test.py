"""The whole report against the single functions, and its two modes."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calibration
from calibration import report

IMAGES, COPIES, RESAMPLES = 40, 4, 300
ATOL = 2e-6  # float32 sums in another order
NAMES = {
    *("accuracy", "mean_confidence", "overconfidence", "ece", "brier", "nll", "aurc"),
    *("temperature", "temperature_grid", "cross_validated_ece", "accuracy_at_80"),
    *("answer_mass", "augrc", "confidence_auroc", "brier_multiclass", "smooth_ece"),
}


def predictions(seed):
    """Return rows whose images repeat one question COPIES times, as POPE does."""
    rng = np.random.default_rng(seed)
    scores = np.repeat(rng.normal(0, 2, (IMAGES, 3)), COPIES, axis=0) - 5
    valid = np.repeat(np.arange(IMAGES) % 2 == 0, COPIES)[:, None] | [True, True, False]
    label = np.where(valid[:, 2], rng.integers(0, 3, IMAGES).repeat(COPIES), 0)
    log_masses = np.asarray(jax.nn.log_softmax(scores, axis=-1) - 0.1, np.float32)
    mass = np.where(valid, np.exp(log_masses), 0).sum(axis=1)
    return {
        "log_masses": log_masses,
        "label": label.astype(np.int32),
        "answer_log_mass": np.log(mass).astype(np.float32),
        "valid": valid,
    }


GROUP = np.repeat(np.arange(IMAGES), COPIES)
SPLIT = GROUP // 3 % 2
evaluate = functools.partial(
    calibration.evaluate,
    group=GROUP,
    split=SPLIT,
    num_splits=2,
    key=jax.random.key(0),
    num_resamples=RESAMPLES,
)


@pytest.fixture(scope="module")
def default():
    return evaluate(**predictions(0))


@pytest.fixture(scope="module")
def paper():
    return evaluate(**predictions(0), mode="paper")


@jax.jit
def single_functions(rows, scaled, weights):
    log_masses, label, valid = (rows[k] for k in ("log_masses", "label", "valid"))
    top = calibration.top_label(log_masses, label, valid)
    after = calibration.top_label(scaled, label, valid)
    rated, ranked = (top.confidence, top.correct), (top.margin, top.correct)
    choices = (log_masses, label, weights)
    error = calibration.expected_calibration_error
    fit = calibration.fit_temperature(*choices, valid=valid)
    mass = jnp.exp(rows["answer_log_mass"])
    return {
        "accuracy": calibration.accuracy(*rated, weights),
        "mean_confidence": calibration.mean_confidence(*rated, weights),
        "overconfidence": calibration.overconfidence(*rated, weights),
        "ece": error(*rated, weights),
        "brier": calibration.brier_score(*rated, weights),
        "nll": calibration.negative_log_likelihood(*choices, valid=valid),
        "aurc": calibration.aurc(*ranked, weights),
        "temperature": fit.temperature,
        "temperature_grid": calibration.temperature_grid(*choices, valid=valid),
        "cross_validated_ece": error(after.confidence, after.correct, weights),
        "accuracy_at_80": calibration.selective_accuracy(*ranked, weights),
        "answer_mass": jnp.sum(mass * weights) / jnp.sum(weights),
        "augrc": calibration.augrc(*ranked, weights),
        "confidence_auroc": calibration.confidence_auroc(*ranked, weights),
        "brier_multiclass": calibration.brier_score_multiclass(
            calibration.choice_probabilities(log_masses, valid), label, weights
        ),
        "smooth_ece": calibration.smooth_calibration_error(*rated, weights),
    }


def test_values_are_those_of_the_single_functions(default):
    rows = predictions(0)
    fold_key, _ = jax.random.split(jax.random.key(0))
    fold = calibration.group_kfold(fold_key, GROUP, IMAGES)
    temperatures, scaled = jax.jit(calibration.cross_validated_temperature)(
        rows["log_masses"], rows["label"], fold, valid=rows["valid"]
    )
    np.testing.assert_allclose(default.fold_temperatures, temperatures, rtol=1e-5)
    for k, weights in enumerate([SPLIT >= 0, SPLIT == 0, SPLIT == 1]):
        expected = single_functions(rows, scaled, weights.astype(int))
        assert set(default.metrics) == set(default.splits) == set(expected) == NAMES
        for name, value in expected.items():
            interval = default.splits[name] if k else default.metrics[name]
            actual = interval.value[k - 1] if k else interval.value
            np.testing.assert_allclose(actual, value, rtol=1e-5, atol=ATOL, err_msg=name)
    assert default.bins.count.sum() == len(fold)


def test_intervals_surround_the_values_but_for_fitted_columns(default):
    for name, interval in default.metrics.items():
        if name in calibration.VALUE_ONLY:
            assert np.isnan(interval.low)
            assert np.isnan(interval.high)
        else:
            assert interval.low <= interval.high, name
    assert default.splits["brier"].low.shape == (2,)


@pytest.mark.parametrize("mode", ["default", "paper"])
def test_intervals_are_those_of_the_bootstrap(default, paper, mode):
    rows = predictions(0)
    top = calibration.top_label(rows["log_masses"], rows["label"], rows["valid"])
    _, key = jax.random.split(jax.random.key(0))
    if mode == "default":
        counts = calibration.cluster_resample_counts(key, GROUP, IMAGES, RESAMPLES)
    else:
        counts = calibration.resample_counts(key, len(GROUP), RESAMPLES)

    def statistic(weights):
        second = weights * (SPLIT == 1)
        brier = calibration.brier_score(top.confidence, top.correct, second)
        return brier, calibration.aurc(top.margin, top.correct, weights)

    brier, aurc = calibration.bootstrap(statistic, counts)
    found = {"default": default, "paper": paper}[mode]
    ends = found.splits["brier"].low[1], found.splits["brier"].high[1]
    np.testing.assert_allclose(ends, calibration.percentile_interval(brier), atol=ATOL)
    ends = found.metrics["aurc"].low, found.metrics["aurc"].high
    np.testing.assert_allclose(ends, calibration.percentile_interval(aurc), atol=ATOL)


def test_clusters_are_wider_than_rows_where_rows_repeat(default, paper):
    for name in ("accuracy", "brier", "nll", "aurc"):
        clustered, iid = default.metrics[name], paper.metrics[name]
        np.testing.assert_allclose(clustered.value, iid.value, atol=ATOL)
        ratio = (clustered.high - clustered.low) / (iid.high - iid.low)
        assert 1.5 < ratio < 2.7, name  # the design effect is √COPIES = 2


def test_settings_of_one_shape_share_a_program_and_their_resamples(default):
    compiled = report._program._cache_size()
    other = evaluate(**predictions(1))
    assert report._program._cache_size() == compiled
    assert other.metrics["brier"].value != default.metrics["brier"].value
    again = evaluate(**predictions(0))
    jax.tree.map(np.testing.assert_array_equal, again, default)


def test_only_paper_mode_admits_a_label_that_is_not_offered(paper):
    rows = predictions(0)
    rows["label"][COPIES] = 2  # image 1 offers the first two choices
    with pytest.raises(ValueError, match=rf"label\[{COPIES}\] is 2"):
        evaluate(**rows)
    metrics = evaluate(**rows, mode="paper").metrics
    assert metrics["nll"].value == np.inf
    assert np.isfinite(metrics["temperature"].value)
    assert metrics["accuracy"].value <= paper.metrics["accuracy"].value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer_log_mass": [0.0] * 159 + [0.5]}, r"answer_log_mass\[159\] is 0.5"),
        ({"answer_log_mass": [0.0]}, "answer_log_mass has 1 rows"),
        ({"split": [0] * 159 + [2]}, r"split\[159\] is 2; .* \[0, 2\)"),
        ({"split": None}, "num_splits is 2 and split None"),
        ({"group": [-1] * 160}, r"group\[0\] is -1"),
        ({"mode": "fast"}, "mode is 'fast'"),
        ({"log_masses": np.full((160, 3), np.nan)}, r"log_masses\[0, 0\] is nan"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_runs(change, message):
    with pytest.raises(ValueError, match=message):
        evaluate(**(predictions(0) | change))


def test_an_empty_split_is_nan_and_does_not_hide():
    rows = predictions(0)
    result = evaluate(**rows, split=np.zeros(IMAGES * COPIES, int))
    assert np.isnan(result.splits["accuracy"].value[1])
    assert np.isfinite(result.metrics["accuracy"].value)
    assert jnp.isnan(result.splits["temperature"].value[1])


def test_one_group_alone_has_no_interval():
    rows = {name: value[:COPIES] for name, value in predictions(0).items()}
    alone = calibration.evaluate(
        **rows, group=np.zeros(COPIES, int), key=jax.random.key(0), num_resamples=5
    )
    assert np.isfinite(alone.metrics["accuracy"].value)
    assert np.isnan(alone.metrics["accuracy"].low)


def test_unknown_mass_and_another_answer_than_the_likeliest():
    rows = predictions(0)
    given = (np.argmax(np.where(rows["valid"], rows["log_masses"], -np.inf), 1) + 1) % 2
    other = evaluate(**(rows | {"answer_log_mass": None}), prediction=given)
    assert np.isnan(other.metrics["answer_mass"].value)
    right = np.mean(given == rows["label"])
    np.testing.assert_allclose(other.metrics["accuracy"].value, right, atol=ATOL)
    with pytest.raises(ValueError, match=r"prediction\[0\] is 3"):
        evaluate(**rows, prediction=np.full(IMAGES * COPIES, 3))


def test_as_json_it_names_splits_and_has_no_nan(default):
    found = json.loads(default.to_json(("even", "odd")))
    assert found == default.to_dict(("even", "odd"))
    assert set(found["metrics"]) == set(found["splits"]["odd"]) - {"n"} == NAMES
    assert found["splits"]["odd"]["n"] == SPLIT.sum()
    assert found["metrics"]["temperature"]["low"] is None
    accuracy = default.splits["accuracy"].value[1]
    assert found["splits"]["odd"]["accuracy"]["value"] == float(accuracy)
    assert sum(found["bins"]["count"]) == IMAGES * COPIES
    assert sum(found["split_bins"]["even"]["count"]) == IMAGES * COPIES - SPLIT.sum()
    with pytest.raises(ValueError, match="1 names of splits; the report has 2"):
        default.to_dict(("all",))
    row = default.table_row()
    assert row["aurc"] == float(default.metrics["aurc"].value)
    assert "temperature_grid" in row


def test_lowered_program_is_the_one_that_evaluate_runs(monkeypatch):
    rng = np.random.default_rng(0)
    masses = np.log(rng.dirichlet([1, 1, 1], 24)).astype(np.float32)
    group, split = np.arange(24) // 4, np.arange(24) % 2
    ahead = report.lower(24, 3, num_groups=6, num_splits=2, num_resamples=10)
    run, programs = report._program, []

    def lower_only(*args, **static):
        programs.append(run.lower(*args, **static).as_text())
        return run(*args, **static)

    monkeypatch.setattr(report, "_program", lower_only)
    report.evaluate(
        masses,
        rng.integers(0, 3, 24),
        np.zeros(24, np.float32),
        group=group,
        split=split,
        num_splits=2,
        key=jax.random.key(1),
        num_resamples=10,
    )
    assert programs == [ahead.as_text()]
