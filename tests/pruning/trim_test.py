"""TRIM by hand, and against a plain loop in float64.

Axes: N visual tokens · Dv width.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from pruning.trim import Trim, trim

N, DV = 21, 6
KEY = pruning.image_key(0, "image")

run = jax.jit(trim, static_argnames=("budget", "rest"))


def image(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0.3, 1, (N, DV)).astype(np.float32), rng.uniform(size=N).astype(np.float32)


def written_out(features, relevance, budget):
    """Return features and index of the method as it is described."""
    left, picks = list(range(len(features))), []
    while len(picks) < budget - 1:
        best = max(left, key=lambda i: (relevance[i], -i))
        left.remove(best)
        picks.append(best)
    mean = sum(features[i].astype(np.float64) for i in left) / len(left)
    return [*features[picks], mean], [*picks, left[0]]


def test_the_others_become_their_mean():
    features = jnp.asarray([[1, 0], [0, 3], [5, 5], [0, 6]], jnp.float32)
    features, index = run(features, jnp.asarray([0.5, 0.1, 0.9, 0.2]), budget=3)
    np.testing.assert_array_equal(features, [[5, 5], [1, 0], [0, 4.5]])
    assert index.tolist() == [2, 0, 1]


@pytest.mark.parametrize("budget", [1, 2, 9, N])
def test_tokens_are_those_of_the_method_written_out(budget):
    inputs = image()
    features, index = run(*inputs, budget=budget)
    expected, places = written_out(*inputs, budget)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    assert index.tolist() == places
    assert index.dtype == jnp.int32


def test_everything_kept_is_everything():
    features, relevance = image(1)
    got, index = run(features, relevance, budget=N)
    np.testing.assert_array_equal(got, features[np.asarray(index)])
    assert sorted(index.tolist()) == list(range(N))


def test_the_lowest_index_wins_a_tie_and_no_number_comes_last():
    features = np.eye(5, dtype=np.float32)
    _, index = run(features, jnp.asarray([0.0, 1, jnp.nan, 1, 0]), budget=4)
    assert index.tolist() == [1, 3, 0, 2]


def test_without_a_mean_all_are_patches():
    features, relevance = image(2)
    got, index = run(features, relevance, budget=7, rest="none")
    assert index.tolist() == np.argsort(-relevance, kind="stable")[:7].tolist()
    np.testing.assert_array_equal(got, features[np.asarray(index)])


def test_order_of_relevance_is_all_that_matters():
    features, relevance = image(3)
    expected = run(features, relevance, budget=6)
    for other in (relevance * 1e-30, relevance**3 - 7, np.log(relevance)):
        jax.tree.map(np.testing.assert_array_equal, run(features, other, budget=6), expected)


def test_tokens_move_with_their_features():
    features, relevance = image(4)
    relabel = np.random.default_rng(4).permutation(N)
    moved, index = run(features[relabel], relevance[relabel], budget=8)
    expected, places = run(features, relevance, budget=8)
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-6)
    assert relabel[np.asarray(index)[:-1]].tolist() == places[:-1].tolist()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_the_mean_is_taken_in_float32(dtype):
    features, relevance = jnp.asarray(100 + image(5)[0], dtype), image(5)[1]
    got, _ = run(features, relevance, budget=2)
    assert got.dtype == dtype
    exact, _ = run(features.astype(jnp.float32), relevance, budget=2)
    np.testing.assert_array_equal(got, exact.astype(dtype))


HOSTILE = {
    "zero": np.zeros_like,
    "constant": np.ones_like,
    "huge": lambda leaf: leaf * np.float32(1e30),
    "tiny": lambda leaf: leaf * np.float32(1e-30),
}


@pytest.mark.parametrize("change", HOSTILE)
def test_hostile_tokens_give_numbers(change):
    inputs = [HOSTILE[change](leaf) for leaf in image(6)]
    for budget in (1, 8, N):
        features, index = run(*inputs, budget=budget)
        assert np.isfinite(features).all()
        assert len(set(index.tolist())) == budget
        with jax.disable_jit(), jax.debug_nans(True):
            eager = trim(*(jnp.asarray(leaf) for leaf in inputs), budget)
        np.testing.assert_array_equal(index, eager.index)


@pytest.mark.parametrize("rest", ["mean", "none"])
def test_each_question_gets_tokens_of_its_own(rest):
    pruner, images = Trim(trim_rest=rest), [image(seed) for seed in (7, 8)]
    features = jnp.stack([features for features, _ in images])
    relevance = np.stack(
        [[image(10 + q)[1] for q in range(3)], [image(20 + q)[1] for q in range(3)]]
    )
    tokens = pruning.Tokens(features=features, relevance=jnp.asarray(relevance))
    batch = pruning.select(pruner, tokens, 5, jnp.stack([KEY, KEY]))
    assert batch.features.shape == (2, 3, 5, DV)
    for g, q in np.ndindex(2, 3):
        got, index = run(features[g], relevance[g, q], budget=5, rest=rest)
        np.testing.assert_array_equal(batch.index[g, q], index)
        np.testing.assert_allclose(batch.features[g, q], got, rtol=1e-6, atol=1e-6)


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match=r"trim: trim_rest .* got 'sum'"):
        Trim(trim_rest="sum").check()
    with pytest.raises(ValueError, match=r"trim: trim_rest .* got 'sum'"):
        trim(jnp.ones((3, 2)), jnp.ones(3), 2, rest="sum")
    with pytest.raises(ValueError, match=r"1 … 3 .*got 4"):
        trim(jnp.ones((3, 2)), jnp.ones(3), 4)
