"""PruneSID against a plain loop, and against the official code.

Axes: N visual tokens · D width.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
import pruning.testing
from pruning.prunesid import PruneSID, _shares, principal_groups, randomized_groups

N, D = 40, 24

prunesid = jax.jit(pruning.prunesid, static_argnames="budget")
groups_of = jax.jit(principal_groups, static_argnums=1)


def image(seed):
    rng = np.random.default_rng(seed)
    centres = rng.normal(0.5, 1, (5, D))
    patches = centres[rng.integers(0, 5, N)] + 0.5 * rng.normal(size=(N, D))
    hidden = np.concatenate([rng.normal(size=(1, D)), patches])
    return jnp.asarray(hidden, jnp.float32), jnp.asarray(rng.uniform(size=N), jnp.float32)


def order(hidden, saliency, budget, **settings):
    return np.asarray(prunesid(hidden, saliency, budget=budget, **settings)).tolist()


def test_one_group_is_thinned_out_by_similarity():
    # K = 4 is one group; the mean cosine of three axes and a copy is 1/6, so τ = 1/48.
    hidden = jnp.asarray([[9, 9, 9], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], jnp.float32)
    assert order(hidden, jnp.asarray([3.0, 4.0, 2.0, 1.0]), 4) == [0, 2, 3, 4]
    assert order(hidden, jnp.asarray([3.0, 4.0, 2.0, 1.0]), 5) == [0, 2, 3, 4, 1]


def test_a_token_of_another_group_suppresses_nothing():
    hidden = jnp.asarray([[9, 9]] + 4 * [[1, 0]] + 4 * [[0, 1]], jnp.float32)
    saliency = jnp.asarray([8.0, 7, 6, 5, 4, 3, 2, 1])
    # In both groups one of each kind survives, the more salient; of the 5 beyond one a group,
    # 2½ → 2 and 3 are theirs.
    groups = jnp.asarray([0, 1, 0, 1, 0, 1, 0, 1])
    assert order(hidden, saliency, 8, assignment=groups) == [0, 1, 5, 3, 2, 6, 4, 8]


def test_a_group_without_tokens_gets_none():
    hidden, saliency = image(0)
    picks = order(hidden, saliency, 16, assignment=jnp.full(N, 2))
    assert len(set(picks)) == 16
    assert picks[1] == 1 + int(jnp.argmax(saliency))


def test_shares_add_up_and_fit():
    rng = np.random.default_rng(0)
    shares = jax.jit(_shares, static_argnums=2)
    for budget, _ in itertools.product((4, 17, 33), range(5)):
        sizes = rng.multinomial(40, rng.dirichlet(np.ones(budget // 4)))
        survivors = np.array([rng.integers(min(size, 1), size + 1) for size in sizes])
        take = np.asarray(shares(jnp.asarray(sizes), jnp.asarray(survivors), budget))
        assert take.sum() == budget - 1
        assert (take >= np.minimum(sizes, 1)).all()
        assert (take <= sizes).all()


def test_halves_go_to_the_even_number():
    # 3 more for two groups of equal size: the running sum is 1½ → 2, then 3.
    sizes = jnp.asarray([5, 5])
    assert _shares(sizes, sizes, 6).tolist() == [1 + 2, 1 + 1]
    # 1 more: ½ → 0, then 1.
    assert _shares(sizes, sizes, 4).tolist() == [1 + 0, 1 + 1]


def test_groups_are_the_largest_of_the_first_components():
    features = np.asarray(image(1)[0], np.float64)[1:]
    squashed = 1 / (1 + np.exp(-features.T))
    _, _, components = np.linalg.svd(squashed - squashed.mean(0), full_matrices=False)
    for count in (1, 6):
        expected = np.abs(components[:count]).argmax(axis=0)
        got = groups_of(jnp.asarray(features, jnp.float32), count)
        np.testing.assert_array_equal(got, expected)


def test_the_groups_are_a_quarter_of_the_budget():
    hidden, saliency = image(1)
    for budget in (3, 13):
        groups = groups_of(hidden[1:], max(budget // 4, 1))
        assert order(hidden, saliency, budget) == order(hidden, saliency, budget, assignment=groups)


HOSTILE = {
    "zero": lambda hidden: 0 * hidden,
    "constant": jnp.ones_like,
    "copies": lambda hidden: hidden[jnp.arange(1 + N) % 7],
    "huge": lambda hidden: 1e30 * hidden,
    "tiny": lambda hidden: 1e-30 * hidden,
    "float16": lambda hidden: hidden.astype(jnp.float16),
    "not a number": lambda hidden: hidden.at[5].set(jnp.nan),
}


@pytest.mark.parametrize("change", HOSTILE)
def test_hostile_tokens_give_valid_picks(change):
    hidden, saliency = image(2)
    for budget in (1, 13, N + 1):
        picks = order(HOSTILE[change](hidden), saliency, budget)
        assert picks[0] == 0
        assert len(set(picks)) == budget
        assert max(picks) <= N


@pytest.mark.parametrize("budget", [0, N + 2])
def test_a_budget_out_of_range_is_refused(budget):
    with pytest.raises(ValueError, match=rf"1 … {N + 1} .*got {budget}"):
        pruning.prunesid(*image(0), budget)


@jax.jit(static_argnames="budget")
def run(tokens, budget):
    return PruneSID()(tokens, budget, pruning.image_key(0, "image"))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_the_pruner_hands_over_rows_of_hidden(dtype):
    hidden, saliency = image(3)
    hidden = hidden.astype(dtype)
    for budget in (1, 13, N):
        features, index = run(pruning.Tokens(hidden=hidden, saliency=saliency), budget=budget)
        assert (1 + index).tolist() == order(hidden, saliency, budget)
        assert index.dtype == jnp.int32
        assert features.dtype == dtype
        np.testing.assert_array_equal(features, hidden[1 + index])


def test_one_visual_token_leaves_cls():
    tokens = pruning.Tokens(hidden=image(4)[0][:2], saliency=jnp.ones(1))
    features, index = run(tokens, budget=1)
    assert index.tolist() == [-1]
    np.testing.assert_array_equal(features, tokens.hidden[:1])


@pytest.mark.parametrize("change", ["zero", "huge"])
def test_no_step_gives_what_is_no_number(change):
    hidden, saliency = image(5)
    tokens = pruning.Tokens(hidden=HOSTILE[change](hidden)[:9], saliency=saliency[:8])
    with jax.disable_jit(), jax.debug_nans(True):
        eager = PruneSID()(tokens, 8, pruning.image_key(0, "image"))
    np.testing.assert_array_equal(eager.index, run(tokens, budget=8).index)


@pytest.mark.golden
def test_kept_tokens_are_accepted(golden):
    for name, case, inputs, stored in golden.cases("prunesid"):
        hidden = jnp.asarray(inputs["hidden"])
        saliency = jnp.asarray(golden.check.saliency(inputs["cls_attention"]), jnp.float32)
        groups = {"kept_exact_svd": groups_of(hidden[1:], case["groups"])}
        groups |= {
            rule["array"]: jnp.asarray(stored(rule["given"]), jnp.int32)
            for rule in case["accept"]
            if "given" in rule
        }
        arrays = {
            array: np.array(order(hidden, saliency, case["K"], assignment=group))
            for array, group in groups.items()
        }
        golden.assert_accepted(f"prunesid/{name}", case, arrays, stored, lambda *_: None)
        for rule in case["accept"]:
            if rule["array"] == "belong_exact_svd":
                got = np.asarray(groups["kept_exact_svd"])
                assert golden.check.accepts(rule, got, stored(rule["array"])), name


def with_few_components(rank, num_tokens=60, width=40):
    """Return features whose σ has `rank` strong components, far apart, and weak noise."""
    rng = np.random.default_rng(5)
    left, _ = np.linalg.qr(rng.normal(size=(num_tokens, rank)))
    right, _ = np.linalg.qr(rng.normal(size=(width, rank)))
    squashed = 0.5 + (left * 0.8 ** np.arange(rank)) @ right.T + 1e-4 * rng.normal(size=(60, width))
    return jnp.asarray(np.log(squashed / (1 - squashed)), jnp.float32)


def test_randomized_components_are_the_strong_ones():
    features = with_few_components(6)
    want = groups_of(features, 6)
    for seed in range(3):
        np.testing.assert_array_equal(randomized_groups(jax.random.key(seed), features, 6), want)


def test_randomized_components_depend_on_the_key_and_may_be_refined():
    noise = jnp.asarray(np.random.default_rng(6).normal(size=(60, 40)), jnp.float32)
    one, other = (randomized_groups(jax.random.key(seed), noise, 10) for seed in (0, 1))
    assert (one != other).any()
    key, exact = jax.random.key(0), groups_of(noise, 10)
    agreement = [
        np.mean(randomized_groups(key, noise, 10, iterations=count) == exact)
        for count in (0, 2, 200)
    ]
    assert agreement[0] < agreement[1] < agreement[2] == 1


def test_the_randomized_pruner_keeps_its_promises():
    pruner = PruneSID(prunesid_pca="randomized")
    assert pruner.stochastic
    assert not PruneSID().stochastic
    pruning.testing.check(pruner)
    with pytest.raises(ValueError, match=r"prunesid_pca.*fast"):
        PruneSID(prunesid_pca="fast").check()
