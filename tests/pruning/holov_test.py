"""HoloV by hand, and against plain loops in float64.

Axes: N visual tokens · D width · C crops.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from pruning.holov import HoloV, _shares, _variances, _weights, holov

N, D = 45, 10
KEY = pruning.image_key(0, "image")

run = jax.jit(holov, static_argnames=("budget", "crops"))


def image(seed=0, num_tokens=N):
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(0.3, 1, (num_tokens, D))
    return embeddings.astype(np.float32), (16 * rng.dirichlet(np.ones(num_tokens))).astype("f")


def crops_of(num_tokens, crops):
    """Return the tokens of every crop that is not empty."""
    parts, start = [], 0
    for c in range(crops):
        stop = start + num_tokens // crops + (c < num_tokens % crops)
        parts += [range(start, stop)] if stop > start else []
        start = stop
    return parts


def variances(embeddings):
    """Return how much the similarities of every token vary, as the official code has it."""
    unit, count = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), len(embeddings)
    result = []
    for i in range(count):
        similarity = [float(unit[i] @ unit[j]) * (i != j) for j in range(count)]
        mean = sum(similarity) / (count - 1)
        result.append(sum((s - mean) ** 2 for s in similarity) / (count - 1))
    return np.array(result)


def weights(embeddings, saliency, crops, alpha):
    """Return the official weights: attention · 1000, variances scaled to it in each crop."""
    scores = []
    for part in crops_of(len(saliency), crops):
        attention = 1e3 * saliency[part].astype(np.float64)
        score = attention
        if len(part) > 1:
            v = variances(embeddings[part].astype(np.float64))
            score = attention + alpha * v * (np.abs(attention).mean() / (np.abs(v).mean() + 1e-6))
        scores.append(score.mean())
    return np.array(scores) / (sum(scores) + 1e-6)


def written_out(embeddings, saliency, budget, crops=16, alpha=0.09):
    """Return the picks of the method as it is described."""
    parts = crops_of(len(saliency), crops)
    weight = weights(embeddings, saliency, crops, alpha)
    by_weight = sorted(range(len(parts)), key=lambda c: (-weight[c], c))
    take = [math.floor(w * budget) for w in weight]
    for c in by_weight[: budget - sum(take)]:
        take[c] += 1
    take = [min(t, len(part)) for t, part in zip(take, parts, strict=True)]
    for c in by_weight:
        while sum(take) < budget and take[c] < len(parts[c]):
            take[c] += 1
    picks = []
    for t, part in zip(take, parts, strict=True):
        picks += sorted(part, key=lambda i: (-saliency[i], i))[:t]
    return picks


def test_crops_share_the_budget_by_their_saliency():
    embeddings = np.random.default_rng(0).normal(size=(8, D))
    saliency = jnp.asarray([0.12, 0.2, 0.14, 0.14, 0.05, 0.17, 0.1, 0.08])
    # 5 · 0.32, 0.28, 0.22, 0.18 are 1, 1, 1, 0 and the first two get one more.
    assert run(embeddings, saliency, budget=5, crops=4).tolist() == [1, 0, 2, 3, 5]
    # Of 3 all are 0, and the first three get one more.
    assert run(embeddings, saliency, budget=3, crops=4).tolist() == [1, 2, 5]


def test_what_a_crop_cannot_take_goes_to_the_next():
    embeddings = np.random.default_rng(0).normal(size=(6, D))
    saliency = jnp.asarray([0.02, 0.03, 0.9, 0.01, 0.02, 0.02])
    # The middle one takes 2 of 5, and the last but one, of more weight than the last, the rest.
    assert run(embeddings, saliency, budget=4, crops=3).tolist() == [1, 0, 2, 3]
    assert run(embeddings, saliency, budget=5, crops=3).tolist() == [1, 0, 2, 3, 4]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("crops", [1, 4, 16, 60])
def test_picks_are_those_of_the_method_written_out(seed, crops):
    inputs = image(seed)
    for budget in (1, 7, 16, 30, N):
        # Crops of one token each: the official code divides their weights by 1000.
        reference = (crops, 0.09) if crops < N else (N, 0)
        expected = written_out(*inputs, budget, *reference)
        got = run(*inputs, budget=budget, crops=crops)
        assert got.tolist() == expected
        assert got.dtype == jnp.int32


@pytest.mark.parametrize("alpha", [0.0, 0.09, 5.0])
def test_weights_are_the_official_ones(alpha):
    embeddings, saliency = image(4)
    # Tokens of the first crop are nearly orthogonal, so that 10⁻⁶ matters there.
    embeddings[:9] = np.eye(D)[:9] + 1e-2
    sizes = np.array([9] * 5)
    got = jax.jit(lambda *leaf: _weights(*leaf, sizes, alpha))(embeddings, saliency)
    np.testing.assert_allclose(got, weights(embeddings, saliency, 5, alpha), rtol=2e-5)


def test_variances_count_a_token_as_unlike_itself():
    embeddings, _ = image(5, 7)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    padded = np.stack([unit[:4], np.concatenate([unit[4:], unit[:1]])])
    sizes = np.array([4, 3])
    inside = np.arange(4)[None] < sizes[:, None]
    got = np.asarray(_variances(jnp.asarray(padded), inside, sizes))
    expected = [*variances(embeddings[:4]), *variances(embeddings[4:]), 0]
    np.testing.assert_allclose(got.ravel(), expected, rtol=1e-5)


def test_embeddings_have_next_to_no_influence():
    _, saliency = image(6)
    orders = {tuple(run(image(seed)[0], saliency, budget=17).tolist()) for seed in range(10, 20)}
    assert len(orders) == 1
    # Tokens without any similarity have no variance, so their crop loses α.
    embeddings, saliency = np.eye(8), np.full(8, 0.1)
    embeddings[4:] = 1
    even = run(embeddings, saliency, budget=3, crops=2)
    assert even.tolist() == [0, 4, 5]
    assert run(embeddings, saliency, budget=3, crops=2, alpha=0.0).tolist() == [0, 1, 4]


def test_shares_add_up_and_fit():
    rng = np.random.default_rng(0)
    shares = jax.jit(_shares, static_argnums=2)
    sizes = jnp.asarray([5, 5, 5, 4, 4])
    for budget in (1, 6, 22, 23):
        for concentration in (0.1, 1, 100):
            weight = jnp.asarray(rng.dirichlet(np.full(5, concentration)), jnp.float32)
            take = shares(weight, sizes, budget)
            assert int(take.sum()) == budget
            assert bool((take <= sizes).all())
            assert bool((take >= jnp.minimum(jnp.floor(weight * budget), sizes)).all())


def test_without_any_saliency_crops_are_equal():
    embeddings, saliency = image(7)
    got = run(embeddings, 0 * saliency, budget=9, crops=5)
    assert got.tolist() == [0, 1, 9, 10, 18, 19, 27, 28, 36]


def test_scales_are_irrelevant():
    embeddings, saliency = image(8)
    expected = run(embeddings, saliency, budget=17).tolist()
    for scale in np.float32([1e-30, 1e-3, 3e37]):
        assert run(embeddings * scale, saliency * scale, budget=17).tolist() == expected


def test_what_is_no_number_comes_last():
    embeddings, saliency = image(9)
    saliency[[3, 4]] = np.nan, -1
    picks = run(embeddings, saliency, budget=N, crops=5).tolist()
    assert sorted(picks) == list(range(N))
    assert picks[7:9] == [4, 3]


HOSTILE = {
    "zero": np.zeros_like,
    "constant": np.ones_like,
    "copies": lambda leaf: leaf[np.arange(len(leaf)) % 4],
    "huge": lambda leaf: leaf * np.float32(1e30),
    "tiny": lambda leaf: leaf * np.float32(1e-30),
    "float16": lambda leaf: leaf.astype(np.float16),
    "bfloat16": lambda leaf: leaf.astype(jnp.bfloat16),
}


@pytest.mark.parametrize("change", HOSTILE)
def test_hostile_tokens_give_valid_picks(change):
    inputs = [jnp.asarray(HOSTILE[change](leaf)) for leaf in image(10)]
    for budget in (1, 8, N):
        picks = run(*inputs, budget=budget)
        assert len(set(picks.tolist())) == budget
    with jax.disable_jit(), jax.debug_nans(True):
        np.testing.assert_array_equal(holov(*inputs, N), picks)


def test_one_token_is_kept():
    embeddings, saliency = image(11, 1)
    assert run(embeddings, saliency, budget=1).tolist() == [0]


def test_a_batch_is_a_loop_over_images():
    embeddings, saliency = (jnp.stack(leaf) for leaf in zip(*map(image, range(3)), strict=True))
    tokens = pruning.Tokens(embeddings=embeddings, saliency=saliency)
    batch = pruning.select(HoloV(holov_crops=4), tokens, 7, jnp.stack([KEY] * 3))
    at_once = jax.vmap(lambda *leaf: holov(*leaf, 7, crops=4))(embeddings, saliency)
    for g in range(3):
        expected = run(embeddings[g], saliency[g], budget=7, crops=4)
        np.testing.assert_array_equal(batch[g], expected)
        np.testing.assert_array_equal(at_once[g], expected)


def test_impossible_arguments_are_refused():
    for pruner, message in (
        (HoloV(holov_crops=0), "holov_crops .* got 0"),
        (HoloV(holov_alpha=-0.1), "holov_alpha .* got -0.1"),
        (HoloV(holov_alpha=math.nan), "holov_alpha .* got nan"),
    ):
        with pytest.raises(ValueError, match=f"holov: {message}"):
            pruner.check()
    with pytest.raises(ValueError, match=r"holov: holov_crops .* got 0"):
        holov(*map(jnp.asarray, image()), 3, crops=0)
    with pytest.raises(ValueError, match=f"1 … {N} .*got {N + 1}"):
        holov(*map(jnp.asarray, image()), N + 1)
