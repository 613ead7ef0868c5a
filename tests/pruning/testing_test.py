"""The conformance kit passes what is right and names what is wrong."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from pruning import base, testing


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    """Forget what a test registers."""
    monkeypatch.setattr(base, "_PRUNERS", dict(base._PRUNERS))


def make(call, **variables):
    """Return a registered pruner before the decoder, by saliency unless it is said otherwise."""
    usual = {
        "stage": pruning.Stage.VISION,
        "needs": ("saliency",),
        "nested": True,
        "stochastic": False,
        "__call__": call,
    }
    return pruning.register("toy")(type("Toy", (), usual | variables))()


def by_saliency(self, tokens, budget, key):
    return pruning.saliency_top_k(tokens.saliency, budget)


def by_relevance(self, tokens, budget, key):
    return pruning.saliency_top_k(tokens.relevance, budget)


def by_chance(self, tokens, budget, key):
    return pruning.random_subset(key, tokens.num_tokens, budget)


def by_strength(self, tokens, budget, key):
    return pruning.saliency_top_k(tokens.saliency**self.strength, budget)


def with_mean(self, tokens, budget, key):
    index = by_saliency(self, tokens, budget, key)
    others = jnp.ones(tokens.num_tokens, bool).at[index[:-1]].set(False)[:, None]
    mean = jnp.mean(tokens.features, axis=0, where=others)
    return pruning.Merged(tokens.features[index].at[-1].set(mean), index)


STRENGTH = {"__annotations__": {"strength": float}, "strength": 1.0}
MERGED = {"needs": ("features", "saliency"), "nested": False}
GOOD = {
    "saliency": (by_saliency, {}),
    "chance": (by_chance, {"needs": (), "stochastic": True}),
    "question": (by_relevance, {"stage": pruning.Stage.QUESTION, "needs": ("relevance",)}),
    "strength": (by_strength, STRENGTH),
    "merged": (with_mean, MERGED),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_right_passes(name):
    call, variables = GOOD[name]
    assert testing.check(make(call, **variables)) is None


def one_twice(self, tokens, budget, key):
    return jnp.zeros(budget, jnp.int32)


def short_integers(self, tokens, budget, key):
    return by_saliency(self, tokens, budget, key).astype(jnp.int16)


def no_array(self, tokens, budget, key):
    return tuple(range(budget))


def all_tokens(self, tokens, budget, key):
    return by_saliency(self, tokens, tokens.num_tokens, key)


def one_too_far(self, tokens, budget, key):
    return 1 + by_saliency(self, tokens, budget, key)


def fails_between(self, tokens, budget, key):
    return by_saliency(self, tokens, budget, key) * (1 // (budget - 5) ** 2)


def raster_order(self, tokens, budget, key):
    return jnp.sort(by_saliency(self, tokens, budget, key))


def by_more(self, tokens, budget, key):
    more = 0 if tokens.relevance is None else tokens.relevance
    return pruning.saliency_top_k(tokens.saliency + more, budget)


def by_jit(self, tokens, budget, key):
    sign = 1 if isinstance(tokens.saliency, jax.core.Tracer) else -1
    return pruning.saliency_top_k(sign * tokens.saliency, budget)


def by_callback(self, tokens, budget, key):
    shape = jax.ShapeDtypeStruct(tokens.saliency.shape, jnp.float32)
    return pruning.saliency_top_k(jax.pure_callback(np.asarray, shape, tokens.saliency), budget)


def by_place(self, tokens, budget, key):
    return jnp.arange(budget, dtype=jnp.int32) + 0 * jnp.isnan(tokens.saliency[0])


def last_first(self, tokens, budget, key):
    backwards = pruning.saliency_top_k(tokens.saliency[::-1], budget)
    return tokens.num_tokens - 1 - backwards


def by_target(self, tokens, budget, key):
    return pruning.saliency_top_k(-jnp.abs(tokens.saliency - 0.5), budget)


def by_share(self, tokens, budget, key):
    share = tokens.saliency / tokens.saliency.sum()
    return pruning.saliency_top_k(jnp.nan_to_num(share), budget)


def by_weak_strength(self, tokens, budget, key):
    sign = -1 if isinstance(self.strength, float) and self.strength < 0.5 else 1
    return pruning.saliency_top_k(sign * tokens.saliency, budget)


def by_static_strength(self, tokens, budget, key):
    return pruning.saliency_top_k(tokens.saliency * (1 if self.strength > 0 else -1), budget)


def a_row_too_many(self, tokens, budget, key):
    order = by_saliency(self, tokens, budget, key)
    return pruning.Merged(tokens.features[jnp.append(order, 0)], order)


def exponential(self, tokens, budget, key):
    order = by_saliency(self, tokens, budget, key)
    return pruning.Merged(jnp.exp(tokens.features[order]), order)


def refuse(self):
    raise ValueError("never")


BROKEN = {
    "one twice": (one_twice, {}, "'picks are distinct tokens'.*a token more than once"),
    "type": (short_integers, {}, "int32 is due, got int16"),
    "no array": (no_array, {}, "an array is due, got tuple"),
    "budget": (all_tokens, {}, r"K = 1 of N = 25: shape \(1,\) is due, got \(25,\)"),
    "range": (one_too_far, {}, r"\[1\] outside 0 … 0"),
    "an error": (fails_between, {}, "raises ZeroDivisionError"),
    "order": (raster_order, {}, "'a nested order answers smaller budgets': K = 1 of N = 25"),
    "unread key": (by_saliency, {"stochastic": True}, "four keys give the same picks"),
    "read key": (by_chance, {}, "'only a stochastic pruner reads the key': .*another key"),
    "undeclared": (by_relevance, {}, "'needs is all a pruner reads': .*given saliency alone"),
    "undeclared at times": (by_more, {}, "'needs is all a pruner reads': .*is not"),
    "unknown need": (by_saliency, {"needs": property(lambda self: ("x",))}, r"needs names \['x'\]"),
    "jit": (by_jit, {}, "'jit equals eager'"),
    "vmap": (by_callback, {}, "'it can be vmapped'"),
    "place": (by_place, {}, "'relabelled tokens give relabelled picks': seed 0, K = 1"),
    "ties": (last_first, {"uses_raster": True}, "all tokens are equal: .*not 0 … 24"),
    "scale": (by_target, {}, "'the scale of a saliency does not matter': .*saliency times 0.25"),
    "nan": (by_share, {}, "zero, K = 5 of N = 25, step by step: raises FloatingPointError"),
    "sweep": (by_weak_strength, STRENGTH, r"'one program serves a sweep .*strength=0.25"),
    "static": (by_static_strength, STRENGTH, "raises TracerBoolConversionError"),
    "rows": (a_row_too_many, MERGED, r"features: shape \(1, 32\) is due, got \(2, 32\)"),
    "infinite": (exponential, MERGED, "huge, .*features: .*values are not finite"),
    "check": (by_saliency, {"check": refuse}, r"check\(\): raises ValueError: never"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(name):
    call, variables, message = BROKEN[name]
    with pytest.raises(AssertionError, match=message) as caught:
        testing.check(make(call, **variables))
    assert str(caught.value).startswith("pruner 'toy' breaks the promise ")


def test_a_class_may_say_what_it_cannot_promise():
    assert testing.check(make(by_target, uses_scale=True)) is None


@pytest.mark.parametrize("pruner", [pruning.Scope, by_saliency, None])
def test_only_an_instance_of_a_registered_class_is_checked(pruner):
    with pytest.raises(AssertionError, match=r"no instance of a class under pruning\.register"):
        testing.check(pruner)


def make_inside(call, cuts=None, **variables):
    """Return a registered pruner inside the decoder, by the row unless it is said otherwise."""

    def two_cuts(self, budget, num_tokens, num_layers):
        half = max(budget, num_tokens // 2)
        cuts = pruning.Cut(1, 0, half), pruning.Cut(2, 2, budget, merged=min(1, half - budget))
        return cuts if budget < num_tokens else ()

    usual = {
        "stage": pruning.Stage.DECODER,
        "needs": ("row", "hidden"),
        "nested": False,
        "stochastic": False,
        "cuts": cuts or two_cuts,
        "__call__": call,
    }
    return pruning.register("toy")(type("Toy", (), usual | variables))()


def by_row(self, tokens, cut, key, score=0.0):
    order = pruning.saliency_top_k(jnp.mean(tokens.row, axis=0) + score, tokens.row.shape[1])
    merged = jnp.mean(tokens.hidden.astype(jnp.float32)[order[cut.keep :]], axis=0, keepdims=True)
    return pruning.Survivors(order[: cut.keep], merged if cut.merged else None)


def by_mask(self, tokens, cut, key, alone=0):
    index = by_row(self, tokens, cut, key).index
    before, visual, text = tokens.num_before, tokens.row.shape[1], tokens.row_text.shape[1]
    place = jnp.arange(before + visual + text)
    kept = (place < before) | (place >= before + visual)
    kept = kept.at[before + index].set(True)
    visible = kept[None, :] & (place[:, None] >= place[None, :])
    visible |= (place[:, None] == place[None, :]) & (place[:, None] >= alone)
    return pruning.Masked(index, visible, kept, before + visual + tokens.num_text - 1)


def at(*cuts):
    """Return `cuts` that keep the budget at some places."""
    return lambda self, budget, num_tokens, num_layers: tuple(
        pruning.Cut(**{"keep": budget} | cut) for cut in cuts
    )


MASK = {
    "cuts": at({"layer": 1, "look": 0, "how": "mask"}),
    "needs": ("row", "row_text", "num_text", "hidden"),
}


def test_what_is_right_inside_the_decoder_passes():
    assert testing.check(make_inside(by_row)) is None


def test_a_mask_that_is_right_passes():
    assert testing.check(make_inside(by_mask, **MASK)) is None


def blind(self, tokens, cut, key):
    return by_mask(self, tokens, cut, key)._replace(visible=jnp.zeros((39, 39), bool))


def by_padding(self, tokens, cut, key):
    return by_row(self, tokens, cut, key, score=tokens.hidden @ jnp.mean(tokens.text_hidden, 0))


def by_key(self, tokens, cut, key):
    return by_row(self, tokens, cut, key, score=jax.random.normal(key, tokens.row.shape[1:]))


def by_keys(self, tokens, cut, key):
    return by_row(self, tokens, cut, key, score=jnp.sum(tokens.keys, axis=1))


def normalised(self, tokens, cut, key):
    row = tokens.row / jnp.sum(tokens.row, axis=1, keepdims=True)
    return by_row(self, dataclasses.replace(tokens, row=jnp.nan_to_num(row)), cut, key)


def no_mean(self, tokens, cut, key):
    return by_row(self, tokens, cut, key)._replace(merged=None)


def kept_in_a_tuple(self, tokens, cut, key):
    return by_row(self, tokens, cut, key).index


def the_first(self, tokens, cut, key):
    return pruning.Survivors(jnp.zeros(cut.keep, jnp.int32))


def as_a_list(self, budget, num_tokens, num_layers):
    return [pruning.Cut(1, 0, budget)]


BROKEN_INSIDE = {
    "list": (by_row, {"cuts": as_a_list}, "L = 4: .*a tuple is due, got list"),
    "first layer": (by_row, {"cuts": at({"layer": 0, "look": 0})}, "layer 0 outside 1 … 3"),
    "past the last": (by_row, {"cuts": at({"layer": 4, "look": 3})}, "layer 4 outside 1 … 3"),
    "twice": (by_row, {"cuts": at(*2 * [{"layer": 2, "look": 2}])}, "layer 2 outside 3 … 3"),
    "look": (by_row, {"cuts": at({"layer": 3, "look": 1})}, r"look must be one of \(2, 3\), got 1"),
    "none": (by_row, {"cuts": at({"layer": 1, "look": 1, "keep": 0})}, "keep 0 outside 1 … 25"),
    "more": (by_row, {"cuts": at({"layer": 1, "look": 1, "merged": 25})}, "1 \\+ 25 of 25 left"),
    "one twice": (the_first, {}, "'survivors are distinct tokens'.*a token more than once"),
    "type": (kept_in_a_tuple, {}, "a Survivors is due, got ArrayImpl"),
    "unmerged": (no_mean, {}, "merged: an array is due, got NoneType"),
    "mask": (by_row, {"cuts": MASK["cuts"]}, "a Masked is due, got Survivors"),
    "blind": (blind, MASK, "visible: tokens .* see nothing"),
    "key": (by_key, {}, "'only a stochastic pruner reads the key'"),
    "undeclared": (by_keys, {}, "'needs is all a pruner reads': .*given row, hidden alone"),
    "padding": (by_padding, {"needs": ("row", "hidden", "text_hidden")}, "rows from 6 on"),
    "nan": (normalised, {}, "zero, .*step by step: raises FloatingPointError"),
}


@pytest.mark.parametrize("name", BROKEN_INSIDE)
def test_what_is_broken_inside_the_decoder_is_named(name):
    call, variables, message = BROKEN_INSIDE[name]
    with pytest.raises(AssertionError, match=message) as caught:
        testing.check(make_inside(call, **variables))
    assert str(caught.value).startswith("pruner 'toy' breaks the promise ")


def test_made_up_attention_is_a_causal_softmax():
    tokens = testing.made_up_decoder_tokens(0, 9, num_text=4, padding=2)
    assert tokens.rows.shape == (4, 6, 9)
    np.testing.assert_array_equal(tokens.row, tokens.rows[:, 3])
    assert not np.asarray(tokens.row_text)[:, 4:].any()
    seen = np.asarray(tokens.row).sum(axis=1) + np.asarray(tokens.row_text).sum(axis=1)
    assert (seen < 1).all()  # the rest goes to what is before the picture
    assert tokens.inputs.shape == (25, 16)
    assert np.all(np.diff(np.asarray(tokens.positions)) > 0)


def test_relabelled_tokens_are_the_same_tokens():
    tokens = testing.made_up_tokens(0, 3)
    moved = testing.relabelled(tokens, np.array([2, 0, 1]))
    np.testing.assert_array_equal(moved.features, tokens.features[jnp.array([2, 0, 1])])
    np.testing.assert_array_equal(moved.hidden, tokens.hidden[jnp.array([0, 3, 1, 2])])
    np.testing.assert_array_equal(moved.saliency_by_layer[:, 0], tokens.saliency_by_layer[:, 2])
    assert math.isclose(moved.saliency[1], tokens.saliency[0])
