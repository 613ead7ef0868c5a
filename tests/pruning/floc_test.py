"""FLoC on examples small enough to work out by hand, and against a float64 reference."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from pruning import _greedy
from pruning._ops import cosine_similarity
from pruning.floc import _block_budgets

floc = jax.jit(pruning.floc, static_argnames=("budget", "block_size"))


def order(features, budget=None, **settings):
    features = jnp.asarray(features, jnp.float32)
    return np.asarray(floc(features, budget=budget or len(features), **settings)).tolist()


def at(*degrees):
    """Return unit vectors at these angles in a plane."""
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


def two_planes(first, second):
    """Return the vectors of two orthogonal planes, one after the other."""
    return np.block([[first, np.zeros_like(first)], [np.zeros_like(second), second]])


def test_the_first_pick_counts_negative_similarities():
    # 1 + 2·½ − 1 against 1 + 0.9; scope, from a coverage of 0, takes 2 against 1.9.
    pair = at(0, np.degrees(np.arccos(0.9)))
    features = jnp.asarray(two_planes(at(0, 60, -60, 180), pair), jnp.float32)
    assert order(features, 1)[0] in (4, 5)  # a tie but for rounding
    assert pruning.scope(features, None, 1).tolist() == [0]


def test_negative_coverage_is_a_gap_to_close():
    # 0° for its 20° neighbour; then 180° gains 1 + 1, of which scope would count 1, and 90°
    # gains 1 + what it does for 180°, cos 90° + 1, and 20°, 0: more.
    assert order(at(0, 20, 180, 90), 2) == [1, 2]


def test_a_covered_token_comes_last():
    assert order([[1, 0], [1, 0], [0, 1]]) == [0, 2, 1]


def test_blocks_are_pruned_on_their_own():
    features = np.random.default_rng(0).normal(size=(12, 5))
    blocks = [start + np.array(order(features[start : start + 4], 2)) for start in (0, 4, 8)]
    assert order(features, 6, block_size=4) == np.concatenate(blocks).tolist()
    assert order(features, 6, block_size=12) == order(features, 6)
    assert order(features, 6, block_size=99) == order(features, 6)


def test_block_budgets_add_up_and_fit():
    for num_tokens, size in itertools.product((1, 7, 12), (1, 5, 6, 12)):
        sizes = np.bincount(np.arange(num_tokens) // size)
        for budget in range(1, num_tokens + 1):
            budgets = np.array(_block_budgets(num_tokens, budget, size))
            assert budgets.sum() == budget
            assert (budgets <= sizes).all()
            # Cumulative rounding: each is off by at most one token.
            assert (np.abs(budgets - sizes * budget / num_tokens) <= 1).all()


def test_a_block_may_keep_nothing():
    features = np.random.default_rng(1).normal(size=(12, 5))
    # Up to the ends of the blocks ⅔ → 1 and 1⅓ → 1 and 2.
    assert [pick // 4 for pick in order(features, 2, block_size=4)] == [0, 2]


def test_lazy_equals_dense_from_a_negative_start():
    features = np.random.default_rng(2).normal(size=(77, 6))
    similarity = cosine_similarity(jnp.asarray(features, jnp.float32))
    score = _greedy.Score(1.0, "multiply", "float32")
    lazy, dense = (
        jax.jit(lambda s, w, form=form: form(score, s, w, 77, -1.0))(similarity, jnp.ones(77))
        for form in (_greedy.lazy, _greedy.dense)
    )
    np.testing.assert_array_equal(lazy, dense)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match=r"block_size .* got 0"):
        pruning.floc(jnp.ones((4, 2)), 2, block_size=0)
    with pytest.raises(ValueError, match=r"1 … 4 .*got 5"):
        pruning.floc(jnp.ones((4, 2)), 5)


@pytest.mark.golden
def test_orders_are_accepted(golden):
    for name, case, inputs, stored in golden.cases("floc"):
        features = inputs["features"]
        size = len(features) * case["block_frames"] // case["frames"]
        picks = np.array(order(features, case["K_total"], block_size=size))
        sizes = np.bincount(picks // size, minlength=len(features) // size)

        def replay(picks, tol, _, features=features, size=size):
            blocks = np.split(picks, np.flatnonzero(np.diff(picks // size)) + 1)
            good = 0
            for block in blocks:
                start = block[0] // size * size
                own = features[start : start + size]
                good += golden.check.coverage_replay(own, block - start, tol)["bad"]
            return {"bad": good}

        golden.assert_accepted(
            f"floc/{name}",
            case,
            {"order": picks, "block_len": sizes},
            stored,
            lambda *_, replay=replay: replay,
        )
