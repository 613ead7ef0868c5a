"""What every registered pruner promises, whatever its method.

Each test takes one pruner and made-up tokens: a new method is covered by being registered.
Axes: G images in a batch · N visual tokens · K tokens kept.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning

N = 20
PRUNERS = [pruning.get(name)() for name in pruning.names()]
TOKENS_FIELDS = [field.name for field in dataclasses.fields(pruning.Tokens)]
KEY = pruning.image_key(0, "image")


def each(promise=lambda pruner: True):
    """Run a test for every pruner, or for those to which it applies."""
    chosen = [pruner for pruner in PRUNERS if promise(pruner)]
    return pytest.mark.parametrize("pruner", chosen, ids=[pruner.name for pruner in chosen])


@functools.partial(jax.jit, static_argnames="budget")
def run(pruner, tokens, budget, key):
    return pruner(tokens, budget, key)


def make_tokens(seed, num_tokens=N):
    """Return one image with every field set and no ties."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(0.3, 1.0, shape), jnp.float32)

    def positive(*shape):
        return jnp.asarray(rng.uniform(0.01, 1.0, shape), jnp.float32)

    return pruning.Tokens(
        features=normal(num_tokens, 12),
        embeddings=normal(num_tokens, 16),
        hidden=normal(1 + num_tokens, 12),
        keys=normal(1 + num_tokens, 8),
        saliency=positive(num_tokens),
        saliency_by_layer=positive(3, num_tokens),
        relevance=positive(num_tokens),
    )


def stack(images):
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *images)


