"""Recalibration maps against brute force, planted parameters and invariances."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calibration
from calibration import checked

ROWS = 24
seeds = st.integers(0, 2**32 - 1)
few = hypothesis.settings(max_examples=15, deadline=None)


@functools.cache
def jitted(name, **static):
    return jax.jit(functools.partial(getattr(calibration, name), **static))


def weighted_rows(seed):
    rng = np.random.default_rng(seed)
    confidence = rng.choice(np.arange(1, 12) / 12, ROWS).astype(np.float32)
    correct = rng.random(ROWS) < confidence
    return confidence, correct, rng.multinomial(ROWS, np.full(ROWS, 1 / ROWS))


def minimax(values, weights):
    """Isotonic regression by its formula, min_{k ≥ i} max_{j ≤ i} mean(j..k)."""
    n = len(values)
    sums, sizes = (np.append(0, np.cumsum(x)) for x in (weights * values, weights))

    def mean(j, k):
        return (sums[k + 1] - sums[j]) / (sizes[k + 1] - sizes[j])

    return [min(max(mean(j, k) for j in range(i + 1)) for k in range(i, n)) for i in range(n)]


@few
@hypothesis.given(seeds)
def test_isotonic_regression_equals_its_formula(seed):
    rng = np.random.default_rng(seed)
    values, weights = rng.normal(size=ROWS).astype(np.float32), rng.integers(1, 4, ROWS)
    found = jitted("isotonic_regression")(values, jnp.asarray(weights, float))
    np.testing.assert_allclose(found, minimax(values.astype(float), weights), atol=1e-5)
    again = jitted("isotonic_regression")(found, jnp.asarray(weights, float))
    np.testing.assert_allclose(again, found, atol=1e-5)


@few
@hypothesis.given(seeds)
def test_isotonic_fit_counts_weights_and_ignores_order(seed):
    confidence, correct, weights = weighted_rows(seed)
    points = jnp.linspace(-0.1, 1.1, 50)
    fit = jitted("fit_isotonic")(confidence, correct, weights)
    mapped = np.asarray(calibration.apply_isotonic(fit, points))
    assert (np.diff(mapped) >= -1e-6).all()
    copies = np.random.default_rng(seed).permutation(np.repeat(np.arange(ROWS), weights))
    expected = jitted("fit_isotonic")(confidence[copies], correct[copies])
    np.testing.assert_allclose(mapped, calibration.apply_isotonic(expected, points), atol=1e-5)
    mean = np.average(calibration.apply_isotonic(fit, confidence), weights=weights)
    np.testing.assert_allclose(mean, np.average(correct, weights=weights), atol=1e-5)


def test_isotonic_and_histogram_fits_that_cannot_be():
    confidence, correct, _ = weighted_rows(0)
    poisoned = np.where(np.arange(ROWS) == 3, np.nan, confidence).astype(np.float32)
    nothing = np.zeros(ROWS, int)
    for rows in ((poisoned, correct), (confidence, correct, nothing)):
        fit = jitted("fit_isotonic")(*rows)
        assert np.isnan(fit.accuracy).all()
    masked = jitted("fit_isotonic")(poisoned, correct, np.arange(ROWS) != 3)
    assert np.isfinite(masked.accuracy).all()
    with pytest.raises(ValueError, match=r"confidence\[3\] is nan"):
        checked.fit_isotonic(poisoned, correct)


@few
@hypothesis.given(seeds)
def test_histogram_binning_removes_the_calibration_error_of_its_bins(seed):
    confidence, correct, weights = weighted_rows(seed)
    fit = jitted("fit_histogram_binning", num_bins=4)(confidence, correct, weights)
    mapped = calibration.apply_histogram_binning(fit, confidence)
    stats = calibration.bin_stats(confidence, correct, weights, num_bins=4)
    index = calibration.bin_index(confidence, num_bins=4)
    gap = np.zeros(4)
    np.add.at(gap, index, weights * (np.asarray(mapped) - correct))
    np.testing.assert_allclose(gap, 0, atol=1e-5)
    empty = np.asarray(stats.count) == 0
    np.testing.assert_allclose(fit.accuracy[empty], (np.arange(4) / 4 + 0.125)[empty])


def logit_rows(seed=0, num_rows=4000):
    rng = np.random.default_rng(seed)
    return rng.normal(0.5, 2, num_rows).astype(np.float32)


def expected_outcomes(logit, probability):
    """Return each row twice, with both outcomes, weighted by their probabilities."""
    weights = np.concatenate([probability, 1 - probability]).astype(np.float32)
    return np.tile(logit, 2), np.repeat([1, 0], logit.size), weights


def test_planted_platt_and_beta_maps_are_recovered():
    logit = logit_rows()
    p = 1 / (1 + np.exp(-(0.7 * logit - 0.4)))
    fit = jitted("fit_platt")(*expected_outcomes(logit, p))
    np.testing.assert_allclose([fit.slope, fit.intercept], [0.7, -0.4], atol=2e-3)
    assert bool(fit.converged)
    np.testing.assert_allclose(calibration.apply_platt(fit, 2.0), 1.0, atol=5e-3)
    features = -np.log1p(np.exp(-logit)), np.log1p(np.exp(logit))
    p = 1 / (1 + np.exp(-(0.5 * features[0] + 1.5 * features[1] + 0.3)))
    fit = jitted("fit_beta")(*expected_outcomes(logit, p))
    np.testing.assert_allclose([fit.a, fit.b, fit.c], [0.5, 1.5, 0.3], atol=1e-2)
    assert bool(fit.converged)


def test_a_beta_map_never_falls():
    logit = logit_rows(1)
    p = 1 / (1 + np.exp(-(-0.8 * logit)))  # more confidence, less truth
    fit = jitted("fit_beta")(*expected_outcomes(logit, p))
    assert fit.a >= 0
    assert fit.b >= 0
    mapped = np.asarray(calibration.apply_beta(fit, jnp.linspace(-5, 5, 20)))
    assert (np.diff(mapped) >= 0).all()


def test_fits_refuse_or_spread_what_is_not_finite():
    logit = logit_rows(2, 20)
    outcome = (logit > 0) ^ (np.arange(20) % 5 == 0)
    bad = np.where(np.arange(20) == 4, np.inf, logit).astype(np.float32)
    for name in ("fit_platt", "fit_beta"):
        assert np.isnan(jitted(name)(bad, outcome, np.ones(20, bool)).nll)
        kept = jitted(name)(bad, outcome, np.arange(20) != 4)
        assert np.isfinite(kept.nll)
        with pytest.raises(ValueError, match=r"logit\[4\] is inf"):
            getattr(checked, name)(bad, outcome)


def test_vector_scaling_recovers_its_parameters_and_masks():
    rng = np.random.default_rng(3)
    scores = rng.normal(0, 2, (3000, 3)).astype(np.float32)
    valid = np.ones((3000, 3), bool)
    valid[::3, 2] = False
    log_p = np.asarray(jax.nn.log_softmax(jnp.where(valid, scores, -jnp.inf), axis=1))
    scale, offset = np.array([0.5, 1.0, 2.0]), np.array([0.3, -0.5, 0.2])
    truth = np.where(valid, scale * np.where(valid, log_p, 0) + offset, -np.inf)
    p = np.exp(truth - np.logaddexp.reduce(truth, axis=1)[:, None])
    rows = [np.tile(x, (3, 1)) for x in (scores, valid)]
    label = np.repeat([0, 1, 2], 3000)
    weights = p.T.ravel().astype(np.float32)
    fit = jitted("fit_vector_scaling")(rows[0], label, weights, valid=rows[1])
    np.testing.assert_allclose(fit.scale, scale, atol=2e-2)
    np.testing.assert_allclose(fit.offset, offset - offset.mean(), atol=2e-2)
    scaled = calibration.apply_vector_scaling(fit, scores, valid)
    found = calibration.choice_probabilities(scaled, valid)
    np.testing.assert_allclose(found, p, atol=1e-2)


def test_no_scaling_leaves_accuracy_and_binary_selection_as_they_were():
    rng = np.random.default_rng(4)
    scores = rng.normal(0, 3, (ROWS, 2)).astype(np.float32)
    label = rng.integers(0, 2, ROWS)
    top = calibration.top_label(scores, label)
    after = calibration.top_label(calibration.apply_temperature(scores, 1.7), label)
    for name in ("accuracy", "aurc", "augrc", "confidence_auroc", "selective_accuracy"):
        before = jitted(name)(top.confidence if name == "accuracy" else top.margin, top.correct)
        then = jitted(name)(after.confidence if name == "accuracy" else after.margin, after.correct)
        np.testing.assert_allclose(then, before, atol=1e-6)
