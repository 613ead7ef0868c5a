"""OTPrune and CDPruner: determinantal point processes by hand, by determinants, and official.

Axes: N visual tokens · D width · C width of CLIP's shared space · K tokens kept.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from pruning import _dpp
from pruning.cdpruner import CDPruner, _kernel

N, D = 24, 16

maximise = jax.jit(_dpp.maximise, static_argnames="budget")
otprune = jax.jit(pruning.otprune, static_argnames="budget")
cdpruner = jax.jit(pruning.cdpruner, static_argnames="budget")
kernel_of = jax.jit(_kernel)


def greedy_by_determinants(kernel, budget):
    """Return the picks of the largest log det in float64, the definition."""
    picks = []
    for _ in range(budget):
        values = [
            -np.inf
            if j in picks
            else np.linalg.slogdet(kernel[np.ix_([*picks, j], [*picks, j])])[1]
            for j in range(len(kernel))
        ]
        picks.append(int(np.argmax(values)))
    return picks


def cosines(values):
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, 1)
    return similarity


def test_every_pick_multiplies_the_determinant_most():
    for seed in range(3):
        factor = np.random.default_rng(seed).normal(size=(N, N))
        kernel = factor @ factor.T
        picks = maximise(jnp.asarray(kernel, jnp.float32), budget=N - 4)
        assert picks.tolist() == greedy_by_determinants(kernel, N - 4)


def test_a_correlated_token_is_passed_over():
    # Variances 3, 2.9, 1; given 0, the second is left with 2.9 − 2.5²/3 = 0.82.
    kernel = jnp.asarray([[3, 2.5, 0], [2.5, 2.9, 0], [0, 0, 1]], jnp.float32)
    assert maximise(kernel, budget=3).tolist() == [0, 2, 1]


@pytest.mark.parametrize("rank", [0, 1, 5])
def test_once_the_rank_is_exhausted_the_raster_order_follows(rank):
    factor = np.random.default_rng(rank).normal(size=(N, rank)) * 10.0 ** np.arange(rank)
    picks = maximise(jnp.asarray(factor @ factor.T, jnp.float32), budget=N).tolist()
    assert picks[rank:] == sorted(set(range(N)) - set(picks[:rank]))


def test_orders_are_nested_also_beyond_the_rank():
    factor = np.random.default_rng(0).normal(size=(200, 90))
    kernel = jnp.asarray(factor @ factor.T, jnp.float32)
    order = maximise(kernel, budget=200).tolist()
    assert maximise(kernel, budget=65).tolist() == order[:65]
    assert maximise(kernel, budget=120).tolist() == order[:120]


def embeddings(seed=0):
    return np.random.default_rng(seed).normal(0.4, 1, size=(N, D))


def test_otprune_normalises_channels_and_squares_their_gram_matrix():
    values = embeddings()
    channels = values / np.linalg.norm(values, axis=0)
    gram = channels @ channels.T
    for gamma in (0.01, 1.0):
        kernel = np.eye(N) + gamma * gram @ gram.T
        got = otprune(jnp.asarray(values, jnp.float32), budget=N, gamma=gamma)
        assert got.tolist() == greedy_by_determinants(kernel, N)


def test_the_scale_of_a_channel_is_irrelevant_to_otprune():
    values = embeddings(1)
    scales = 10.0 ** np.linspace(-30, 30, D)
    orders = [
        otprune(jnp.asarray(x, jnp.float32), budget=N).tolist() for x in (values, values * scales)
    ]
    assert orders[0] == orders[1]
    assert otprune(jnp.asarray(values, jnp.float32), budget=N, gamma=0.0).tolist() == list(range(N))


@pytest.mark.parametrize("gamma", [-0.1, float("nan"), float("inf")])
def test_otprune_refuses_an_impossible_gamma(gamma):
    with pytest.raises(ValueError, match=f"otprune: gamma .* got {gamma}"):
        pruning.OTPrune(gamma=gamma).check()


def test_cdpruner_weighs_diversity_by_relevance():
    values, relevance = embeddings(2), np.random.default_rng(2).uniform(0.2, 1, N)
    kernel = relevance[:, None] * cosines(values) * relevance
    x = jnp.asarray(values, jnp.float32)
    got = cdpruner(x, jnp.asarray(relevance, jnp.float32), budget=D)
    assert got.tolist() == greedy_by_determinants(kernel, D)
    scaled = cdpruner(x, jnp.asarray(relevance * 1e30, jnp.float32), budget=D)
    assert scaled.tolist() == got.tolist()


HOSTILE = {
    "zero": (0 * embeddings(), np.ones(N)),
    "constant": (np.ones((N, D)), np.ones(N)),
    "copies": (embeddings()[np.arange(N) % 5], np.linspace(1, 2, N)),
    "no relevance": (embeddings(), np.zeros(N)),
    "impossible relevance": (embeddings(), np.where(np.arange(N) % 2, np.nan, -1)),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_cdpruner_keeps_as_many_as_asked(case):
    arguments = [jnp.asarray(x, jnp.float32) for x in HOSTILE[case]]
    for budget in (D, N):
        assert len(set(cdpruner(*arguments, budget=budget).tolist())) == budget


def test_tokens_that_are_no_numbers_come_last():
    values = embeddings(3)
    values[5, 3], values[7] = np.nan, np.inf
    picks = cdpruner(jnp.asarray(values, jnp.float32), jnp.ones(N), budget=N).tolist()
    finite = np.delete(values, [5, 7], axis=0)
    expected = np.delete(np.arange(N), [5, 7])[greedy_by_determinants(cosines(finite), D)]
    assert picks[:D] == expected.tolist()
    assert sorted(picks) == list(range(N))
    everywhere = otprune(jnp.asarray(values, jnp.float32), budget=N).tolist()
    assert everywhere == list(range(N))


def test_relevance_is_the_dissimilarity_to_all_pieces_of_the_text():
    image, text = [[1, 0], [0, 2], [-3, 0]], [[1, 0], [5, 0]]
    # Cosines 1, 0, −1: q = −1, 0, 1.
    relevance = pruning.cdpruner_relevance(jnp.asarray(image), jnp.asarray(text))
    np.testing.assert_allclose(relevance, [5e-7, 0.5, 1.0], atol=1e-6)
    two = pruning.cdpruner_relevance(jnp.asarray(image), jnp.asarray([[1, 0], [0, 1]]))
    # Means ½, ½, −½.
    np.testing.assert_allclose(two, [0, 0, 1], atol=2e-6)
    equal = pruning.cdpruner_relevance(jnp.ones((3, 2)), jnp.asarray(text))
    np.testing.assert_array_equal(equal, np.ones(3))


def test_each_question_gets_tokens_of_its_own():
    values = np.stack([embeddings(4), embeddings(5)]).astype(np.float32)
    relevance = np.random.default_rng(4).uniform(0.2, 1, (2, 3, N)).astype(np.float32)
    tokens = pruning.Tokens(embeddings=jnp.asarray(values), relevance=jnp.asarray(relevance))
    keys = jnp.stack([pruning.image_key(0, str(g)) for g in range(2)])
    picks = pruning.select(CDPruner(), tokens, D, keys)
    assert picks.shape == (2, 3, D)
    for g, q in np.ndindex(2, 3):
        expected = cdpruner(values[g], relevance[g, q], budget=D)
        np.testing.assert_array_equal(picks[g, q], expected)


def test_budgets_out_of_range_are_refused():
    for prune in (pruning.otprune, lambda x, k: pruning.cdpruner(x, jnp.ones(4), k)):
        with pytest.raises(ValueError, match=r"1 … 4 .*got 5"):
            prune(jnp.ones((4, 2)), 5)


@pytest.mark.golden
def test_otprune_orders_are_accepted(golden):
    for name, case, inputs, stored in golden.cases("otprune"):
        features, gamma = inputs["features"], case["gamma"]
        order = np.asarray(otprune(jnp.asarray(features), budget=len(stored("order")), gamma=gamma))
        kernel = golden.check.otprune_kernel(features, gamma)
        arrays = {"order": order} | {f"handed_order_K{k}": order[:k] for k in case["K"]}
        replay = functools.partial(golden.check.dpp_replay, kernel)
        golden.assert_accepted(
            f"otprune/{name}", case, arrays, stored, lambda *_, replay=replay: replay
        )


@pytest.mark.golden
def test_cdpruner_orders_are_accepted(golden):
    for name, case, inputs, stored in golden.cases("cdpruner"):
        features, image = inputs["projected_features"], inputs["clip_image_embeds"]
        text = jnp.asarray(inputs["clip_text_embeds"])
        shape = features.shape[:2]
        tiles = jnp.asarray(image.reshape(-1, image.shape[-1]))
        relevance = pruning.cdpruner_relevance(tiles, text).reshape(shape)
        exact = stored("relevance")
        budget = stored("order64").shape[1]
        order = [cdpruner(*x, budget=budget) for x in zip(features, relevance, strict=True)]
        arrays = {"order64": np.array(order)}
        for k in case["K"]:
            mask = np.zeros(shape, bool)
            np.put_along_axis(mask, arrays["order64"][:, :k], True, axis=1)
            arrays[f"mask_f32_K{k}"] = np.packbits(mask, axis=1)

        def replays(_, row, features=features, exact=exact):
            kernel = exact[row][:, None] * cosines(features[row].astype(float)) * exact[row]
            return functools.partial(golden.check.dpp_replay, kernel)

        golden.assert_accepted(f"cdpruner/{name}", case, arrays, stored, replays)
        rows = [kernel_of(*x)[0] for x in zip(features, relevance, strict=True)]
        largest = np.asarray(relevance).max(axis=1)  # the kernel's scale: relevance is per batch
        extra = {
            "relevance": np.asarray(relevance),
            "kernel_row0": np.stack(rows) * largest[:, None] ** 2,
        }
        for rule in case["accept"]:
            if rule["array"] in extra:
                got, want = extra[rule["array"]], stored(rule["array"])
                assert golden.check.accepts(rule, got, want), (name, rule)
