"""VisionZip on an example small enough to work out by hand, and against the official code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning

visionzip = jax.jit(pruning.visionzip, static_argnames=("dominant", "contextual"))


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
        (2, 0, "contextual .* got 0"),
        (3, 2, r"dominant .* at most 4 .*3 \+ 2"),
    ],
)
def test_impossible_numbers_are_refused(dominant, contextual, message):
    with pytest.raises(ValueError, match=f"visionzip: {message}"):
        pruning.visionzip(jnp.ones((4, 2)), jnp.ones(3), jnp.ones((4, 2)), dominant, contextual)


@pytest.mark.golden
def test_merged_tokens_are_accepted(golden):
    for name, case, inputs, stored in golden.cases("visionzip"):
        sizes = case["dominant"], case["contextual"]
        saliency = np.float32(golden.check.saliency(inputs["cls_attention"]))
        images = zip(inputs["hidden"], saliency, inputs["metric"], strict=True)
        output = np.array([visionzip(*image, *sizes) for image in images])
        # Merging unit vectors shows which tokens are behind each row. The targets do not depend on
        # the keys: where all are equal, every other token joins the first.
        rows = one_hot_rows(inputs["hidden"].shape[1])
        equal = jnp.ones_like(inputs["metric"][0])
        who = np.array([visionzip(rows, s, equal, *sizes) for s in saliency]).argmax(axis=2)
        arrays = {
            "output": output,
            "dominant_sorted": who[:, : sizes[0]],
            "context_targets": who[:, sizes[0] :],
        }
        golden.assert_accepted(f"visionzip/{name}", case, arrays, stored, lambda *_: None)
