"""VisPruner against a plain loop in float64, and against the official code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from pruning.vispruner import _cosine_similarity

vispruner = jax.jit(pruning.vispruner, static_argnames=("budget", "important_ratio"))


def order(features, saliency, budget, **settings):
    features, saliency = (jnp.asarray(x, jnp.float32) for x in (features, saliency))
    return np.asarray(vispruner(features, saliency, budget=budget, **settings)).tolist()


def written_out(features, saliency, budget, ratio):
    """Return the picks of the method as it is described, one round after the other."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    by_saliency = np.argsort(-saliency, kind="stable")
    important = int(budget * ratio)
    others, keep = by_saliency[important:], budget - important
    while 0 < keep < len(others):
        even, odd = others[::2], others[1::2]
        likeness = (unit[even] @ unit[odd].T).max(axis=1)
        even = even[np.argsort(-likeness, kind="stable")]
        others = np.concatenate([even[min(8, len(others) - keep) :], odd])
    return [*by_saliency[:important], *(others if keep else [])]


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 1.0])
def test_picks_are_those_of_the_method_written_out(ratio):
    rng = np.random.default_rng(0)
    features, saliency = rng.normal(0.3, 1, (61, 12)), rng.uniform(size=61)
    for budget in (1, 7, 30, 61):
        expected = written_out(features, saliency, budget, ratio)
        assert order(features, saliency, budget, important_ratio=ratio) == expected


def test_an_even_token_like_an_odd_one_is_dropped():
    # By saliency 0, then 1 2 3 4 5: of the evens 1, 3 and 5, it is 3 that is like 4, an odd one.
    features = np.eye(6)
    features[3] = features[4] + 0.1 * features[0]
    assert order(features, [9, 5, 4, 3, 2, 1], 5, important_ratio=0.2) == [0, 1, 5, 2, 4]
    # It is not dropped for being like another even one.
    features = np.eye(6)
    features[3] = features[5] + 0.1 * features[2]
    assert 1 not in order(features, [9, 5, 4, 3, 2, 1], 2, important_ratio=0.5)[1:]


def test_the_saliency_of_the_important_ones_decides():
    features = np.random.default_rng(1).normal(size=(20, 4))
    assert order(features, np.arange(20), 4, important_ratio=1.0) == [19, 18, 17, 16]
    assert order(features, np.zeros(20), 4, important_ratio=1.0) == [0, 1, 2, 3]


def test_cosines_are_nearly_correctly_rounded():
    rng = np.random.default_rng(2)
    features = rng.normal(1.5, 1, (200, 512)).astype(np.float32)
    features[3] = features[2]
    features[7] = 0
    exact = features.astype(np.float64)
    exact /= np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-300)
    got = np.asarray(jax.jit(_cosine_similarity)(jnp.asarray(features)))
    # Numbers from ½ to 1 are 6e-8 apart: half of that, and what is left of the other errors.
    np.testing.assert_allclose(got, exact @ exact.T, rtol=0, atol=3e-8 + 1e-8)
    np.testing.assert_array_equal(got, got.T)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_an_impossible_ratio_is_refused(ratio):
    with pytest.raises(ValueError, match=f"vispruner: important_ratio .* got {ratio}"):
        pruning.VisPruner(important_ratio=ratio).check()
    with pytest.raises(ValueError, match=f"vispruner: important_ratio .* got {ratio}"):
        order(np.eye(3), np.ones(3), 2, important_ratio=ratio)


@pytest.mark.golden
def test_kept_tokens_are_accepted(golden):
    for name, case, inputs, stored in golden.cases("vispruner"):
        saliency = inputs["attention"].sum(axis=0)
        ratio = case["important_ratio"]
        picks = order(inputs["features"], saliency, case["K"], important_ratio=ratio)
        arrays = {"kept_sorted": np.sort(picks)}
        golden.assert_accepted(f"vispruner/{name}", case, arrays, stored, lambda *_: None)
