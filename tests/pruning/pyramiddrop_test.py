"""PyramidDrop: how many tokens it keeps where, and which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from pruning.pyramiddrop import PyramidDrop, pyramid

KEY = pruning.image_key(0, "image")


def test_an_eighth_is_three_halvings():
    assert pyramid(576, 72, 3) == (288, 144, 72)
    assert pyramid(64, 8, 3) == (32, 16, 8)


@pytest.mark.parametrize("num_tokens", [1, 2, 5, 36])
@pytest.mark.parametrize("num_cuts", [1, 2, 3, 5])
def test_counts_fall_by_a_constant_ratio_to_the_budget(num_tokens, num_cuts):
    for budget in range(1, num_tokens + 1):
        counts = pyramid(num_tokens, budget, num_cuts)
        assert len(counts) == num_cuts
        assert counts[-1] == budget
        before = num_tokens
        for i, count in enumerate(counts, start=1):
            assert budget <= count <= before
            exact = np.exp(np.log(num_tokens) + i / num_cuts * np.log(budget / num_tokens))
            assert abs(count - exact) <= 0.5 + 1e-9
            before = count


@pytest.mark.parametrize("budget", [0, 6])
def test_a_budget_out_of_range_is_refused(budget):
    with pytest.raises(ValueError, match=f"1 … 5 .*got {budget}"):
        pyramid(5, budget, 3)


def test_it_cuts_before_three_layers_and_looks_at_them():
    cuts = PyramidDrop().cuts(72, 576, 32)
    assert [(cut.layer, cut.keep) for cut in cuts] == [(8, 288), (16, 144), (24, 72)]
    for cut in cuts:
        assert (cut.look, cut.merged, cut.renumber, cut.how) == (cut.layer, 0, True, "drop")
    (cut,) = PyramidDrop(pyramiddrop_layers="2").cuts(128, 576, 32)
    assert (cut.layer, cut.keep) == (2, 128)


def test_the_last_cut_leaves_the_budget_at_any_depth():
    for layers in ("8-16-24", "31", "1-2-3-30-31"):
        for depth in range(2, 41):
            for budget in (1, 7, 36):
                cuts = PyramidDrop(pyramiddrop_layers=layers).cuts(budget, 36, depth)
                places = [cut.layer for cut in cuts]
                assert places == sorted(set(places))
                assert 1 <= places[0] <= places[-1] < depth
                assert cuts[-1].keep == budget


def test_it_picks_by_the_last_tokens_mean_attention():
    row = np.random.default_rng(0).uniform(size=(4, 30)).astype(np.float32)
    cut = PyramidDrop().cuts(5, 30, 32)[0]
    answer = PyramidDrop()(pruning.DecoderTokens(row=jnp.asarray(row)), cut, KEY)
    expected = np.argsort(-row.astype(np.float64).mean(axis=0), kind="stable")[: cut.keep]
    np.testing.assert_array_equal(answer.index, expected)
    assert answer.merged is None


def test_a_batch_equals_a_loop():
    rows = jnp.asarray(np.random.default_rng(1).uniform(size=(3, 2, 4, 30)), jnp.float32)
    pruner, cut = PyramidDrop(), PyramidDrop().cuts(5, 30, 32)[1]
    keys = jax.random.split(KEY, (3, 2))
    batch = pruning.select_inside(pruner, pruning.DecoderTokens(row=rows), cut, keys)
    for g, q in np.ndindex(3, 2):
        one = pruner(pruning.DecoderTokens(row=rows[g, q]), cut, KEY)
        np.testing.assert_array_equal(batch.index[g, q], one.index)


@pytest.mark.parametrize("layers", ["", "8-", "8-8", "16-8", "0-8", "8-32", "8.5", "-3", "8,16"])
def test_impossible_layers_are_refused(layers):
    with pytest.raises(ValueError, match=f"pyramiddrop: pyramiddrop_layers .*got {layers!r}"):
        PyramidDrop(pyramiddrop_layers=layers).check()
    PyramidDrop(pyramiddrop_layers="1-8-31").check()
