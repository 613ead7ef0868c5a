"""AgilePruner on examples small enough to work out by hand, and against a float64 reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from pruning.agilepruner import effective_rank

agilepruner = jax.jit(pruning.agilepruner, static_argnames="budget")


def order(embeddings, saliency, budget=None, **settings):
    embeddings, saliency = (jnp.asarray(x, jnp.float32) for x in (embeddings, saliency))
    budget = budget or len(embeddings)
    return np.asarray(agilepruner(embeddings, saliency, budget=budget, **settings)).tolist()


def at(*degrees):
    """Return unit vectors at these angles in a plane."""
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


# Distances to the first: 0.015, 0.06, 0.5, 1; of the second to the third 0.015.
FAN, FALLING = at(0, 10, 20, 60, 90), [5, 4, 3, 2, 1]


def test_a_fixed_threshold_rules_out_what_is_near():
    assert order(FAN, FALLING, threshold=0.0) == [0, 1, 2, 3, 4]
    # 0 rules out 1, which then rules out nothing; ruled out tokens follow by saliency.
    assert order(FAN, FALLING, threshold=0.02) == [0, 2, 3, 4, 1]
    assert order(FAN, FALLING, threshold=0.1) == [0, 3, 4, 1, 2]
    assert order(FAN, FALLING, threshold=3.0) == [0, 1, 2, 3, 4]


def test_the_order_is_that_of_the_saliency():
    assert order(FAN, FALLING[::-1], threshold=0.1) == [4, 3, 2, 1, 0]
    assert order(FAN, [1, 1, 1, 1, 2], threshold=0.0) == [4, 0, 1, 2, 3]


def test_the_threshold_grows_with_the_rank_among_all_tokens():
    # 60° and 90° are 0.134 apart. A token's place counts, not how many were kept before it:
    # 60° has rank 4, 0.04 · erank / average.
    average = 0.01 * 4 * float(effective_rank(jnp.asarray(FAN))) / 0.134
    low, high = (
        order(FAN, FALLING, erank_average=factor * average, threshold_cap=9.0)
        for factor in (1.1, 0.9)
    )
    assert low.index(4) < low.index(3) + 2
    assert high[-1] == 4


def test_the_cap_bounds_the_threshold():
    uncapped = order(FAN, FALLING, erank_average=1e-3, threshold_cap=9.0)
    assert uncapped == order(FAN, FALLING, threshold=9.0)
    capped = order(FAN, FALLING, erank_average=1e-3, threshold_cap=0.1)
    assert capped == order(FAN, FALLING, threshold=0.1)


def test_the_effective_rank_is_the_exponential_of_an_entropy():
    rank = jax.jit(effective_rank)
    # Singular values in the ratio 3 : 1 and as many as there are directions.
    two = jnp.asarray([[3, 0], [-3, 0], [0, 1], [0, -1]], jnp.float32)
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    np.testing.assert_allclose(rank(two + 7), expected, rtol=1e-5)
    for scale in (1e-30, 1e30):
        np.testing.assert_allclose(rank(scale * two), expected, rtol=1e-5)
    both_ways = jnp.concatenate([jnp.eye(5), -jnp.eye(5)])
    np.testing.assert_allclose(rank(both_ways), 5, rtol=1e-5)
    assert float(rank(jnp.ones((4, 2)))) == 1


def test_the_effective_rank_of_wide_and_of_tall_matrices():
    for shape in ((12, 40), (40, 12)):
        values = np.random.default_rng(0).normal(2, 1, shape)
        singular = np.linalg.svd(values - values.mean(0), compute_uv=False)
        share = singular[singular > 1e-9] / singular.sum()
        expected = np.exp(-np.sum(share * np.log(share)))
        # Centring leaves one direction of size zero, whose square is off by 1e-7 of the largest.
        got = effective_rank(jnp.asarray(values, jnp.float32))
        np.testing.assert_allclose(got, expected, rtol=2e-3)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"erank_average": 0.0}, "erank_average .* got 0.0"),
        ({"erank_average": float("nan")}, "erank_average .* got nan"),
        ({"threshold_cap": -1.0}, "threshold_cap .* got -1.0"),
        ({"threshold": float("inf")}, "threshold .* got inf"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=f"agilepruner: {message}"):
        pruning.AgilePruner(**setting).check()


def test_a_threshold_is_traced_once_it_is_given():
    assert jax.tree.leaves(pruning.AgilePruner()) == [90.0, 0.25]
    assert jax.tree.leaves(pruning.AgilePruner(threshold=0.1)) == [90.0, 0.25, 0.1]
    tokens = pruning.Tokens(
        embeddings=jnp.asarray(FAN, jnp.float32)[None], saliency=jnp.asarray([FALLING], jnp.float32)
    )
    keys = jax.random.split(jax.random.key(0), 1)
    got = pruning.select(pruning.AgilePruner(threshold=0.1), tokens, 5, keys)
    assert got.tolist() == [[0, 3, 4, 1, 2]]


@pytest.mark.golden
def test_orders_are_accepted(golden):
    for name, case, inputs, stored in golden.cases("agilepruner"):
        saliency = inputs["cls_attention"][:, 1:].sum(axis=0)
        settings = {
            "erank_average": case["erank_avg"],
            "threshold_cap": case["tau_max"],
            "threshold": case["static_tau"],
        }
        # The method is nested: one order answers every budget.
        most = max(run["K"] for run in case["runs"].values())
        picks = np.array(order(inputs["features"], saliency, most, **settings))
        arrays = {f"order_{tag}": picks[: run["K"]] for tag, run in case["runs"].items()}
        golden.assert_accepted(f"agilepruner/{name}", case, arrays, stored, lambda *_: None)
