"""SCOPE on examples small enough to work out by hand, and against float64 on random ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pruning
from pruning._ops import cosine_similarity

scope = jax.jit(pruning.scope, static_argnames=("budget", "gamma", "combine", "select_dtype"))


def order(features, saliency=None, budget=None, **settings):
    features = jnp.asarray(features, jnp.float32)
    saliency = None if saliency is None else jnp.asarray(saliency, jnp.float32)
    picks = scope(features, saliency, budget=budget or len(features), **settings)
    return np.asarray(picks).tolist()


def unit(*degrees):
    """Return unit vectors at these angles in a plane."""
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


TWINS = [[1, 0], [1, 0], [0, 1]]  # a token, its copy, and one on its own


def test_coverage_takes_one_of_each_before_a_copy():
    # gains 2, 2, 1 → 0; then 0, 0, 1 → 2.
    assert order(TWINS) == [0, 2, 1]


def test_saliency_multiplies_the_gain():
    # 2·1, 2·1, 1·3 → 2; then the tie of 0 and 1 goes to the lowest index.
    assert order(TWINS, [1, 1, 3]) == [2, 0, 1]


def test_saliency_adds_to_the_gain():
    # 2 + 0, 2 + 0.5, 1 + 2 → 2; then 2, 2.5 → 1.
    assert order(TWINS, [0, 0.5, 2], combine="add") == [2, 1, 0]


def test_alpha_is_the_exponent_of_the_saliency():
    # 2·1, 2·1, 1·1.5^α: 1.5 < 2 < 2.25.
    assert order(TWINS, [1, 1, 1.5], 1) == [0]
    assert order(TWINS, [1, 1, 1.5], 1, alpha=2.0) == [2]


def two_planes(first, second):
    """Return the vectors of two orthogonal planes, one after the other."""
    return np.block([[first, np.zeros_like(first)], [np.zeros_like(second), second]])


PAIR = unit(0, np.degrees(np.arccos(0.9)))


def test_gamma_above_one_prefers_large_gaps():
    # A token with two neighbours at 60° against a pair: 1 + 2·0.5^γ against 1 + 0.9^γ.
    features = two_planes(unit(0, 60, -60), PAIR)
    assert order(features, budget=1, gamma=0.5) == [0]
    assert order(features, budget=1, gamma=1.0) == [0]
    assert order(features, budget=1, gamma=2.0)[0] in (3, 4)  # a tie but for rounding


def test_a_negative_similarity_never_counts():
    # The first token has an opposite: 1 + 2·0.5 against 1 + 0.9, or 1.0 if it counted.
    assert order(two_planes(unit(0, 60, -60, 180), PAIR), budget=1) == [0]


def test_alpha_zero_ignores_the_saliency():
    rng = np.random.default_rng(0)
    features, saliency = rng.normal(size=(15, 6)), rng.uniform(size=15)
    saliency[::3] = 0  # 0⁰ = 1
    assert order(features, saliency, alpha=0.0) == order(features)
    assert order(features, np.zeros(15), alpha=0.0) == order(features)


def test_without_any_saliency_the_order_is_raster():
    assert order(np.random.default_rng(1).normal(size=(9, 4)), np.zeros(9)) == list(range(9))


def test_impossible_saliency_comes_last():
    features = np.random.default_rng(1).normal(size=(6, 4))
    saliency = np.array([np.nan, 1, -5, 2, -np.inf, 3])
    assert sorted(order(features, saliency)[:3]) == [1, 3, 5]
    assert order(features, saliency)[3:] == [0, 2, 4]


def test_an_infinite_saliency_does_not_save_a_covered_token():
    # ∞·2, ∞·2, 1 → 0; then ∞·0, which is no number, and 1.
    assert order(TWINS, [np.inf, np.inf, 1]) == [0, 2, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_leave_the_raster_order(value):
    features = np.random.default_rng(1).normal(size=(9, 4))
    features[5, 2] = value
    assert order(features, np.ones(9)) == list(range(9))


def test_half_precision_does_not_see_small_differences():
    # 1.0002 rounds to 1, so the first of two equal gains wins; 1.001 does not.
    assert order(np.eye(2), [1, 1.0002]) == [1, 0]
    assert order(np.eye(2), [1, 1.0002], select_dtype="float16") == [0, 1]
    assert order(np.eye(2), [1, 1.001], select_dtype="float16") == [1, 0]
    # 1.0002⁴ = 1.0008 does not round to 1: the saliency is rounded before its power.
    assert order(np.eye(2), [1, 1.0002], alpha=4.0, select_dtype="float16") == [0, 1]


def test_half_precision_rounds_gains():
    # Gains of 64 and, with a token at a cosine of 0.02, 64.02; from 64 on steps are 1/16.
    near = [[0, 0.02, np.sqrt(1 - 0.02**2)]]
    features = np.concatenate([np.repeat(np.eye(3)[:2], 64, axis=0), near])
    assert order(features, budget=1) == [64]
    assert order(features, budget=1, select_dtype="float16") == [0]


def test_equal_tokens_come_in_raster_order():
    assert order(np.ones((9, 4)), np.ones(9)) == list(range(9))


@pytest.mark.parametrize("scale", [1e-30, 0.37, 3.7, 1e30])
def test_the_scale_of_the_features_is_irrelevant(scale):
    rng = np.random.default_rng(2)
    features, saliency = rng.normal(size=(15, 6)), rng.uniform(0.1, 1, size=15)
    each = rng.uniform(0.5, 2, size=(15, 1))
    assert order(scale * each * features, saliency) == order(features, saliency)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_input_is_selected_in_float32(dtype):
    rng = np.random.default_rng(3)
    features = jnp.asarray(rng.normal(size=(15, 6)), dtype)
    saliency = jnp.asarray(rng.uniform(0.1, 1, size=15), dtype)
    picks = scope(features, saliency, budget=15)
    assert picks.tolist() == order(features.astype(jnp.float32), saliency.astype(jnp.float32))


def test_cosines_are_finite_symmetric_and_zero_for_zero_tokens():
    features = jnp.asarray([[3e38, 3e38], [0, 0], [1e-30, 0], [-1, 0]], jnp.float32)
    half = np.sqrt(0.5)
    expected = [[1, 0, half, -half], [0, 0, 0, 0], [half, 0, 1, -1], [-half, 0, -1, 1]]
    # Four float32 roundings of numbers up to 1.
    np.testing.assert_allclose(cosine_similarity(features), expected, atol=4 * 6e-8)


def test_long_sums_are_accurate():
    features = np.random.default_rng(4).normal(0.5, 1, size=(30, 1024)).astype(np.float32)
    exact = features.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    # One running sum over 1024 products is off by 1e-6 and more.
    np.testing.assert_allclose(cosine_similarity(jnp.asarray(features)), exact @ exact.T, atol=5e-7)


def greedy_regret(features, saliency, picks, alpha, gamma, combine):
    """Return how far each pick is below the best available score in float64, relative to it."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarity, weight = unit @ unit.T, saliency**alpha
    coverage, free, regrets = np.zeros(len(unit)), np.ones(len(unit), bool), []
    for pick in picks:
        gaps = np.maximum(similarity - coverage[:, None], 0)
        gain = np.sum(gaps**gamma, axis=0)
        score = gain * weight if combine == "multiply" else gain + weight
        best = score[free].max()
        regrets.append((best - score[pick]) / best)
        free[pick] = False
        coverage = np.maximum(coverage, similarity[pick])
    return np.array(regrets)


