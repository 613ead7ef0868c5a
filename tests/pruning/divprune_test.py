"""DivPrune on examples small enough to work out by hand, and against the official code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning

divprune = jax.jit(pruning.divprune, static_argnames="budget")


def order(embeddings, budget=None):
    embeddings = jnp.asarray(embeddings, jnp.float32)
    return np.asarray(divprune(embeddings, budget=budget or len(embeddings))).tolist()


def at(*degrees):
    """Return unit vectors at these angles in a plane."""
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


def test_the_first_is_the_most_isolated_and_the_next_are_far_from_the_kept():
    # Nearest others at 10°, 10°, 40°, 50° → 3; farthest from it, at 100°, 90°, 50° → 0; then
    # nearest kept ones at 10° and 50° → 2.
    assert order(at(0, 10, 50, 100)) == [3, 0, 2, 1]


def test_the_nearest_kept_token_counts_not_the_last_one():
    # 180°, then 0° and 90° at 90° of the kept; 5° is far from 180° but near to 0°.
    assert order(at(0, 5, 80, 180)) == [3, 0, 2, 1]


def test_copies_come_last_and_no_token_twice():
    picks = order(np.concatenate([np.eye(4), np.eye(4), np.eye(4)]))
    assert sorted(np.mod(picks[:4], 4)) == [0, 1, 2, 3]
    assert sorted(picks) == list(range(12))


def test_opposite_tokens_are_farther_than_orthogonal_ones():
    assert order([[1, 0], [0.5, 1], [-1, 0]], 2) == [2, 0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_token_that_is_no_number_counts_as_a_copy(value):
    assert order([[1, 0], [value, 0], [0, 1], [-1, 0]]) == [0, 3, 2, 1]


@pytest.mark.parametrize("budget", [0, 5])
def test_a_budget_out_of_range_is_refused(budget):
    with pytest.raises(ValueError, match=f"1 … 4 .*got {budget}"):
        pruning.divprune(jnp.ones((4, 2)), budget)


@pytest.mark.golden
def test_orders_are_accepted(golden):
    for name, case, inputs, stored in golden.cases("divprune"):
        features = inputs["features"]

        def replay(picks, tol, upto, features=features):
            return golden.check.maxmin_replay(features, picks, tol, upto)

        arrays = {"order": np.array(order(features))}
        golden.assert_accepted(
            f"divprune/{name}", case, arrays, stored, lambda *_, replay=replay: replay
        )
