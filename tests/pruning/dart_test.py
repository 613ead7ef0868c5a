"""DART against a plain loop in float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from pruning.dart import Dart, dart, key_norms

dart = jax.jit(dart, static_argnames=("budget", "image_pivots", "text_pivots"))

N, T, REAL, D, DK = 30, 7, 6, 8, 12
KEY = pruning.image_key(0, "image")


def make_tokens(seed, num_visual=N, real=REAL):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(0.2, 1.0, shape), jnp.float32)

    return pruning.DecoderTokens(
        hidden=normal(num_visual, D),
        text_hidden=normal(T, D),
        keys=normal(num_visual, DK),
        text_keys=normal(T, DK),
        num_text=jnp.int32(real),
        final_norm=normal(D),
    )


@functools.partial(jax.jit, static_argnames="cut")
def call(pruner, tokens, cut):
    return pruner(tokens, cut, KEY)


def run(tokens, budget, **settings):
    pruner = Dart(**settings)
    (cut,) = pruner.cuts(budget, tokens.hidden.shape[0], 32)
    answer = call(pruner, tokens, cut)
    assert answer.merged is None
    return answer.index.tolist()


def cosine(a, b):
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / norms if norms else 0.0


def written_out(tokens, budget, image_pivots=4, text_pivots=4):
    """Return the kept tokens, one pivot and one token after the other."""
    weight = np.asarray(tokens.final_norm, np.float64)
    real = int(tokens.num_text)
    states = np.asarray(tokens.hidden, np.float64) * weight
    text = np.asarray(tokens.text_hidden, np.float64)[:real] * weight
    largest = [
        sorted(range(len(keys)), key=lambda i, keys=keys: -np.abs(keys[i]).sum())
        for keys in (np.float64(tokens.keys), np.float64(tokens.text_keys)[:real])
    ]
    kept = largest[0][: min(image_pivots, budget)]
    anchors = [states[i] for i in kept] + [text[i] for i in largest[1][:text_pivots]]
    missing = budget - len(kept)
    for number, anchor in enumerate(anchors):
        for _ in range(missing // len(anchors) + (number < missing % len(anchors))):
            left = [i for i in range(len(states)) if i not in kept]
            kept.append(min(left, key=lambda i: (cosine(states[i], anchor), i)))
    return kept


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("budget", [1, 3, 4, 5, 12, 17, N])
def test_picks_are_those_of_the_loop(budget, seed):
    tokens = make_tokens(seed)
    assert run(tokens, budget) == written_out(tokens, budget)


@pytest.mark.parametrize("pivots", [(1, 0), (0, 1), (2, 5), (0, 99), (99, 4), (6, 99)])
def test_other_numbers_of_pivots(pivots):
    tokens = make_tokens(2)
    picks = run(tokens, 14, dart_image_pivots=pivots[0], dart_text_pivots=pivots[1])
    assert picks == written_out(tokens, 14, *pivots)


@pytest.mark.parametrize("real", [1, 2, 3])
def test_a_short_text_has_fewer_pivots_and_the_others_take_more(real):
    tokens = make_tokens(3, real=real)
    for budget in (5, 13, N):
        picks = run(tokens, budget)
        assert len(set(picks)) == budget
        assert picks == written_out(tokens, budget)


@pytest.mark.parametrize("real", [1, 3, REAL])
def test_what_padding_holds_is_irrelevant(real):
    tokens = make_tokens(4, real=real)
    noisy = dataclasses.replace(
        tokens,
        text_keys=tokens.text_keys.at[real:].set(99.0),
        text_hidden=tokens.text_hidden.at[real:].set(-7.0),
    )
    for budget in (4, 13, N):
        assert run(noisy, budget) == run(tokens, budget)


def test_the_least_alike_are_kept_and_not_the_duplicates():
    # Tokens 0 … 3 have the largest keys; 4 … 7 are copies of them, 8 … 11 their opposites.
    directions = np.eye(4, D)
    states = jnp.asarray(np.concatenate([directions, directions, -directions]), jnp.float32)
    norms = jnp.asarray([9.0, 8, 7, 6] + [1.0] * 8)
    picks = dart(states, norms, states[:1], norms[:1], 1, budget=8, text_pivots=0)
    assert picks.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]


def test_a_norm_sums_over_all_heads_and_signs():
    keys = jnp.asarray([[1.0, -1.0, 1.0, -1.0], [3.0, 0.0, 0.0, 0.0]], jnp.bfloat16)
    assert key_norms(keys).tolist() == [4.0, 3.0]  # the L2 norm orders them otherwise


def test_the_last_norms_weight_counts():
    tokens = make_tokens(5)
    other = dataclasses.replace(tokens, final_norm=jnp.ones(D))
    assert set(run(tokens, 10)) != set(run(other, 10))
    scaled = dataclasses.replace(tokens, hidden=tokens.hidden * jnp.arange(1.0, N + 1)[:, None])
    assert run(scaled, 10) == run(tokens, 10)  # the length of a state does not


@pytest.mark.parametrize("change", ["duplicates", "zero", "constant", "nan", "huge", "tiny"])
@pytest.mark.parametrize("budget", [1, 9, N])
def test_hostile_states_give_distinct_picks(change, budget):
    tokens = make_tokens(6)
    changes = {
        "duplicates": lambda x: x.at[N // 2 :].set(x[: N // 2]),
        "zero": lambda x: x.at[2:].set(0.0),
        "constant": jnp.ones_like,
        "nan": lambda x: x.at[3:9].set(jnp.nan),
        "huge": lambda x: x * 1e30,
        "tiny": lambda x: x * 1e-30,
    }
    change_it = changes[change]
    tokens = dataclasses.replace(
        tokens, hidden=change_it(tokens.hidden), keys=change_it(tokens.keys)
    )
    picks = run(tokens, budget)
    assert sorted(set(picks)) == sorted(picks)
    assert len(picks) == budget
    if change in ("zero", "constant"):
        assert picks == written_out(tokens, budget)


def test_what_cannot_be_compared_is_taken_last():
    tokens = make_tokens(7)
    tokens = dataclasses.replace(tokens, hidden=tokens.hidden.at[3:9].set(jnp.nan))
    keys = tokens.keys.at[3:9].set(0.0)  # so that none is a pivot
    picks = run(dataclasses.replace(tokens, keys=keys), N - 6)
    assert not set(picks) & set(range(3, 9))


def test_half_precision_is_computed_in_float32():
    (cut,) = Dart().cuts(14, N, 32)
    for seed in range(4):
        narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), make_tokens(seed))
        narrow = dataclasses.replace(narrow, num_text=jnp.int32(REAL))
        picks = Dart()(narrow, cut, KEY).index.tolist()  # step by step: each could be rounded
        assert picks == written_out(jax.tree.map(lambda x: x.astype(jnp.float32), narrow), 14)


def test_it_cuts_once_and_keeps_positions():
    assert Dart().cuts(128, 576, 32) == (pruning.Cut(2, look=1, keep=128),)
    for depth in range(2, 41):
        for layer in (1, 2, 31):
            (cut,) = Dart(dart_layer=layer).cuts(N, N, depth)
            assert 1 <= cut.layer < depth
            assert (cut.look, cut.keep, cut.renumber) == (cut.layer - 1, N, False)


def test_a_batch_equals_a_loop():
    questions = [make_tokens(seed, real=1 + seed) for seed in range(6)]
    batch = jax.tree.map(
        lambda *leaves: jnp.asarray(np.stack(leaves)).reshape(3, 2, *np.shape(leaves[0])),
        *questions,
    )
    (cut,) = Dart().cuts(13, N, 32)
    answer = pruning.select_inside(Dart(), batch, cut, jax.random.split(KEY, (3, 2)))
    for i, question in enumerate(questions):
        assert answer.index[i // 2, i % 2].tolist() == run(question, 13)


@pytest.mark.parametrize("budget", [0, N + 1])
def test_a_budget_out_of_range_is_refused(budget):
    states = jnp.ones((N, D))
    with pytest.raises(ValueError, match=f"1 … {N} .*got {budget}"):
        dart(states, states[:, 0], states, states[:, 0], N, budget=budget)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dart_layer": 0}, "dart_layer must be in 1 … 31, got 0"),
        ({"dart_layer": 32}, "dart_layer must be in 1 … 31, got 32"),
        ({"dart_image_pivots": -1}, "dart_image_pivots must be ≥ 0, got -1"),
        ({"dart_text_pivots": -1}, "dart_text_pivots must be ≥ 0, got -1"),
        ({"dart_image_pivots": 0, "dart_text_pivots": 0}, "must be ≥ 1, got 0"),
    ],
)
def test_impossible_hyperparameters_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"dart: .*{message}"):
        Dart(**settings).check()
    Dart().check()
