"""Properties of the metrics, the fit and the resampling, on random rows."""

import functools
import inspect

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calibration
from calibration import checked, ranking

ROWS = 24  # fixed sizes: one compilation per function
EXACT = 2e-6  # a few roundings of float32 sums of ROWS terms
ROW_METRICS = {
    name: (name.split(" ")[0], static)
    for name, static in {
        "accuracy": {},
        "mean_confidence": {},
        "overconfidence": {},
        "brier_score": {},
        "brier_decomposition": {},
        "corp_decomposition": {},
        "expected_calibration_error": {},
        "expected_calibration_error l2": {"norm": "l2"},
        "expected_calibration_error max": {"norm": "max"},
        "expected_calibration_error debiased": {"norm": "l2", "debiased": True},
        "expected_calibration_error mass": {"binning": "mass", "num_bins": 5},
        "expected_calibration_error rank": {"binning": "rank", "num_bins": 5},
        "average_calibration_error": {},
        "average_calibration_error mass": {"binning": "mass", "num_bins": 5},
        "smooth_calibration_error": {},
        "smooth_calibration_error fixed": {"sigma": 0.1},
        "ks_calibration_error": {},
        "spiegelhalter_z": {},
        "aurc": {},
        "aurc fd_shifts": {"convention": "fd_shifts"},
        "aurc torch_uncertainty": {"convention": "torch_uncertainty"},
        "e_aurc": {},
        "e_aurc finite": {"optimum": "finite"},
        "augrc": {},
        "e_augrc": {},
        "confidence_auroc": {},
        "selective_accuracy": {},
        "selective_risk": {"coverage": 0.5},
        "coverage_at_risk": {"risk": 0.3},
        "certified_coverage_at_risk": {"risk": 0.6, "delta": 0.3},
        "fit_histogram_binning": {"num_bins": 3},
    }.items()
}
"""What is tested → the function's name and its options."""

seeds = st.integers(0, 2**32 - 1)
few = hypothesis.settings(max_examples=15, deadline=None)


@functools.cache
def jitted(name, **static):
    return jax.jit(functools.partial(getattr(calibration, name), **static))


def random_rows(seed, num_rows=ROWS):
    """Return confidences with ties, edges of bins and saturation among them."""
    rng = np.random.default_rng(seed)
    grid = np.concatenate([np.arange(16) / 15, [0.5, 0.9, 1.0]]).astype(np.float32)
    free = rng.uniform(0, 1, num_rows).astype(np.float32)
    confidence = np.where(rng.random(num_rows) < 0.5, rng.choice(grid, num_rows), free)
    return confidence, rng.random(num_rows) < confidence


