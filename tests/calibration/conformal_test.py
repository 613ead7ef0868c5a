"""Conformal sets and risk control keep what they promise, by simulation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calibration
from calibration import checked

SETS = {
    "lac": (calibration.lac_threshold, calibration.lac_scores),
    "aps": (calibration.aps_threshold, calibration.aps_scores),
}


def choices(key, num_rows):
    """Return probabilities of an overconfident model, and labels."""
    score_key, label_key = jax.random.split(key)
    scores = 1.5 * jax.random.normal(score_key, (num_rows, 4))
    label = jax.random.categorical(label_key, scores)
    return jax.nn.softmax(2 * scores, axis=1), label


@pytest.mark.parametrize("name", SETS)
def test_sets_hold_the_right_choice_as_often_as_promised(name):
    threshold, scores = SETS[name]

    def covered(key):
        calibrating, testing = jax.random.split(key)
        q = threshold(*choices(calibrating, 99), alpha=0.1)
        probabilities, label = choices(testing, 50)
        sets = calibration.prediction_set(probabilities, q, scores=scores)
        return jnp.take_along_axis(sets, label[:, None], axis=1).mean()

    keys = jax.random.split(jax.random.key(0), 500)
    share = jax.jit(functools.partial(jax.lax.map, covered))(keys).mean()
    assert 0.895 <= share <= (0.91 if name == "lac" else 0.93)  # APS steps over the mass


def test_randomised_adaptive_scores_are_uniform_for_a_calibrated_model():
    key = jax.random.key(1)
    scores = jax.random.normal(key, (20_000, 5))
    label = jax.random.categorical(jax.random.key(2), scores)
    uniform = jax.random.uniform(jax.random.key(3), (20_000,))
    values = calibration.aps_scores(jax.nn.softmax(scores, axis=1), uniform)
    own = np.sort(np.take_along_axis(np.asarray(values), np.asarray(label)[:, None], 1)[:, 0])
    assert np.abs(own - np.arange(20_000) / 20_000).max() < 0.02


def test_adaptive_scores_by_hand():
    scores = calibration.aps_scores(jnp.asarray([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]]))
    np.testing.assert_allclose(scores, [[1.0, 0.5, 0.8], [0.4, 0.8, 1.0]], rtol=1e-6)


def test_thresholds_at_the_edges():
    scores = jnp.asarray([0.3, 0.1, 0.2])
    assert calibration.conformal_threshold(scores, alpha=0.5) == np.float32(0.2)
    assert calibration.conformal_threshold(scores, alpha=0.25) == np.float32(0.3)
    assert calibration.conformal_threshold(scores, alpha=0.2) == np.inf
    assert calibration.conformal_threshold(jnp.zeros(0), alpha=0.1) == np.inf
    twice = calibration.conformal_threshold(scores, jnp.asarray([2, 2, 0]), alpha=0.5)
    assert twice == np.float32(0.3)  # the third of 0.1, 0.1, 0.3, 0.3
    poisoned = scores.at[1].set(jnp.nan)
    assert np.isnan(calibration.conformal_threshold(poisoned, alpha=0.5))
    masked = calibration.conformal_threshold(poisoned, jnp.asarray([1, 0, 1]), alpha=0.5)
    assert masked == np.float32(0.3)
    with pytest.raises(ValueError, match="alpha is 0; it lies in"):
        calibration.conformal_threshold(scores, alpha=0)
    with pytest.raises(ValueError, match=r"sum of probabilities\[0\] is 0.9"):
        checked.lac_threshold([[0.5, 0.4]], [0], alpha=0.5)


def test_risk_control_keeps_the_expected_loss():
    levels = jnp.linspace(0, 1, 101)

    def loss(key):
        calibrating, testing = jax.random.split(key)
        hard = jax.random.uniform(calibrating, (60, 1))
        losses = (hard > levels[None, :]).astype(jnp.float32)  # falls with the level
        level = calibration.conformal_risk_control(losses, levels, alpha=0.2)
        return jnp.mean(jax.random.uniform(testing, (200,)) > level)

    keys = jax.random.split(jax.random.key(0), 1000)
    assert 0.17 < jax.lax.map(loss, keys).mean() <= 0.2
    four = jnp.asarray([[1.0, 0.5, 0.0]] * 4)  # (4 · 0.5 + 1) / 5 = 0.6
    for alpha, level in ((0.59, 2), (0.61, 1)):
        assert calibration.conformal_risk_control(four, jnp.arange(3.0), alpha=alpha) == level
    never = jnp.ones((60, 3))
    assert np.isnan(calibration.conformal_risk_control(never, jnp.arange(3.0), alpha=0.2))
    with pytest.raises(ValueError, match=r"alpha is 2; it lies in \(0, 1.0\)"):
        calibration.conformal_risk_control(never, jnp.arange(3.0), alpha=2)


def answers(key, num_rows=400):
    margin_key, correct_key = jax.random.split(key)
    margin = 3 * jax.random.uniform(margin_key, (num_rows,))
    return margin, jax.random.uniform(correct_key, (num_rows,)) < jax.nn.sigmoid(2 * margin - 1)


def test_certified_coverage_errs_at_most_as_often_as_allowed():
    """True selective risk above the bound in at most δ of the data sets, and not in none."""
    margin, _ = answers(jax.random.key(9), 200_000)
    order = -np.sort(-np.asarray(margin))
    risk_above = np.cumsum(1 / (1 + np.exp(2 * order - 1))) / np.arange(1, order.size + 1)

    def rule(key):
        return calibration.selective_risk_control(*answers(key), risk=0.1, delta=0.2)

    rules = jax.jit(functools.partial(jax.lax.map, rule))(jax.random.split(jax.random.key(0), 500))
    place = np.searchsorted(-order, -np.asarray(rules.threshold), side="right")
    true_risk = np.where(place > 0, risk_above[np.maximum(place - 1, 0)], 0)
    assert np.mean(true_risk > 0.1) <= 0.2
    assert np.mean(rules.coverage) > 0.5
    assert not np.any(np.asarray(rules.risk) >= 0.1)  # NaN where nothing is answered
    truth = np.mean(risk_above <= 0.1)
    assert np.mean(rules.coverage) < truth


def test_a_rule_that_nothing_supports_answers_nothing():
    margin = jnp.arange(20.0)
    rule = calibration.selective_risk_control(margin, jnp.zeros(20), risk=0.1)
    assert (rule.threshold, rule.coverage) == (np.inf, 0)
    assert np.isnan(rule.risk)
    sure = calibration.selective_risk_control(margin, jnp.ones(20), risk=0.5)
    assert (sure.threshold, sure.coverage, sure.risk) == (0, 1, 0)
    tied = calibration.selective_risk_control(jnp.zeros(50), jnp.arange(50) < 40, risk=0.5)
    assert (tied.threshold, tied.coverage) == (0, 1)
    with pytest.raises(ValueError, match="delta is 0"):
        calibration.selective_risk_control(margin, jnp.ones(20), risk=0.1, delta=0)