def budgets(pruner, num_tokens):
    """Return the budgets to try: none keeps everything, by definition."""
    every = (1, num_tokens // 3, num_tokens)
    return (num_tokens,) if pruner.name == "none" else sorted({max(budget, 1) for budget in every})


def assert_valid(order, budget, num_tokens):
    """Check shape, dtype, range and that no token is picked twice."""
    chex.assert_shape(order, (budget,))
    assert order.dtype == jnp.int32
    picks = np.asarray(order)
    assert picks.min() >= 0
    assert picks.max() < num_tokens
    assert len(set(picks.tolist())) == budget


@each()
@pytest.mark.parametrize("num_tokens", [1, N])
def test_picks_are_distinct_tokens(pruner, num_tokens):
    tokens = make_tokens(0, num_tokens)
    for budget in budgets(pruner, num_tokens):
        assert_valid(run(pruner, tokens, budget, KEY), budget, num_tokens)


@each()
def test_same_input_same_picks(pruner):
    for budget in budgets(pruner, N):
        first, second = (run(pruner, make_tokens(1), budget, KEY) for _ in range(2))
        np.testing.assert_array_equal(first, second)


@each()
def test_select_equals_a_loop_over_images(pruner):
    images = [make_tokens(seed) for seed in range(3)]
    keys = jnp.stack([pruning.image_key(0, str(index)) for index in range(3)])
    batch = pruning.select(pruner, stack(images), N, keys)
    loop = [run(pruner, image, N, key) for image, key in zip(images, keys, strict=True)]
    np.testing.assert_array_equal(batch, np.stack(loop))


@each()
def test_jit_equals_eager(pruner):
    tokens = make_tokens(2)
    with jax.disable_jit():
        eager = pruner(tokens, N, KEY)
    np.testing.assert_array_equal(run(pruner, tokens, N, KEY), eager)


@each(lambda pruner: pruner.nested)
def test_a_nested_order_answers_smaller_budgets(pruner):
    tokens = make_tokens(3)
    order = np.asarray(run(pruner, tokens, N, KEY))
    for budget in budgets(pruner, N):
        np.testing.assert_array_equal(run(pruner, tokens, budget, KEY), order[:budget])


@each()
def test_only_a_stochastic_pruner_reads_the_key(pruner):
    tokens = make_tokens(4)
    orders = [run(pruner, tokens, N, pruning.image_key(seed, "image")) for seed in (0, 1)]
    assert np.array_equal(*orders) != pruner.stochastic


@each()
def test_needs_is_all_a_pruner_reads(pruner):
    tokens = make_tokens(5)
    # A pruner without needs still asks how many tokens there are.
    needs = pruner.needs or ("saliency",)
    fewer = pruning.Tokens(**{field: getattr(tokens, field) for field in needs})
    np.testing.assert_array_equal(run(pruner, fewer, N, KEY), run(pruner, tokens, N, KEY))


@each(lambda pruner: not pruner.stochastic)
@pytest.mark.parametrize("seed", [6, 7])
def test_relabelled_tokens_give_relabelled_picks(pruner, seed):
    tokens = jax.tree.map(np.asarray, make_tokens(seed))
    relabel = np.random.default_rng(seed).permutation(N)
    with_cls = np.concatenate([[0], 1 + relabel])
    moved = pruning.Tokens(
        features=tokens.features[relabel],
        embeddings=tokens.embeddings[relabel],
        hidden=tokens.hidden[with_cls],
        keys=tokens.keys[with_cls],
        saliency=tokens.saliency[relabel],
        saliency_by_layer=tokens.saliency_by_layer[:, relabel],
        relevance=tokens.relevance[relabel],
    )
    tokens, moved = jax.tree.map(jnp.asarray, (tokens, moved))
    # Two tokens that are each other's only uncovered neighbour add equally much to the coverage
    # and nothing tells them apart; in the first third of an order there is no such pair here.
    for budget in budgets(pruner, N)[: 2 if pruner.name == "floc" else None]:
        picks = np.asarray(run(pruner, tokens, budget, KEY))
        moved_picks = relabel[np.asarray(run(pruner, moved, budget, KEY))]
        if not pruner.nested:  # its order says nothing
            picks, moved_picks = np.sort(picks), np.sort(moved_picks)
        np.testing.assert_array_equal(moved_picks, picks)


def with_zero_row(leaf):
    return np.concatenate([leaf[:2], 0 * leaf[2:3], leaf[3:]])


def with_duplicates(leaf):
    half = len(leaf) // 2
    return np.concatenate([leaf[:half], leaf[:half], leaf[2 * half :]])


HOSTILE = {
    "zero": np.zeros_like,
    "constant": np.ones_like,
    "one zero row": with_zero_row,
    "duplicates": with_duplicates,
    "huge": lambda leaf: leaf * 1e30,
    "tiny": lambda leaf: leaf * 1e-30,
    "float16": lambda leaf: leaf.astype(jnp.float16),
    "bfloat16": lambda leaf: leaf.astype(jnp.bfloat16),
}


@each(lambda pruner: pruner.needs)
@pytest.mark.parametrize("change", HOSTILE)
def test_hostile_tokens_give_valid_picks(pruner, change):
    tokens = jax.tree.map(lambda leaf: HOSTILE[change](np.asarray(leaf)), make_tokens(8))
    tokens = jax.tree.map(jnp.asarray, tokens)
    # The start of a nested order answers the smaller budgets.
    for budget in budgets(pruner, N)[-1 if pruner.nested else 0 :]:
        assert_valid(run(pruner, tokens, budget, KEY), budget, N)
    with jax.disable_jit(), jax.debug_nans(True):  # looks at every step
        pruner(tokens, N, KEY)


@each(lambda pruner: "saliency" in pruner.needs)
def test_without_any_saliency_picks_are_valid(pruner):
    tokens = make_tokens(9)
    tokens = dataclasses.replace(tokens, saliency=jnp.zeros_like(tokens.saliency))
    for budget in budgets(pruner, N):
        assert_valid(run(pruner, tokens, budget, KEY), budget, N)


@each()
def test_a_sweep_over_float_hyperparameters_traces_once(pruner):
    tokens, traces = make_tokens(10), []

    @jax.jit
    def sweep(pruner, tokens):
        traces.append(pruner)
        return pruner(tokens, N, KEY)

    for scale in (0.25, 0.5, 2.0):
        swept = jax.tree.map(lambda value, scale=scale: scale * value, pruner)
        np.testing.assert_array_equal(sweep(swept, tokens), run(swept, tokens, N, KEY))
    assert len(traces) == 1


@each()
def test_the_class_describes_itself(pruner):
    assert pruning.get(pruner.name) is type(pruner)
    assert isinstance(pruner.stage, pruning.Stage)
    assert set(pruner.needs) <= set(TOKENS_FIELDS)
    assert pruning.hyperparameters(pruner) == pruning.hyperparameters(type(pruner))
    assert hash(pruner) == hash(type(pruner)())
    pruner.check()


@each(lambda pruner: pruner.needs)
def test_select_names_what_is_missing(pruner):
    batch = stack([make_tokens(11)])
    for field in pruner.needs:
        lacking = dataclasses.replace(batch, **{field: None})
        with pytest.raises(ValueError, match=f"'{pruner.name}' needs tokens.{field}"):
            pruning.select(pruner, lacking, N, KEY[None])


@each()
@pytest.mark.parametrize("budget", [-1, 0, N + 1])
def test_select_refuses_a_budget_out_of_range(pruner, budget):
    batch = stack([make_tokens(12)])
    with pytest.raises(ValueError, match=rf"1 … {N} .*got {budget}"):
        pruning.select(pruner, batch, budget, KEY[None])