def random_choices(seed, num_rows=ROWS, num_choices=4):
    """Return log masses, labels and the mask of valid choices, one at least."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 3, (num_rows, num_choices)).astype(np.float32)
    offered = rng.integers(2, num_choices + 1, num_rows)
    valid = np.arange(num_choices)[None, :] < offered[:, None]
    return scores, rng.integers(0, offered).astype(np.int32), valid


@few
@hypothesis.given(seeds)
def test_ece_is_at_least_overconfidence_and_grows_with_bins(seed):
    rows = random_rows(seed)
    coarse = jitted("expected_calibration_error")(*rows)
    fine = jitted("expected_calibration_error", num_bins=30)(*rows)
    assert abs(jitted("overconfidence")(*rows)) <= coarse + EXACT
    assert coarse <= fine + EXACT


@jax.jit
def row_metrics(confidence, correct, weights=None):
    return {
        name: getattr(calibration, function)(confidence, correct, weights, **static)
        for name, (function, static) in ROW_METRICS.items()
    }


def assert_equal_metrics(actual, expected):
    chex.assert_trees_all_close(actual, expected, atol=EXACT, rtol=EXACT)


@few
@hypothesis.given(seeds)
def test_weights_are_copies_of_rows_in_any_order(seed):
    confidence, correct = random_rows(seed)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(ROWS, np.full(ROWS, 1 / ROWS))
    copies = rng.permutation(np.repeat(np.arange(ROWS), weights))
    expected = row_metrics(confidence[copies], correct[copies])
    assert_equal_metrics(row_metrics(confidence, correct, weights), expected)


@few
@hypothesis.given(seeds)
def test_the_area_under_the_joint_risk_is_that_of_the_auroc(seed):
    confidence, correct = random_rows(seed)
    found = row_metrics(confidence, correct)
    accuracy, area = found["accuracy"], 1 - found["confidence_auroc"]
    if 0 < accuracy < 1:
        joint = area * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2
        np.testing.assert_allclose(found["augrc"], joint, atol=EXACT)
    assert found["e_aurc finite"] >= -EXACT
    assert found["e_augrc"] >= -EXACT


@few
@hypothesis.given(seeds)
def test_the_parts_of_the_brier_score_sum_to_it(seed):
    found = row_metrics(*random_rows(seed))
    bins, corp = found["brier_decomposition"], found["corp_decomposition"]
    total = bins.reliability - bins.resolution + bins.uncertainty
    total += bins.within_bin_variance - 2 * bins.within_bin_covariance
    np.testing.assert_allclose(total, found["brier_score"], atol=EXACT)
    total = corp.miscalibration - corp.discrimination + corp.uncertainty
    np.testing.assert_allclose(total, corp.score, atol=EXACT)
    np.testing.assert_allclose(corp.score, found["brier_score"], atol=EXACT)
    assert corp.miscalibration >= -EXACT
    assert corp.discrimination >= -EXACT


@few
@hypothesis.given(seeds)
def test_vmap_over_weights_is_a_loop(seed):
    rows = random_rows(seed)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(ROWS, np.full(ROWS, 1 / ROWS), size=3).astype(np.int32)
    together = many_metrics(*rows, counts)
    for k, weights in enumerate(counts):
        assert_equal_metrics(
            jax.tree.map(lambda x, k=k: x[k], together), row_metrics(*rows, weights)
        )


@jax.jit
def many_metrics(confidence, correct, counts):
    return jax.vmap(row_metrics, in_axes=(None, None, 0))(confidence, correct, counts)


@pytest.mark.parametrize(
    "name",
    ["expected_calibration_error", "brier_decomposition", "e_aurc finite", "coverage_at_risk"],
)
def test_eager_is_jit(name):
    rows, (function, static) = random_rows(11), ROW_METRICS[name]
    with jax.disable_jit():
        eager = getattr(calibration, function)(*map(jnp.asarray, rows), **static)
    assert_equal_metrics(eager, row_metrics(*rows)[name])


def test_a_masked_row_does_not_count():
    confidence, correct = random_rows(1)
    kept = np.arange(ROWS) % 3 > 0
    expected = row_metrics(confidence[kept], correct[kept])
    poisoned = np.where(kept, confidence, np.nan)
    assert_equal_metrics(row_metrics(poisoned, correct, kept), expected)


def test_bad_or_no_rows_give_nan():
    confidence, correct = random_rows(2)
    poisoned = np.where(np.arange(ROWS) == 3, np.nan, confidence).astype(np.float32)
    nothing = np.zeros(ROWS, int)
    for rows in (
        (poisoned, correct),
        (confidence, correct, nothing),
        (np.zeros(0, np.float32), np.zeros(0, bool)),
    ):
        found = row_metrics(*rows)
        found.pop("fit_histogram_binning")  # an empty bin gives its centre
        for name, value in found.items():
            assert all(np.isnan(leaf) for leaf in jax.tree.leaves(value)), name
    for function, static in ROW_METRICS.values():
        with pytest.raises(ValueError, match=r"\[3\] is nan"):
            getattr(checked, function)(poisoned, correct, **static)
        with pytest.raises(ValueError, match="weights are all 0"):
            getattr(checked, function)(confidence, correct, nothing, **static)


@few
@hypothesis.given(seeds)
def test_aurc_and_curve_equal_their_definitions(seed):
    confidence, correct = random_rows(seed)
    order = np.argsort(-confidence, kind="stable")
    ranked, error = confidence[order], 1.0 - correct[order]
    expected = np.array([error[ranked == c].mean() for c in ranked])
    risk = np.cumsum(expected) / np.arange(1, ROWS + 1)
    coverage, curve = jitted("risk_coverage_curve")(confidence, correct)
    np.testing.assert_allclose(curve, risk, atol=EXACT)
    np.testing.assert_allclose(coverage, np.arange(1, ROWS + 1) / ROWS, atol=EXACT)
    area = jitted("aurc")(confidence, correct)
    np.testing.assert_allclose(area, risk.mean(), atol=EXACT)
    for kept in (0.25, 0.8, 1.0):
        selected = jitted("selective_accuracy", coverage=kept)(confidence, correct)
        rank = int(np.ceil(ROWS * kept - 1e-9)) - 1
        np.testing.assert_allclose(selected, 1 - risk[rank], atol=EXACT)


def test_a_cut_that_is_a_whole_number_of_rows_is_not_rounded_up():
    score = jnp.arange(30.0)
    correct = score > 26.5  # the three most confident
    kept = jitted("selective_accuracy", coverage=0.1)(score, correct)
    assert kept == 1  # 0.1 · 30 = 3.0000000000000004 in double precision


def test_harmonic_gap_is_exact_at_every_size():
    start, size = np.meshgrid([0, 1, 7, 1000, 100000], [0, 1, 3, 50, 9000])
    start, size = start.ravel(), size.ravel()
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, 110000))])
    expected = harmonic[start + size] - harmonic[start]
    gap = ranking.harmonic_gap(jnp.asarray(start, float), jnp.asarray(size, float))
    np.testing.assert_allclose(gap, expected, rtol=1e-6)


def test_coverage_at_risk_equals_its_definition():
    rng = np.random.default_rng(0)
    confidence, correct = random_rows(12)
    for risk in (0.0, 0.1, 0.25, 0.5, 1.0):
        order = np.argsort(-confidence, kind="stable")
        error = 1.0 - correct[order]
        ranked = confidence[order]
        expected_error = np.array([error[ranked == c].mean() for c in ranked])
        rates = np.cumsum(expected_error) / np.arange(1, ROWS + 1)
        good = np.flatnonzero(rates <= risk + 1e-9)
        want = (good.max() + 1) / ROWS if good.size else np.nan
        shuffled = rng.permutation(ROWS)
        found = jitted("coverage_at_risk", risk=risk)(confidence[shuffled], correct[shuffled])
        np.testing.assert_allclose(found, want, atol=EXACT)


def test_equal_mass_bins_hold_equally_many_rows():
    rng = np.random.default_rng(0)
    confidence = rng.permutation(np.arange(23) / 23 + 0.01).astype(np.float32)
    correct = rng.random(23) < confidence
    for cut in ("midpoint", "rank"):
        stats = jitted("bin_stats_equal_mass", num_bins=5, cut=cut)(confidence, correct)
        np.testing.assert_array_equal(stats.count, [5, 5, 5, 4, 4])
    tied = jitted("bin_stats_equal_mass", num_bins=3)(np.full(9, 0.5, np.float32), np.ones(9))
    assert sorted(tied.count) == [0, 0, 9]
    cut = jitted("bin_stats_equal_mass", num_bins=3, cut="rank")
    half = cut(np.full(9, 0.5, np.float32), np.arange(9) < 3)
    np.testing.assert_allclose(half.sum_correct, [1, 1, 1], atol=EXACT)
    debiased = jitted("expected_calibration_error", norm="l2", debiased=True)
    assert debiased(np.arange(8) / 8 + 0.01, np.ones(8)) == 0  # a single row has no variance
    with pytest.raises(ValueError, match="cut is 'mass'"):
        calibration.bin_stats_equal_mass(confidence, correct, cut="mass")
    with pytest.raises(ValueError, match="binning is 'kumar'"):
        calibration.expected_calibration_error(confidence, correct, binning="kumar")
    with pytest.raises(ValueError, match='only "l2" can be debiased'):
        calibration.expected_calibration_error(confidence, correct, debiased=True)


def test_the_given_answer_may_be_another_than_the_likeliest():
    scores = jnp.log(jnp.asarray([[0.6, 0.3, 0.1]]))
    top = calibration.top_label(scores, jnp.asarray([1]), prediction=jnp.asarray([1]))
    np.testing.assert_allclose(top.confidence, 0.3, rtol=1e-6)
    assert bool(top.correct[0])
    outside = calibration.top_label(scores, jnp.asarray([1]), prediction=jnp.asarray([3]))
    assert np.isnan(outside.margin[0])
    with pytest.raises(ValueError, match=r"prediction\[0\] is 3"):
        checked.top_label(scores, np.array([1]), prediction=np.array([3]))


def test_edges_are_rounded_once():
    edges = calibration.bin_edges(15)
    assert all(edges[k] == k / 15 for k in range(16))
    confidence = jnp.asarray(edges, jnp.float32)
    right = calibration.bin_index(confidence)
    left = calibration.bin_index(confidence, closed="left")
    np.testing.assert_array_equal(right, [0, *range(15)])
    np.testing.assert_array_equal(left, [*range(15), 14])
    with pytest.raises(ValueError, match="num_bins is 0"):
        calibration.bin_edges(0)
    with pytest.raises(ValueError, match="closed is 'both'"):
        calibration.bin_index(confidence, closed="both")


def test_answer_log_masses_are_shares_of_the_softmax():
    logits = np.random.default_rng(0).normal(0, 4, (3, 2, 11)).astype(np.float32)
    id_sets = ((1, 4), (7,), (0, 9, 10))
    masses, total = jitted("answer_log_masses", id_sets=id_sets)(logits)
    softmax = jax.nn.softmax(logits, axis=-1)
    for k, ids in enumerate(id_sets):
        share = softmax[..., jnp.asarray(ids)].sum(axis=-1)
        np.testing.assert_allclose(jnp.exp(masses[..., k]), share, rtol=1e-5)
    np.testing.assert_allclose(total, jax.nn.logsumexp(masses, axis=-1), atol=EXACT)
    assert (total <= 0).all()
    half = calibration.answer_log_masses(jnp.asarray(logits, jnp.bfloat16), id_sets)
    assert half[0].dtype == jnp.float32


@pytest.mark.parametrize(
    ("id_sets", "message"),
    [
        ((), "id_sets is empty"),
        (((1,), ()), r"id_sets\[1\] is empty"),
        (((1,), (1,)), "token id 1 is listed 2 times"),
        (((1,), (11,)), r"token id 11 is outside \[0, 11\)"),
    ],
)
def test_answer_sets_must_be_disjoint_and_in_range(id_sets, message):
    with pytest.raises(ValueError, match=message):
        calibration.answer_log_masses(jnp.zeros(11), id_sets)


class TopLabelTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_margin_is_the_log_odds(self):
        scores, label, valid = random_choices(3)
        top = self.variant(calibration.top_label)(scores, label, valid)
        probability = jax.nn.softmax(jnp.where(valid, scores, -jnp.inf), axis=-1)
        np.testing.assert_allclose(top.confidence, probability.max(-1), atol=EXACT)
        odds = jnp.log(probability.max(-1)) - jnp.log1p(-probability.max(-1))
        np.testing.assert_allclose(top.margin, odds, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(top.correct, probability.argmax(-1) == label)

    @chex.variants(with_jit=True, without_jit=True)
    def test_two_choices_are_exact_and_saturation_keeps_its_rank(self):
        scores = jnp.asarray([[0.0, 20.0], [25.0, 0.0], [1.5, 1.5]])
        top = self.variant(calibration.top_label)(scores, jnp.zeros(3, int))
        np.testing.assert_array_equal(top.margin, [20, 25, 0])
        np.testing.assert_array_equal(top.confidence, [1, 1, 0.5])
        np.testing.assert_array_equal(top.prediction, [1, 0, 0])
        np.testing.assert_array_equal(top.correct, [False, True, True])

    @chex.variants(with_jit=True, without_jit=True)
    def test_single_and_invalid_rows(self):
        scores = jnp.asarray([[1.0, jnp.nan], [jnp.nan, 1.0], [0, 0], [-jnp.inf, 0]])
        valid = jnp.asarray([[True, False], [True, True], [False, False], [True, True]])
        label = jnp.zeros(4, int)
        top = self.variant(calibration.top_label)(scores, label, valid)
        np.testing.assert_array_equal(top.margin, [np.inf] + [np.nan] * 3)
        np.testing.assert_array_equal(top.confidence, [1] + [np.nan] * 3)
        log_prob = self.variant(calibration.label_log_prob)(scores, label, valid)
        np.testing.assert_array_equal(log_prob, [0] + [np.nan] * 3)


@few
@hypothesis.given(seeds, st.floats(-50, 50))
def test_a_shift_of_the_logits_changes_nothing(seed, shift):
    scores, label, valid = random_choices(seed)
    top = jitted("top_label")(scores, label, valid)
    moved = jitted("top_label")(scores + np.float32(shift), label, valid)
    np.testing.assert_allclose(moved.confidence, top.confidence, atol=2e-5)
    nll = jitted("negative_log_likelihood")
    before, after = (nll(s, label, valid=valid) for s in (scores, scores + shift))
    np.testing.assert_allclose(after, before, atol=2e-5)


def test_nll_of_a_label_that_is_not_offered_is_infinite():
    scores = jnp.zeros((2, 3))
    valid = jnp.asarray([[True, True, False]] * 2)
    nll = jitted("negative_log_likelihood")
    np.testing.assert_allclose(nll(scores, jnp.asarray([0, 1]), valid=valid), np.log(2))
    assert nll(scores, jnp.asarray([0, 2]), valid=valid) == np.inf
    assert nll(scores, jnp.asarray([0, 5])) == np.inf


def test_gradients_are_finite_through_masks():
    scores, label, valid = random_choices(4)
    scores = jnp.asarray(np.where(valid, scores, -np.inf)).at[5].set(jnp.nan)
    weights = jnp.arange(ROWS) != 5

    def loss(scores, temperature):
        scaled = calibration.apply_temperature(scores, temperature)
        return calibration.negative_log_likelihood(scaled, label, weights, valid=valid)

    chex.assert_tree_all_finite(jax.jit(jax.grad(loss, argnums=(0, 1)))(scores, 2.0))


@pytest.mark.parametrize("planted", [0.02, 0.3, 1.0, 4.0, 60.0])
def test_a_planted_temperature_is_recovered(planted):
    scores, _, valid = random_choices(5)
    scores = scores * np.float32(planted)
    probability = jax.nn.softmax(jnp.where(valid, scores / planted, -jnp.inf), axis=-1)
    label = jnp.broadcast_to(jnp.arange(4)[:, None], (4, ROWS)).ravel()
    scores, valid = (jnp.tile(x, (4, 1)) for x in (scores, valid))
    fit = jitted("fit_temperature")(scores, label, probability.T.ravel(), valid=valid)
    np.testing.assert_allclose(fit.temperature, planted, rtol=1e-4)
    assert bool(fit.converged)
    assert not bool(fit.at_bound)


def test_temperature_bounds_and_rows_that_cannot_be_fitted():
    scores, _, valid = random_choices(6)
    masked = np.where(valid, scores, -np.inf)
    best, worst = masked.argmax(1), np.where(valid, scores, np.inf).argmin(1)
    fit = jitted("fit_temperature")
    low, high = fit(scores, best, valid=valid), fit(scores, worst, valid=valid)
    assert bool(low.at_bound)
    assert bool(high.at_bound)
    np.testing.assert_allclose([low.temperature, high.temperature], [1e-3, 1e3])
    mixed = np.where(np.arange(ROWS) % 4 > 0, best, worst)
    inside = fit(scores, mixed, valid=valid)
    assert not bool(inside.at_bound)
    unfit = fit(scores, mixed, np.zeros(ROWS, np.int32), valid=valid)
    assert np.isnan(unfit.temperature)
    assert not bool(unfit.at_bound)
    for value in (np.nan, np.inf, -np.inf):
        bad = np.where((np.arange(ROWS) == 0)[:, None], np.float32(value), scores)
        assert np.isnan(fit(bad, mixed, valid=valid).temperature)
        assert np.isnan(jitted("temperature_grid")(bad, mixed, valid=valid))
    outside = np.where(np.arange(ROWS) == 0, 9, mixed)
    dropped = fit(scores, outside, valid=valid).temperature
    expected = fit(scores, mixed, (np.arange(ROWS) > 0).astype(np.int32), valid=valid)
    np.testing.assert_allclose(dropped, expected.temperature, rtol=1e-5)


def test_scaling_keeps_predictions_and_the_binary_ranking():
    scores, label, _ = random_choices(7, num_choices=2)
    top = jitted("top_label")(scores, label)
    for temperature in (0.2, 5.0):
        scaled = jitted("apply_temperature")(scores, temperature)
        after = jitted("top_label")(scaled, label)
        np.testing.assert_array_equal(after.prediction, top.prediction)
        before = jitted("aurc")(top.margin, top.correct)
        np.testing.assert_allclose(jitted("aurc")(after.margin, after.correct), before, atol=EXACT)


def test_cross_validation_scales_by_the_other_folds():
    scores, label, valid = random_choices(8)
    fold = calibration.kfold(jax.random.key(0), ROWS, 3)
    cross = jitted("cross_validated_temperature", num_folds=3)
    temperatures, scaled = cross(scores, label, fold, valid=valid)
    for f in range(3):
        others = (fold != f).astype(jnp.int32)
        fit = jitted("fit_temperature")(scores, label, others, valid=valid)
        np.testing.assert_allclose(temperatures[f], fit.temperature, rtol=1e-5)
        np.testing.assert_allclose(
            scaled[fold == f], scores[fold == f] / fit.temperature, rtol=1e-5
        )


def test_folds_are_balanced_and_never_split_a_group():
    fold = calibration.kfold(jax.random.key(1), 23, 5)
    sizes = np.bincount(fold, minlength=5)
    assert sizes.max() - sizes.min() <= 1
    assert sizes.sum() == 23
    group = jnp.asarray(np.random.default_rng(0).integers(0, 9, 40))
    fold = np.asarray(calibration.group_kfold(jax.random.key(1), group, 9, 3))
    assert all(np.unique(fold[np.asarray(group) == g]).size <= 1 for g in range(9))
    assert set(fold) == {0, 1, 2}


def test_resamples_draw_as_many_as_there_are():
    counts = calibration.resample_counts(jax.random.key(2), 30, 50)
    assert counts.shape == (50, 30)
    assert (counts.sum(axis=1) == 30).all()
    group = jnp.arange(30) // 5
    clustered = calibration.cluster_resample_counts(jax.random.key(2), group, 6, 50)
    by_group = np.asarray(clustered).reshape(50, 6, 5)
    assert (by_group == by_group[:, :, :1]).all()
    assert (by_group[:, :, 0].sum(axis=1) == 6).all()
    assert abs(np.mean(clustered) - 1) < 1e-6
    assert len(np.unique(clustered)) > 2


def test_bootstrap_of_a_constant_has_no_width_and_equals_a_loop():
    confidence, correct = random_rows(9)
    counts = calibration.resample_counts(jax.random.key(3), ROWS, 40)

    def statistic(weights):
        constant = calibration.accuracy(confidence, np.ones(ROWS), weights)
        return constant, calibration.expected_calibration_error(confidence, correct, weights)

    constant, error = jax.jit(functools.partial(calibration.bootstrap, statistic))(counts)
    assert calibration.percentile_interval(constant) == (1, 1)
    np.testing.assert_allclose(error, jax.vmap(statistic)(counts)[1], atol=EXACT)
    loop = [jitted("expected_calibration_error")(confidence, correct, w) for w in counts]
    np.testing.assert_allclose(error, loop, atol=EXACT)
    low, high = calibration.percentile_interval(error, 0.9)
    np.testing.assert_allclose(low, np.quantile(error, 0.05), atol=EXACT)
    np.testing.assert_allclose(high, np.quantile(error, 0.95), atol=EXACT)


def test_every_function_of_weighted_rows_has_a_checked_twin():
    for name in calibration.__all__:
        function = getattr(calibration, name)
        if not inspect.isfunction(function) or name in ("training_weights", "cumulate"):
            continue  # what makes weights, and what metrics are made of
        if "weights" in inspect.signature(function).parameters:
            twin = getattr(checked, name)
            assert inspect.unwrap(twin) is function, name


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_precision_in_is_precision_out(dtype):
    with jax.enable_x64(True):
        confidence, correct = random_rows(10)
        metrics = jax.eval_shape(row_metrics, jnp.asarray(confidence, dtype), correct)
        for name, values in metrics.items():
            assert {leaf.dtype for leaf in jax.tree.leaves(values)} == {np.dtype(dtype)}, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": [0, 4]}, r"label\[1\] is 4; it is the index of a valid choice"),
        ({"label": [0]}, "label has 1 rows; the others have 2"),
        ({"label": [0.0, 1.0]}, "label has dtype float64"),
        ({"log_masses": [[0, np.inf], [0, 0]]}, r"log_masses\[0, 1\] is inf"),
        ({"log_masses": [0.0, 0.0]}, r"log_masses has shape \(2,\)"),
        ({"weights": [1, -1]}, r"weights\[1\] is -1; a weight is finite"),
        ({"valid": [[False, False], [True, True]]}, r"valid\[0, 0\] is False"),
    ],
)
def test_checked_errors_name_row_value_and_remedy(change, message):
    inputs = {"log_masses": np.zeros((2, 2)), "label": [0, 1]} | change
    inputs = {name: np.asarray(value) for name, value in inputs.items()}
    for name in ("negative_log_likelihood", "fit_temperature"):
        with pytest.raises(ValueError, match=message):
            getattr(checked, name)(**inputs)
