"""ToMe by hand, and against plain loops in float64.

Axes: N visual tokens · Dv width · Dk width of the keys.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from pruning.tome import ToMe, tome

N, DV, DK = 23, 6, 8
BUDGETS = 1, 5, 8, 11, 12, N
KEY = pruning.image_key(0, "image")

run = jax.jit(tome, static_argnames="budget")


def image(seed=0):
    rng = np.random.default_rng(seed)
    features, keys = rng.normal(0.3, 1, (N, DV)), rng.normal(0.3, 1, (1 + N, DK))
    return features.astype(np.float32), keys.astype(np.float32)


def written_out(features, keys, budget):
    """Return members of every token that is left, in raster order, by the definition."""
    features, keys = features.astype(np.float64), keys[1:].astype(np.float64)
    groups = {i: [i] for i in range(len(features))}
    while len(groups) > budget:
        places = sorted(groups)
        means = {i: keys[groups[i]].mean(axis=0) for i in places}
        best = []
        for a in places[::2]:
            cosines = [
                means[a] @ means[b] / np.linalg.norm(means[a]) / np.linalg.norm(means[b])
                for b in places[1::2]
            ]
            best += [(-max(cosines, default=0), a, places[1::2][int(np.argmax(cosines))])]
        for _, a, b in sorted(best)[: min(len(places) // 2, len(places) - budget)]:
            groups[b] += groups.pop(a)
    return {i: sorted(members) for i, members in groups.items()}


def members(keys, budget):
    """Return which tokens are in each that is left: means of unit vectors show them."""
    rows, index = run(np.eye(N, dtype=np.float32), keys, budget=budget)
    tokens = [np.flatnonzero(row).tolist() for row in np.asarray(rows)]
    for row, group in zip(np.asarray(rows), tokens, strict=True):
        np.testing.assert_allclose(row[group], 1 / len(group), rtol=1e-6)
    return dict(zip(index.tolist(), tokens, strict=True))


def test_the_most_similar_pairs_merge_first():
    # A is 0 2 4, B is 1 3: 0 is like 3 (cosine 1), 4 like 1 (0.98), 2 like 1 (0.7).
    keys = jnp.asarray([[9, 9], [0, 1], [5, 0], [1, 1], [0, 9], [5, 1]], jnp.float32)
    features = 10.0 ** jnp.arange(5.0)[:, None]
    got, index = run(features, keys, budget=4)
    assert index.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(got[:, 0], [10, 100, (1 + 1000) / 2, 10000], rtol=1e-6)
    got, index = run(features, keys, budget=3)
    assert index.tolist() == [1, 2, 3]
    np.testing.assert_allclose(got[:, 0], [(10 + 10000) / 2, 100, (1 + 1000) / 2], rtol=1e-6)
    # 1 and 3 are left of two more rounds in which 2 joins 1, and 1 joins 3.
    got, index = run(features, keys, budget=1)
    assert index.tolist() == [3]
    np.testing.assert_allclose(got, [[11111 / 5]], rtol=1e-6)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("seed", [0, 1])
def test_tokens_are_those_of_the_method_written_out(seed, budget):
    features, keys = image(seed)
    groups = written_out(features, keys, budget)
    assert members(keys, budget) == groups
    got, index = run(features, keys, budget=budget)
    assert index.dtype == jnp.int32
    assert index.tolist() == sorted(groups)
    means = [features[groups[i]].mean(axis=0) for i in index.tolist()]
    np.testing.assert_allclose(got, means, rtol=1e-4, atol=1e-5)


def test_nothing_is_lost():
    features, keys = image(2)
    for budget in BUDGETS:
        sizes = {i: len(group) for i, group in members(keys, budget).items()}
        got, index = run(features, keys, budget=budget)
        assert sum(sizes.values()) == N
        total = sum(sizes[i] * row for i, row in zip(index.tolist(), np.asarray(got), strict=True))
        np.testing.assert_allclose(total, features.sum(axis=0), rtol=1e-4, atol=1e-4)


def test_everything_kept_is_everything():
    features, keys = image(3)
    got, index = run(features, keys, budget=N)
    np.testing.assert_array_equal(got, features)
    assert index.tolist() == list(range(N))
    one, index = run(features[:1], keys[:2], budget=1)
    np.testing.assert_array_equal(one, features[:1])
    assert index.tolist() == [0]


def test_equal_keys_join_the_first_odd_token():
    # All of A is equally like the first of B, token 1; the last of A stays.
    keys = np.ones((1 + N, DK), np.float32)
    assert members(keys, 12) == {1: [0, 1, *range(2, N - 1, 2)]} | {
        i: [i] for i in (*range(3, N, 2), N - 1)
    }


def test_scale_of_keys_is_irrelevant_and_that_of_features_comes_through():
    features, keys = image(4)
    expected, index = run(features, keys, budget=8)
    for scale in (2.0**90, 2.0**-90):
        got = run(features * np.float32(scale), keys * np.float32(scale), budget=8)
        np.testing.assert_array_equal(got.index, index)
        np.testing.assert_allclose(got.features, expected * scale, rtol=1e-6)


def test_the_key_of_cls_is_irrelevant():
    features, keys = image(5)
    other = np.concatenate([-7 * keys[:1], keys[1:]])
    jax.tree.map(
        np.testing.assert_array_equal, run(features, keys, budget=8), run(features, other, budget=8)
    )


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_means_are_taken_in_float32(dtype):
    features, keys = (jnp.asarray(leaf, dtype) for leaf in image(6))
    got = run(features, keys, budget=8)
    assert got.features.dtype == dtype
    exact = run(features.astype(jnp.float32), keys.astype(jnp.float32), budget=8)
    np.testing.assert_array_equal(got.index, exact.index)
    np.testing.assert_array_equal(got.features, exact.features.astype(dtype))


HOSTILE = {
    "zero": np.zeros_like,
    "constant": np.ones_like,
    "copies": lambda leaf: leaf[np.arange(len(leaf)) % 4],
    "huge": lambda leaf: leaf * np.float32(1e30),
    "tiny": lambda leaf: leaf * np.float32(1e-30),
}


@pytest.mark.parametrize("change", HOSTILE)
def test_hostile_tokens_give_numbers(change):
    inputs = [HOSTILE[change](leaf) for leaf in image(7)]
    for budget in (1, 8, N):
        features, index = run(*inputs, budget=budget)
        assert np.isfinite(features).all()
        assert len(set(index.tolist())) == budget
        if budget == 8:
            with jax.disable_jit(), jax.debug_nans(True):
                eager = tome(*(jnp.asarray(leaf) for leaf in inputs), budget)
            np.testing.assert_array_equal(index, eager.index)


def test_a_batch_is_a_loop_over_images():
    features, keys = (jnp.stack(leaf) for leaf in zip(*map(image, range(3)), strict=True))
    tokens = pruning.Tokens(features=features, keys=keys)
    batch = pruning.select(ToMe(), tokens, 8, jnp.stack([KEY] * 3))
    at_once = jax.vmap(lambda x, k: tome(x, k, 8))(features, keys)
    for g in range(3):
        got, index = run(features[g], keys[g], budget=8)
        for whole in (batch, at_once):
            np.testing.assert_array_equal(whole.index[g], index)
            np.testing.assert_allclose(whole.features[g], got, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("budget", [0, 4])
def test_a_budget_out_of_range_is_refused(budget):
    with pytest.raises(ValueError, match=f"1 … 3 .*got {budget}"):
        tome(jnp.ones((3, 2)), jnp.ones((4, 2)), budget)
