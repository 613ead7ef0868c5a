"""Standard errors, tests, intervals and paired resamples, by simulation and by hand."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calibration
from calibration import checked


def test_a_standard_error_counts_groups_not_rows():
    rng = np.random.default_rng(0)
    values = rng.normal(size=40).astype(np.float32)
    textbook = values.std(ddof=1) / math.sqrt(40)
    error = calibration.clustered_standard_error
    np.testing.assert_allclose(error(values), textbook, rtol=1e-5)
    copies, group = np.repeat(values, 9), np.repeat(np.arange(40), 9)
    np.testing.assert_allclose(error(copies, group), textbook, rtol=1e-5)
    np.testing.assert_allclose(error(values, jnp.arange(40)), textbook, rtol=1e-5)
    weights = rng.integers(0, 3, 40)
    twice = error(np.repeat(values, weights))
    np.testing.assert_allclose(error(values, weights=weights), twice, rtol=1e-5)
    within = error(np.repeat(values, weights), np.repeat(np.arange(40) // 4, weights))
    np.testing.assert_allclose(error(values, np.arange(40) // 4, weights), within, rtol=1e-5)


def test_a_group_that_is_no_index_is_not_dropped():
    values = np.arange(4.0)
    far = np.array([0, 1, 2, 581_929])
    assert np.isnan(calibration.clustered_standard_error(values, far))
    with pytest.raises(ValueError, match=r"group\[3\] is 581929; .* \[0, 4\)"):
        checked.clustered_standard_error(values, far)
    assert np.isnan(calibration.clustered_standard_error(values, np.zeros(4, int)))


def test_mcnemar_and_holm_by_hand():
    first = np.array([1, 1, 1, 1, 1, 0, 1, 0])
    second = np.array([0, 0, 0, 0, 0, 1, 1, 0])
    found = calibration.mcnemar_exact(first, second)
    assert (found.first_only, found.second_only) == (5, 1)
    np.testing.assert_allclose(found.p_value, 2 * 7 / 64, rtol=1e-5)  # 2 (1 + 6) / 2⁶
    assert calibration.mcnemar_exact(first, first).p_value == 1
    weighted = calibration.mcnemar_exact(first, second, np.array([1, 1, 1, 1, 0, 0, 1, 1]))
    np.testing.assert_allclose(weighted.p_value, 2 / 16, rtol=1e-5)
    adjusted = calibration.holm(jnp.asarray([0.01, 0.04, 0.03, 0.5]))
    np.testing.assert_allclose(adjusted, [0.04, 0.09, 0.09, 0.5], rtol=1e-6)
    assert np.isnan(calibration.holm(jnp.asarray([0.1, np.nan]))).all()
    with pytest.raises(ValueError, match=r"p_values\[1\] is 1.5"):
        checked.holm([0.1, 1.5])


def test_a_difference_that_can_be_detected_is_detected_as_often_as_said():
    size = calibration.minimum_detectable_difference(jnp.asarray(0.01), power=0.9)
    np.testing.assert_allclose(size, 0.01 * (1.959964 + 1.281552), rtol=1e-5)
    rng = np.random.default_rng(0)
    found = rng.normal(float(size), 0.01, 20_000) / 0.01 > 1.959964
    np.testing.assert_allclose(found.mean(), 0.9, atol=0.01)
    with pytest.raises(ValueError, match="power is 1"):
        calibration.minimum_detectable_difference(0.01, power=1)


def test_wilson_interval_by_its_equation():
    """Its ends are where |rate − p| is 1.96 standard errors at p."""
    low, high = calibration.wilson_interval(jnp.asarray([0.0, 3.0, 10.0]), jnp.full(3, 10.0))
    for rate, ends in zip((0, 0.3, 1), zip(low, high, strict=True), strict=True):
        for p in map(float, ends):
            error = 1.959964 * math.sqrt(p * (1 - p) / 10)
            assert abs(abs(rate - p) - error) < 1e-4 or p in (0.0, 1.0)
    assert low[0] == 0
    assert high[2] == 1


def test_intervals_of_a_skewed_sample():
    rng = np.random.default_rng(1)
    samples = jnp.asarray(rng.lognormal(size=(4000, 2)), jnp.float32)
    value = jnp.asarray([1.0, 1.2])
    low, high = calibration.percentile_interval(samples)
    basic = calibration.basic_interval(samples, value)
    np.testing.assert_allclose(basic, (2 * value - high, 2 * value - low), rtol=1e-5)
    even = calibration.bca_interval(samples, jnp.median(samples, axis=0), jnp.zeros((5, 2)))
    np.testing.assert_allclose(even, (low, high), rtol=2e-2)  # no bias, no acceleration
    shifted = calibration.bca_interval(samples, value, jnp.zeros((5, 2)))
    share = np.mean(np.asarray(samples)[:, 1] < 1.2)
    z = np.sqrt(2) * jax.scipy.special.erfinv(2 * share - 1)
    ends = [0.5 * math.erfc(-(2 * z + q) / math.sqrt(2)) for q in (-1.959964, 1.959964)]
    np.testing.assert_allclose(
        [end[1] for end in shifted], np.quantile(samples[:, 1], ends), rtol=1e-3
    )
    left_out = rng.lognormal(sigma=1.5, size=(40, 2)).astype(np.float32)
    pull = left_out.mean(axis=0) - left_out
    a = (pull**3).sum(axis=0) / (6 * (pull**2).sum(axis=0) ** 1.5)
    assert (np.abs(a) > 0.04).all()
    ends = [z + (z + q) / (1 - a[1] * (z + q)) for q in (-1.959964, 1.959964)]
    shares = [0.5 * math.erfc(-end / math.sqrt(2)) for end in ends]
    skewed = calibration.bca_interval(samples, value, left_out)
    np.testing.assert_allclose(
        [end[1] for end in skewed], np.quantile(samples[:, 1], shares), rtol=1e-3
    )
    for interval in (calibration.percentile_interval, calibration.wilson_interval):
        with pytest.raises(ValueError, match="level is 95"):
            interval(samples, *([value] if interval is calibration.wilson_interval else []), 95)


def test_the_jackknife_leaves_each_group_out():
    values, group = jnp.arange(6.0), jnp.asarray([0, 0, 1, 1, 2, 2])

    def total(weights):
        return jnp.sum(weights * values)

    np.testing.assert_array_equal(calibration.jackknife(total, group, 3), [14, 10, 6])


def simulated(key, num_images=60, per_image=6):
    """Return correctness of two equal settings: question effects shared, image effects too."""
    image_key, row_key, first_key, second_key = jax.random.split(key, 4)
    shape = (num_images, per_image)
    ease = jax.random.normal(image_key, (num_images, 1)) + 0.7 * jax.random.normal(row_key, shape)
    rate = jax.nn.sigmoid(1 + ease)
    draw = [jax.random.uniform(k, shape) < rate for k in (first_key, second_key)]
    return [x.astype(jnp.float32).ravel() for x in draw]


GROUP = jnp.repeat(jnp.arange(60), 6)


@jax.jit
def p_values(keys):
    def one(key):
        first, second = simulated(key)
        return calibration.paired_difference_test(first, second, GROUP).p_value

    return jax.lax.map(one, keys)


@pytest.mark.parametrize("clustered", [True, False])
def test_intervals_of_clustered_rows_cover_when_clustered(clustered):
    """A small version of benchmarks/calibration.py: 95 % intervals of an accuracy."""

    def covers(key):
        data_key, draw_key = jax.random.split(key)
        rows, _ = simulated(data_key)
        if clustered:
            counts = calibration.cluster_resample_counts(draw_key, GROUP, 60, 200)
        else:
            counts = calibration.resample_counts(draw_key, 360, 200)
        samples = calibration.bootstrap(
            lambda w: calibration.accuracy(jnp.ones_like(rows), rows, w), counts
        )
        low, high = calibration.percentile_interval(samples)
        return (low <= truth) & (truth <= high)

    many = jax.jit(functools.partial(jax.lax.map, lambda k: simulated(k)[0].mean()))
    truth = many(jax.random.split(jax.random.key(7), 4000)).mean()
    share = jax.jit(functools.partial(jax.lax.map, covers))(
        jax.random.split(jax.random.key(1), 400)
    ).mean()
    assert (0.90 < share < 0.98) if clustered else share < 0.88


def test_a_paired_test_of_equal_settings_rejects_one_in_twenty():
    share = np.mean(np.asarray(p_values(jax.random.split(jax.random.key(0), 2000))) < 0.05)
    assert 0.033 < share < 0.067


def test_paired_resamples_cancel_what_settings_share():
    first, second = simulated(jax.random.key(3))
    second = jnp.where(jnp.arange(360) % 3 == 0, 0.0, first)  # worse on every third question
    ones = jnp.ones(360)
    counts = calibration.cluster_resample_counts(jax.random.key(0), GROUP, 60, 500)
    settings = [
        lambda w, x=x: {"accuracy": calibration.accuracy(ones, x, w)} for x in (first, second)
    ]
    paired = calibration.paired_bootstrap(*settings, counts)
    difference = float(second.mean() - first.mean())
    np.testing.assert_allclose(paired.value["accuracy"], difference, atol=1e-6)
    assert paired.low["accuracy"] < difference < paired.high["accuracy"] < 0
    np.testing.assert_allclose(paired.p_value["accuracy"], 2 / 501, rtol=1e-5)
    alone = [calibration.bootstrap(f, counts)["accuracy"] for f in settings]
    unpaired = np.hypot(*(np.std(x) for x in alone)) * 2 * 1.96
    assert paired.high["accuracy"] - paired.low["accuracy"] < unpaired
    same = calibration.paired_bootstrap(settings[0], settings[0], counts)
    assert same.p_value["accuracy"] == 1
