"""FastV: its picks, where it cuts, and what each variant lets a token see."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from pruning.fastv import _HOW, FastV, fastv, fastv_score

S, N, T, REAL = 3, 9, 5, 4  # before the picture, in it, after it with and without padding
M = S + N + T
KEY = pruning.image_key(0, "image")
BEFORE, VISUAL, TEXT = range(S), range(S, S + N), range(S + N, S + N + REAL)
MASKS = [name for name, how in _HOW.items() if how == "mask"]


def attention(seed, num_tokens=N, num_text=T, real=REAL):
    """Return the rows of one question as a model would: padding is not looked at."""
    rng = np.random.default_rng(seed)
    row = rng.uniform(0.01, 1, (4, num_tokens)).astype(np.float32)
    row_text = rng.uniform(0.01, 1, (4, num_text)).astype(np.float32)
    row_text[:, real:] = 0
    return row, row_text


def make_tokens(seed, real=REAL):
    row, row_text = attention(seed, real=real)
    return pruning.DecoderTokens(
        row=jnp.asarray(row),
        row_text=jnp.asarray(row_text),
        num_text=jnp.int32(real),
        num_before=S,
    )


@functools.partial(jax.jit, static_argnames="cut")
def call(pruner, tokens, cut):
    return pruner(tokens, cut, KEY)


def run(variant, tokens, budget, shift=2):
    pruner = FastV(fastv_variant=variant, fastv_shift=shift)
    (cut,) = pruner.cuts(budget, tokens.row.shape[1], 32)
    return jax.tree.map(np.asarray, call(pruner, tokens, cut))


def kept_places(tokens, budget):
    """Return the places of all tokens that FastV keeps, by a plain loop."""
    score = [float(np.mean(np.float64(tokens.row[:, i]))) for i in range(N)]
    picks = sorted(range(N), key=lambda i: (-score[i], i))[:budget]
    return [*BEFORE, *sorted(S + i for i in picks), *TEXT]


def sees(answer):
    """Return place → the places that it sees."""
    return {i: {j for j in range(M) if answer.visible[i, j]} for i in range(M)}


def test_picks_are_those_of_the_mean_over_heads():
    row, _ = attention(0, num_tokens=50)
    order = np.argsort(-row.astype(np.float64).mean(axis=0), kind="stable")
    for budget in (1, 17, 50):
        np.testing.assert_array_equal(fastv(jnp.asarray(row), budget), order[:budget])


def test_a_head_counts_as_much_as_another_and_the_lowest_index_wins_a_tie():
    row = jnp.asarray([[0.0, 0.5, 0.25, 0.25], [0.5, 0.0, 0.25, 0.125]])
    assert fastv(row, 4).tolist() == [0, 1, 2, 3]
    nan = row.at[0, 0].set(jnp.nan)
    assert fastv(nan, 4).tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("budget", [0, N + 1])
def test_a_budget_out_of_range_is_refused(budget):
    with pytest.raises(ValueError, match=f"1 … {N} .*got {budget}"):
        fastv(jnp.ones((2, N)), budget)


def test_it_cuts_once_and_looks_at_the_layer_before():
    assert FastV().cuts(128, 576, 32) == (pruning.Cut(2, look=1, keep=128),)
    assert FastV(fastv_layer=3).cuts(288, 576, 32) == (pruning.Cut(3, look=2, keep=288),)
    assert FastV().cuts(9, 36, 4) == (pruning.Cut(1, look=0, keep=9),)
    for depth in range(2, 41):
        for layer in (1, 2, 31):
            (cut,) = FastV(fastv_layer=layer).cuts(N, N, depth)
            assert 1 <= cut.layer < depth
            assert (cut.look, cut.keep, cut.merged) == (cut.layer - 1, N, 0)


@pytest.mark.parametrize("variant", _HOW)
def test_how_each_variant_cuts(variant):
    pruner = FastV(fastv_variant=variant)
    pruner.check()
    (cut,) = pruner.cuts(4, N, 32)
    how = {"drop": "drop", "renumber": "drop", "input": "restart", "input_origpos": "restart"}
    assert cut.how == how.get(variant, "mask")
    assert cut.renumber == (variant in ("renumber", "input"))
    masked = ("row", "row_text", "num_text")
    assert pruner.needs == (masked if cut.how == "mask" else ("row",))


@pytest.mark.parametrize("variant", _HOW)
@pytest.mark.parametrize("budget", [1, 4, N])
def test_every_variant_keeps_the_same_visual_tokens(variant, budget):
    tokens = make_tokens(1)
    answer = run(variant, tokens, budget)
    np.testing.assert_array_equal(answer.index, fastv(tokens.row, budget))
    assert isinstance(answer, pruning.Masked) == (variant in MASKS)


@pytest.mark.parametrize("budget", [1, 4, N])
def test_a_mask_hides_what_a_drop_takes_out(budget):
    tokens = make_tokens(2)
    answer, kept = run("mask", tokens, budget), kept_places(tokens, budget)
    seen = sees(answer)
    for i in kept:
        assert seen[i] == {j for j in kept if j <= i}
    assert answer.alive.all()
    assert answer.read == TEXT[-1]


def test_broken_zero_leaves_dropped_tokens_to_look_at():
    tokens = make_tokens(3)
    answer, kept = run("broken_zero", tokens, 4), kept_places(tokens, 4)
    dropped = sorted(set(VISUAL) - set(kept))
    assert np.flatnonzero(~answer.alive).tolist() == dropped
    for i in (*BEFORE, *VISUAL, *TEXT):
        assert sees(answer)[i] == set(range(i + 1))  # dropped ones too
    assert answer.read == TEXT[-1]


def test_broken_noncausal_lets_an_early_token_see_a_later_one():
    tokens = make_tokens(4)
    answer, kept = run("broken_noncausal", tokens, 4), kept_places(tokens, 4)
    for i in kept:
        assert sees(answer)[i] == set(kept)
    assert answer.visible[0, TEXT[-1]]
    assert answer.alive.all()
    assert answer.read == TEXT[-1]


def test_broken_lastrow_reads_an_image_token_behind_the_text():
    tokens = make_tokens(5)
    answer, kept = run("broken_lastrow", tokens, 4), kept_places(tokens, 4)
    picture = [place for place in kept if place in VISUAL]
    order = [*BEFORE, *TEXT, *picture]
    for rank, i in enumerate(order):
        assert sees(answer)[i] == set(order[: rank + 1])
    assert answer.read == picture[-1]  # and no token of the text sees the picture
    assert answer.alive.all()


@pytest.mark.parametrize(("budget", "shift"), [(1, 2), (4, 2), (4, 0), (4, 30), (N, 2)])
def test_broken_span_hides_tokens_of_the_question(budget, shift):
    tokens = make_tokens(6)
    # The question's first token is looked at least of all, its second most of all.
    row_text = tokens.row_text.at[:, 0].set(0.001).at[:, 1].set(2.0)
    tokens = dataclasses.replace(tokens, row_text=row_text)
    answer = run("broken_span", tokens, budget, shift)
    score = np.concatenate([tokens.row, tokens.row_text], axis=1).astype(np.float64).mean(axis=0)
    by = min(shift, N - 1, T)
    window = [place for place in range(S + by, S + by + N) if place < S + N + REAL]
    picks = sorted(window, key=lambda place: -score[place - S])[:budget]
    kept = [i for i in (*BEFORE, *VISUAL, *TEXT) if i not in window or i in picks]
    for i in kept:
        assert sees(answer)[i] == {j for j in kept if j <= i}
    assert answer.read == kept[-1]
    assert answer.alive.all()
    assert set(kept) >= set(range(S, S + by))  # the picture's start stays unlooked at
    if budget < N and shift == 2:
        assert TEXT[0] not in kept
        assert TEXT[1] in kept


def test_broken_span_may_lose_the_prompts_last_token():
    tokens = make_tokens(7, real=2)
    tokens = dataclasses.replace(tokens, row_text=tokens.row_text.at[:, :2].set(0.0))
    answer = run("broken_span", tokens, 2, shift=4)
    assert answer.read < S + N


def test_broken_span_takes_at_least_one_visual_token_for_one():
    row, row_text = attention(8, num_tokens=3, num_text=6, real=6)
    row[:, 2], row_text[:] = 0.9, 0.1
    tokens = pruning.DecoderTokens(
        row=jnp.asarray(row), row_text=jnp.asarray(row_text), num_text=jnp.int32(6)
    )
    answer = run("broken_span", tokens, 1, shift=30)
    assert answer.visible[-1].tolist() == [True] * 3 + [False] * 2 + [True] * 4


@pytest.mark.parametrize("variant", MASKS)
@pytest.mark.parametrize("budget", [1, 4, N])
def test_nobody_sees_padding_and_everybody_sees_something(variant, budget):
    padding = range(S + N + REAL, M)
    answer = run(variant, make_tokens(8), budget)
    for i in (*BEFORE, *VISUAL, *TEXT):
        assert not sees(answer)[i] & set(padding)
    assert answer.visible.diagonal().all()
    assert answer.alive[[*padding]].all()


@pytest.mark.parametrize("variant", MASKS)
def test_what_padding_holds_is_irrelevant(variant):
    tokens = make_tokens(9)
    noisy = dataclasses.replace(tokens, row_text=tokens.row_text.at[:, REAL:].set(9.0))
    answers = [run(variant, either, 4, shift=T) for either in (tokens, noisy)]
    jax.tree.map(np.testing.assert_array_equal, *answers)


@pytest.mark.parametrize("variant", _HOW)
def test_a_batch_equals_a_loop(variant):
    pruner = FastV(fastv_variant=variant, fastv_shift=2)
    (cut,) = pruner.cuts(4, N, 32)
    questions = [[make_tokens(10 * g + q, real=3 + q) for q in range(2)] for g in range(3)]
    stacked = jax.tree.map(
        lambda *leaves: jnp.asarray(np.stack(leaves)).reshape(3, 2, *np.shape(leaves[0])),
        *(one for image in questions for one in image),
    )
    keys = jax.random.split(KEY, (3, 2))
    batch = pruning.select_inside(pruner, stacked, cut, keys)
    for g in range(3):
        for q in range(2):
            one = run(variant, questions[g][q], 4)
            found = jax.tree.map(lambda leaf, g=g, q=q: leaf[g, q], batch)
            jax.tree.map(np.testing.assert_array_equal, found, one)


@pytest.mark.parametrize(
    ("field", "value"),
    [("fastv_layer", 0), ("fastv_layer", 32), ("fastv_variant", "zero"), ("fastv_shift", -1)],
)
def test_an_impossible_hyperparameter_is_refused(field, value):
    with pytest.raises(ValueError, match=f"fastv: {field} must be .*got {value!r}"):
        FastV(**{field: value}).check()


@pytest.mark.golden
def test_golden_picks_are_accepted(golden):
    compared = 0
    for name, case, inputs, stored in golden.cases("fastv"):
        start, size = case["n_sys"], case["n_img"]
        row = jnp.asarray(inputs["attention"][:, -1, start : start + size])
        kept = np.sort(fastv(row, case["K"]))
        behind = np.arange(start + size, inputs["attention"].shape[-1])
        arrays = {
            "score": np.asarray(fastv_score(row)),
            "kept_image_sorted": kept,
            "keep_positions": np.concatenate([np.arange(start), start + kept, behind]),
        }
        golden.assert_accepted(f"fastv/{name}", case, arrays, stored, lambda *_: None)
        score = golden.check.fastv_keep(inputs["attention"], start, size, case["K"])[0]
        np.testing.assert_allclose(arrays["score"], score, rtol=1e-5, atol=1e-8)
        compared += 1
    assert compared, "fastv: no case in the manifest"
