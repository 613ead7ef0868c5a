"""PruMerge and PruMerge+ by hand, and against plain loops in float64.

Axes: N visual tokens · Dv width.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from pruning.prumerge import PruMerge, PruMergePlus, prumerge, prumerge_plus

N, DV = 41, 6
KEY = pruning.image_key(0, "image")

runs = {
    "prumerge": jax.jit(prumerge, static_argnames=("budget", "neighbours")),
    "prumerge_plus": jax.jit(prumerge_plus, static_argnames=("budget", "neighbours")),
}
both = pytest.mark.parametrize("name", runs)


def image(seed=0):
    rng = np.random.default_rng(seed)
    features, keys = rng.normal(0.3, 1, (N, DV)), rng.normal(0.3, 1, (1 + N, 2 * DV))
    saliency = 0.9 * rng.dirichlet(np.ones(N))
    return tuple(np.float32(leaf) for leaf in (features, saliency, keys))


def kept_by(name, saliency, budget):
    """Return the tokens that are kept, in order."""
    by_saliency = sorted(range(len(saliency)), key=lambda i: (-saliency[i], i))
    if name == "prumerge":
        return by_saliency[: budget - 1]
    salient = by_saliency[: int(np.ceil((budget - 1) / 4))]
    others = [i for i in range(len(saliency)) if i not in salient]
    missing = budget - 1 - len(salient)
    return salient + [others[i * len(others) // missing] for i in range(missing)]


def written_out(name, features, saliency, keys, budget, neighbours):
    """Return features and index of the method as it is described."""
    features, saliency, keys = (x.astype(np.float64) for x in (features, saliency, keys[1:]))
    kept, rows = kept_by(name, saliency, budget), []
    for i in kept:
        cosine = keys @ keys[i] / np.linalg.norm(keys, axis=1) / np.linalg.norm(keys[i])
        near = sorted((j for j in range(len(keys)) if j != i), key=lambda j: -cosine[j])
        rows.append(features[i] + sum(saliency[j] * features[j] for j in near[:neighbours]))
    others = [j for j in range(len(keys)) if j not in kept]
    rows.append(sum(saliency[j] * features[j] for j in others))
    return rows, [*kept, others[0]]


def test_similar_keys_are_added_and_the_others_summed_up():
    features = jnp.eye(5)
    saliency = jnp.asarray([0.1, 0.3, 0.2, 0.05, 0.15])
    # 1 and 2 are kept. 1 is most like 2 (also kept), then 4; 2 most like 1, then 4.
    keys = jnp.asarray([[9, 9], [-1, 0], [2, 0], [1, 1], [-1, -1], [0, 1]], jnp.float32)
    got, index = runs["prumerge"](features, saliency, keys, budget=3, neighbours=2)
    expected = [[0, 1, 0.2, 0, 0.15], [0, 0.3, 1, 0, 0.15], [0.1, 0, 0, 0.05, 0.15]]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert index.tolist() == [1, 2, 0]
    got, _ = runs["prumerge"](features, saliency, keys, budget=3, neighbours=0)
    np.testing.assert_allclose(got[:2], features[1:3], rtol=1e-6)


@both
@pytest.mark.parametrize(
    ("budget", "neighbours"), [(1, 5), (2, 100), (3, 5), (8, 5), (20, 32), (N, 32)]
)
def test_tokens_are_those_of_the_method_written_out(name, budget, neighbours):
    inputs = image(budget)
    got, index = runs[name](*inputs, budget=budget, neighbours=neighbours)
    expected, places = written_out(name, *inputs, budget, neighbours)
    assert index.tolist() == places
    assert index.dtype == jnp.int32
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_a_quarter_is_salient_and_the_rest_evenly_spaced():
    saliency = jnp.asarray([0.0, 0, 0, 0, 0, 0, 0.9, 0, 0.1, 0, 0, 0])
    inputs = jnp.ones((12, 2)), saliency, jnp.ones((13, 2))
    # 6 and 8 of K − 1 = 5; of 0 1 2 3 4 5 7 9 10 11 every one at 0, 3⅓ and 6⅔.
    assert runs["prumerge_plus"](*inputs, budget=6).index.tolist() == [6, 8, 0, 3, 7, 1]


@both
def test_published_budgets_are_met_without_copies(name):
    saliency = np.random.default_rng(0).uniform(size=576)
    inputs = np.ones((576, 2)), saliency, np.ones((577, 2))
    for budget in (64, 192, 576):
        index = runs[name](*map(jnp.asarray, inputs), budget=budget, neighbours=1).index
        assert len(set(index.tolist())) == budget


@both
@pytest.mark.parametrize("keys", [[9, 1, 0, 0, -0.0, 0, 0, -0.0, 1], [9, 0, 1, 1, -1, 1, 1, 0, 1]])
def test_of_equally_similar_tokens_the_first_are_near(name, keys):
    # Token 0 is kept. Its key 1 is like that of token 7 and gives cosines of 0 and −0 with the
    # others; its key 0 gives these with all.
    keys = jnp.asarray(keys, jnp.float32)[:, None]
    saliency = jnp.asarray([0.02] + 7 * [0.01])
    got, index = runs[name](jnp.eye(8), saliency, keys, budget=2, neighbours=4)
    assert index.tolist() == [0, 1]
    near = [0, 1, 2, 3, 7] if keys[1] == 1 else [0, 1, 2, 3, 4]
    assert np.flatnonzero(got[0]).tolist() == near


@both
def test_scale_laws(name):
    features, saliency, keys = image(2)
    expected, index = runs[name](features, saliency, keys, budget=9)
    longer, same = runs[name](features * 4, saliency, keys * np.float32(1e-20), budget=9)
    np.testing.assert_array_equal(same, index)
    np.testing.assert_allclose(longer, 4 * expected, rtol=1e-5)
    # A saliency of half the size adds half as much.
    weaker, same = runs[name](features, saliency / 2, keys, budget=9)
    np.testing.assert_array_equal(same, index)
    alone = np.zeros((9, DV), np.float32)
    alone[:8] = features[np.asarray(index)[:8]]
    np.testing.assert_allclose(weaker - alone, (expected - alone) / 2, rtol=1e-4, atol=1e-5)


def test_what_no_softmax_gives_is_clipped():
    features, keys = jnp.eye(4), jnp.ones((5, 2))
    saliency = jnp.asarray([2.0, -1.0, jnp.nan, 0.5])
    got, index = runs["prumerge"](features, saliency, keys, budget=2)
    np.testing.assert_array_equal(got, [[1, 0, 0, 0.5], [0, 0, 0, 0.5]])
    assert index.tolist() == [0, 1]
    got, _ = runs["prumerge"](features, saliency, keys, budget=1)
    np.testing.assert_array_equal(got, [[1, 0, 0, 0.5]])


def test_tokens_move_with_their_features():
    features, saliency, keys = image(3)
    relabel = np.random.default_rng(3).permutation(N)
    with_cls = np.concatenate([[0], 1 + relabel])
    moved = features[relabel], saliency[relabel], keys[with_cls]
    got, index = runs["prumerge"](*moved, budget=9)
    expected, places = runs["prumerge"](features, saliency, keys, budget=9)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert relabel[np.asarray(index)[:-1]].tolist() == places[:-1].tolist()


@both
def test_the_key_of_cls_is_irrelevant(name):
    features, saliency, keys = image(4)
    other = np.concatenate([-7 * keys[:1], keys[1:]])
    got, expected = (runs[name](features, saliency, k, budget=9) for k in (other, keys))
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@both
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_sums_are_taken_in_float32(name, dtype):
    inputs = [jnp.asarray(leaf, dtype) for leaf in image(5)]
    got = runs[name](*inputs, budget=9)
    assert got.features.dtype == dtype
    exact = runs[name](*(leaf.astype(jnp.float32) for leaf in inputs), budget=9)
    np.testing.assert_array_equal(got.index, exact.index)
    np.testing.assert_array_equal(got.features, exact.features.astype(dtype))


HOSTILE = {
    "zero": np.zeros_like,
    "constant": np.ones_like,
    "copies": lambda leaf: leaf[np.arange(len(leaf)) % 4],
    "huge": lambda leaf: leaf * np.float32(1e30),
    "tiny": lambda leaf: leaf * np.float32(1e-30),
}


@both
@pytest.mark.parametrize("change", HOSTILE)
def test_hostile_tokens_give_numbers(name, change):
    inputs = [HOSTILE[change](leaf) for leaf in image(6)]
    for budget in (1, 8, N):
        features, index = runs[name](*inputs, budget=budget)
        assert np.isfinite(features).all()
        assert len(set(index.tolist())) == budget
    with jax.disable_jit(), jax.debug_nans(True):
        eager = globals()[name](*(jnp.asarray(leaf) for leaf in inputs), N)
    np.testing.assert_array_equal(index, eager.index)


@both
def test_one_token_is_summed_up(name):
    features, saliency, keys = (leaf[:1] for leaf in image(7))
    got, index = runs[name](features, saliency, jnp.concatenate([keys, keys]), budget=1)
    np.testing.assert_allclose(got, saliency * features, rtol=1e-6)
    assert index.tolist() == [0]


@pytest.mark.parametrize("pruner", [PruMerge(prumerge_neighbours=4), PruMergePlus(4)])
def test_a_batch_is_a_loop_over_images(pruner):
    leaves = features, saliency, keys = [
        jnp.stack(leaf) for leaf in zip(*map(image, range(3)), strict=True)
    ]
    tokens = pruning.Tokens(features=features, last_saliency=saliency, last_keys=keys)
    batch = pruning.select(pruner, tokens, 7, jnp.stack([KEY] * 3))
    run = runs[pruner.name]
    at_once = jax.vmap(lambda *leaf: run(*leaf, budget=7, neighbours=4))(*leaves)
    for g in range(3):
        got, index = run(*(leaf[g] for leaf in leaves), budget=7, neighbours=4)
        for whole in (batch, at_once):
            np.testing.assert_array_equal(whole.index[g], index)
            np.testing.assert_allclose(whole.features[g], got, rtol=1e-5, atol=1e-6)


@both
def test_impossible_arguments_are_refused(name):
    inputs = jnp.ones((3, 2)), jnp.ones(3), jnp.ones((4, 2))
    with pytest.raises(ValueError, match=r"prumerge: prumerge_neighbours .* got -1"):
        pruning.get(name)(prumerge_neighbours=-1).check()
    with pytest.raises(ValueError, match=r"prumerge: prumerge_neighbours .* got -1"):
        globals()[name](*inputs, 2, neighbours=-1)
    for budget in (0, 4):
        with pytest.raises(ValueError, match=f"1 … 3 .*got {budget}"):
            globals()[name](*inputs, budget)