@pytest.mark.parametrize("combine", ["multiply", "add"])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.5, 2.0])
def test_every_pick_is_greedy(gamma, combine):
    @settings(max_examples=15, deadline=None)
    @given(seed=st.integers(0, 2**32 - 1), alpha=st.floats(0, 3), offset=st.floats(0, 2))
    def check(seed, alpha, offset):
        rng = np.random.default_rng(seed)
        features = rng.normal(offset, 1, size=(12, 8)).astype(np.float32)
        saliency = rng.uniform(0.01, 1, size=12).astype(np.float32)
        picks = order(features, saliency, alpha=alpha, gamma=gamma, combine=combine)
        exact = features.astype(np.float64), saliency.astype(np.float64)
        # Float32 cosines are off by about 2e-7; a root widens the error of a gap of 1e-4.
        assert greedy_regret(*exact, picks, alpha, gamma, combine).max() < 1e-5

    check()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"combine": "sum"}, "'sum'"),
        ({"select_dtype": "bfloat16"}, "'bfloat16'"),
        ({"gamma": 0.0}, "gamma .* got 0.0"),
        ({"gamma": -1.0}, "gamma .* got -1.0"),
        ({"gamma": float("nan")}, "gamma .* got nan"),
        ({"gamma": float("inf")}, "gamma .* got inf"),
    ],
)
def test_impossible_static_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        order(TWINS, **setting)
    with pytest.raises(ValueError, match=message):
        pruning.Scope(**setting).check()


@pytest.mark.parametrize("alpha", [-0.5, float("nan"), float("inf")])
def test_select_refuses_an_impossible_alpha(alpha):
    tokens = pruning.Tokens(features=jnp.ones((1, 3, 2)), saliency=jnp.ones((1, 3)))
    with pytest.raises(ValueError, match=f"alpha .* got {alpha}"):
        pruning.select(
            pruning.Scope(alpha=alpha), tokens, 2, jax.random.split(jax.random.key(0), 1)
        )


@pytest.mark.parametrize("budget", [-1, 0, 4])
def test_a_budget_out_of_range_is_refused(budget):
    with pytest.raises(ValueError, match=f"1 … 3 .*got {budget}"):
        pruning.scope(jnp.ones((3, 2)), None, budget)
    with pytest.raises(ValueError, match=f"1 … 3 .*got {budget}"):
        pruning.saliency_top_k(jnp.ones(3), budget)
    with pytest.raises(ValueError, match=f"1 … 3 .*got {budget}"):
        pruning.random_subset(jax.random.key(0), 3, budget)


def test_mismatched_saliency_is_refused():
    with pytest.raises(AssertionError):
        pruning.scope(jnp.ones((3, 2)), jnp.ones(4), 2)
