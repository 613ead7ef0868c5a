"""VisionZip on an example small enough to work out by hand, and against the official code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from pruning.visionzip import VisionZip, published_contextual

KEY = pruning.image_key(0, "image")

visionzip = jax.jit(pruning.visionzip, static_argnames=("dominant", "contextual"))


@jax.jit(static_argnames="budget")
def run(pruner, hidden, saliency, keys, budget):
    tokens = pruning.Tokens(hidden=hidden, saliency=saliency, keys=keys)
    return pruner(tokens, budget, KEY)


def image(seed, num_tokens=20):
    rng = np.random.default_rng(seed)
    hidden, keys = (rng.normal(0.3, 1, (1 + num_tokens, d)).astype("f") for d in (6, 4))
    return hidden, rng.uniform(size=num_tokens).astype("f"), keys


def one_hot_rows(count):
    """Return rows that show in a sum which of them were added."""
    return jnp.eye(count, dtype=jnp.float32)


def test_the_others_join_the_target_with_the_most_similar_key():
    hidden = one_hot_rows(8)
    saliency = jnp.asarray([0.0, 9, 0, 0, 0, 0, 0])
    # CLS and token 2 are kept. Of 1 3 4 5 6 7 the targets are 1 and 5; 3, 6 and 7 point to 1.
    keys = jnp.asarray([[0, 0], [1, 0], [0, 0], [5, 1], [0, 1], [0, 2], [1, 0], [3, 0]])
    got = visionzip(hidden, saliency, keys, dominant=2, contextual=2)
    third = 1 / 3
    expected = [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0, 0],
        [0, 1, 0, third, 0, 0, third, third],
        [0, 0, 0, 0, 1, 1, 0, 0],
    ]
    np.testing.assert_allclose(got, expected, atol=1e-7)


def test_a_target_that_nobody_joins_stays_as_it_is():
    hidden = one_hot_rows(4)
    got = visionzip(hidden, jnp.zeros(3), jnp.ones((4, 2)), dominant=1, contextual=3)
    np.testing.assert_array_equal(got, hidden)
    got = visionzip(hidden, jnp.zeros(3), jnp.zeros((4, 2)), dominant=1, contextual=2)
    np.testing.assert_array_equal(got[2], hidden[2])  # ties join the first target


def test_dominant_tokens_are_in_raster_order():
    hidden = one_hot_rows(6)
    saliency = jnp.asarray([1.0, 5, 2, 4, 3])
    got = visionzip(hidden, saliency, jnp.ones((6, 2)), dominant=4, contextual=1)
    np.testing.assert_array_equal(got[:4], hidden[jnp.asarray([0, 2, 4, 5])])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_means_are_taken_in_float32(dtype):
    rng = np.random.default_rng(0)
    hidden, keys = (jnp.asarray(rng.normal(size=(31, d)), dtype) for d in (6, 3))
    saliency = jnp.asarray(rng.uniform(size=30), jnp.float32)
    got = visionzip(hidden, saliency, keys, dominant=4, contextual=3)
    assert got.dtype == dtype
    exact = visionzip(
        hidden.astype(jnp.float32), saliency, keys.astype(jnp.float32), dominant=4, contextual=3
    )
    np.testing.assert_array_equal(got, exact.astype(dtype))


@pytest.mark.parametrize(
    ("dominant", "contextual", "message"),
    [
        (0, 2, "dominant .* got 0"),
        (2, -1, "contextual .* got -1"),
        (3, 2, r"dominant .* at most 4 .*3 \+ 2"),
    ],
)
def test_impossible_numbers_are_refused(dominant, contextual, message):
    with pytest.raises(ValueError, match=f"visionzip: {message}"):
        pruning.visionzip(jnp.ones((4, 2)), jnp.ones(3), jnp.ones((4, 2)), dominant, contextual)


def test_published_splits_are_the_default():
    budgets = (8, 16, 32, 48, 64, 128, 160, 192, 320, 640)
    splits = [published_contextual(budget) for budget in budgets]
    assert splits == [2, 4, 6, 8, 10, 20, 25, 30, 50, 100]
    # Between them, and beyond them.
    assert [published_contextual(budget) for budget in (1, 2, 4, 24, 256)] == [1, 1, 1, 5, 40]
    assert published_contextual(2880) == 450
    hidden, saliency, keys = image(0, 576)
    for dominant, contextual in ((162, 30), (108, 20), (54, 10)):
        got = run(VisionZip(), hidden, saliency, keys, budget=dominant + contextual)
        expected = visionzip(hidden, saliency, keys, dominant=dominant, contextual=contextual)
        np.testing.assert_array_equal(got.features, expected)


@pytest.mark.parametrize("contextual", [None, 0, 1, 5, 100])
@pytest.mark.parametrize("budget", [1, 2, 7, 20])
def test_a_token_takes_the_place_of_its_target(contextual, budget):
    hidden, saliency, keys = image(1)
    features, index = run(VisionZip(contextual=contextual), hidden, saliency, keys, budget=budget)
    merged = min(published_contextual(budget) if contextual is None else contextual, budget - 1)
    places = np.asarray(index)
    assert places.dtype == np.int32
    assert len(set(places.tolist())) == budget
    assert places[0] == -1
    assert places.max() < 20
    dominant = budget - merged
    np.testing.assert_array_equal(features[:dominant], hidden[1 + places[:dominant]])
    salient = np.sort(np.argsort(-saliency, kind="stable")[: dominant - 1])
    assert places[1:dominant].tolist() == salient.tolist()
    others = np.setdiff1d(np.arange(20), salient)
    step = len(others) // max(merged, 1)
    assert places[dominant:].tolist() == others[::step][:merged].tolist()


def test_one_visual_token_leaves_cls():
    hidden, saliency, keys = image(2, 1)
    features, index = run(VisionZip(), hidden, saliency, keys, budget=1)
    np.testing.assert_array_equal(features, hidden[:1])
    assert index.tolist() == [-1]


HOSTILE = {
    "zero": np.zeros_like,
    "copies": lambda leaf: leaf[np.arange(len(leaf)) % 4],
    "huge": lambda leaf: leaf * np.float32(1e30),
    "tiny": lambda leaf: leaf * np.float32(1e-30),
    "float16": lambda leaf: leaf.astype(np.float16),
}


@pytest.mark.parametrize("change", HOSTILE)
def test_hostile_tokens_give_numbers(change):
    leaves = [jnp.asarray(HOSTILE[change](leaf)) for leaf in image(3)]
    for budget in (1, 7, 20):
        features, index = run(VisionZip(), *leaves, budget=budget)
        assert features.dtype == leaves[0].dtype
        assert np.isfinite(features).all()
        assert len(set(index.tolist())) == budget
    with jax.disable_jit(), jax.debug_nans(True):
        pruning.visionzip(*leaves, 5, 4)


def test_a_batch_is_a_loop_over_images():
    leaves = [np.stack(leaf) for leaf in zip(*map(image, range(3)), strict=True)]
    tokens = pruning.Tokens(**dict(zip(("hidden", "saliency", "keys"), leaves, strict=True)))
    batch = pruning.select(VisionZip(contextual=3), tokens, 7, jnp.stack([KEY] * 3))
    for g in range(3):
        features, index = run(VisionZip(contextual=3), *(leaf[g] for leaf in leaves), budget=7)
        np.testing.assert_array_equal(batch.index[g], index)
        np.testing.assert_allclose(batch.features[g], features, rtol=1e-6, atol=1e-6)


def test_an_impossible_split_is_refused():
    with pytest.raises(ValueError, match=r"visionzip: contextual must be .* got -1"):
        VisionZip(contextual=-1).check()
    VisionZip(contextual=0).check()


@pytest.mark.golden
def test_merged_tokens_are_accepted(golden):
    for name, case, inputs, stored in golden.cases("visionzip"):
        pruner, budget = VisionZip(contextual=case["contextual"]), case["K"]
        saliency = np.float32(golden.check.saliency(inputs["cls_attention"]))
        images = list(zip(inputs["hidden"], saliency, inputs["metric"], strict=True))
        output, index = (
            np.stack(leaf) for leaf in zip(*(run(pruner, *x, budget) for x in images), strict=True)
        )
        # Merging unit vectors shows which tokens are behind each row.
        rows = one_hot_rows(inputs["hidden"].shape[1])
        behind = [np.asarray(run(pruner, rows, *x[1:], budget).features) for x in images]
        arrays = {
            "output": output,
            "dominant_sorted": 1 + index[:, : case["dominant"]],
            "context_targets": 1 + index[:, case["dominant"] :],
        }
        arrays |= who_joins(behind, arrays["context_targets"])
        golden.assert_accepted(f"visionzip/{name}", case, arrays, stored, lambda *_: None)
        for rule in case["accept"]:
            if rule["array"] in ("merged_tokens", "assign", "counts"):
                array = rule["array"]
                assert golden.check.accepts(rule, arrays[array], stored(array)), (name, array)


def who_joins(behind, targets):
    """Return the tokens that join a target, which one, and how many join each, for each image."""
    found = {"merged_tokens": [], "assign": [], "counts": []}
    for rows, own in zip(behind, targets, strict=True):
        rows = rows[-len(own) :].copy()
        rows[np.arange(len(own)), own] -= 1
        tokens = np.flatnonzero(rows.any(axis=0))
        found["merged_tokens"].append(tokens)
        found["assign"].append(rows[:, tokens].argmax(axis=0))
        found["counts"].append((rows > 0).sum(axis=1))
    return {array: np.array(values) for array, values in found.items()}
