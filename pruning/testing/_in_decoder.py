"""Promises of pruners between decoder layers, which cut tokens of one question.

Axes: G images · Q questions of each · N visual tokens · V those that are left · K the budget ·
T text tokens after the picture, padded · L decoder layers.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import batches
from ..decoder import Cut, DecoderTokens
from ..random import image_key
from . import _shared
from ._judging import KEY, Case, Promise, case, require, require_same, run
from ._made_up import HOSTILE, NARROW, NUM_TOKENS, change, made_up_decoder_tokens, stack

_DEPTHS = (4, 32)
_BUDGETS = (1, NUM_TOKENS // 3, NUM_TOKENS)
_HOW = ("drop", "mask", "restart")

_VISUAL = ("hidden", "keys", "inputs")
_TEXT = ("text_hidden", "text_keys", "text_inputs")
_ATTENTION = ("row", "row_text", "rows")


def _left_after(cut: Cut, num_left: int) -> int:
    """Return how many visual tokens a cut leaves."""
    return num_left if cut.how == "mask" else min(cut.keep + cut.merged, num_left)


def _cases(pruner: Any, seed: int, depth: int, budget: int, num_text: int = 6) -> list[Case]:
    """Return a case for every cut, with as many tokens as the cuts before it leave."""
    found, left = [], NUM_TOKENS
    for cut in pruner.cuts(budget, NUM_TOKENS, depth):
        name = f"{cut} of V = {left} for K = {budget} of N = {NUM_TOKENS}, {num_text} text tokens"
        tokens = made_up_decoder_tokens(seed, left, num_text=num_text, padding=9 - num_text)
        found.append(Case(name, tokens, cut, (cut,)))
        left = _left_after(cut, left)
    return found


def _thirds(pruner: Any, seed: int) -> list[Case]:
    """Return the cuts of a deep decoder for a third of the tokens; the first says most."""
    return _cases(pruner, seed, _DEPTHS[-1], _BUDGETS[1])


def the_class_describes_itself(pruner: Any) -> None:
    """Find it by its name, its needs in `DecoderTokens`, and as a pytree with a value."""
    _shared.describes_itself(pruner, DecoderTokens)


def cuts_go_up_in_layer_and_down_in_tokens(pruner: Any) -> None:
    """Cut within the decoder, later cuts above earlier ones and down to fewer tokens."""
    for depth in _DEPTHS:
        for budget in _BUDGETS:
            cuts = pruner.cuts(budget, NUM_TOKENS, depth)
            with case(f"K = {budget} of N = {NUM_TOKENS}, L = {depth}: {cuts}"):
                _require_cuts(cuts, depth)


def _require_cuts(cuts: Any, depth: int) -> None:
    require(isinstance(cuts, tuple), f"a tuple is due, got {type(cuts).__name__}")
    layer, keep, left = 0, NUM_TOKENS, NUM_TOKENS
    for cut in cuts:
        require(isinstance(cut, Cut), f"a Cut is due, got {type(cut).__name__}")
        require(layer < cut.layer < depth, f"layer {cut.layer} outside {layer + 1} … {depth - 1}")
        looks = (cut.layer - 1, cut.layer)
        require(cut.look in looks, f"look must be one of {looks}, got {cut.look}")
        require(1 <= cut.keep <= keep, f"keep {cut.keep} outside 1 … {keep}")
        most = left if cut.at_most else left - cut.keep
        require(0 <= cut.merged <= most, f"{cut.keep} + {cut.merged} of {left} left")
        require(cut.how in _HOW, f"how must be one of {_HOW}, got {cut.how!r}")
        layer, keep, left = cut.layer, cut.keep, _left_after(cut, left)


def survivors_are_distinct_tokens(pruner: Any) -> None:
    """Give at every cut as many distinct tokens as it says, and as many merged ones."""
    every = [_cases(pruner, 0, depth, budget) for depth in _DEPTHS for budget in _BUDGETS]
    tried = {}
    for one in itertools.chain(*every):  # what differs in the layer alone is tried once
        tried[len(one.tokens.hidden), dataclasses.replace(one.how, layer=1, look=1)] = one
    one_word = _cases(pruner, 0, _DEPTHS[-1], _BUDGETS[1], num_text=1)
    _shared.answers_are_valid(pruner, [*tried.values(), *one_word])


def same_input_same_survivors(pruner: Any) -> None:
    """Give the same answer twice."""
    _shared.same_input_same_answer(pruner, _thirds(pruner, 1))


def jit_equals_eager(pruner: Any) -> None:
    """Give compiled what it gives step by step."""
    for one in _thirds(pruner, 2)[:1]:
        _shared.jit_equals_eager(pruner, one)


def only_a_stochastic_pruner_reads_the_key(pruner: Any) -> None:
    """Depend on the key if `stochastic`, and otherwise not."""
    _shared.the_key_is_read_if_stochastic(pruner, _thirds(pruner, 4))


def needs_is_all_a_pruner_reads(pruner: Any) -> None:
    """Do with the fields that `needs` names."""
    for one in _thirds(pruner, 5)[:1]:
        _shared.needs_is_all_that_is_read(pruner, one, otherwise="hidden")


def padding_of_the_text_has_no_influence(pruner: Any) -> None:
    """Keep the same tokens whatever stands behind the question."""
    for one in _thirds(pruner, 6):
        num_text = int(one.tokens.num_text)
        other = one.of(_with_other_padding(one.tokens, num_text))
        with case(f"{one.name}, other values in the rows from {num_text} on"):
            require_same(run(pruner, other), run(pruner, one))


def _with_other_padding(tokens: DecoderTokens, num_text: int) -> DecoderTokens:
    """Change the rows of the text from `num_text` on."""

    def rows(leaf: np.ndarray) -> np.ndarray:
        return np.concatenate([leaf[:num_text], 3 - 2 * leaf[num_text:]])

    def attention(leaf: np.ndarray) -> np.ndarray:
        return np.concatenate([leaf[:, :num_text], leaf[:, num_text:] ** 2], axis=1)

    return change(tokens, dict.fromkeys((*_TEXT, "text_positions"), rows) | {"rows": attention})


def select_inside_equals_a_loop(pruner: Any) -> None:
    """Give through `select_inside` what it gives question by question."""
    # G = 2 images with Q = 2 questions, which share the picture as it entered the decoder.
    keys = jnp.stack([image_key(0, str(index)) for index in range(4)])
    shared = {"inputs": made_up_decoder_tokens(0).inputs}
    questions = [dataclasses.replace(made_up_decoder_tokens(i), **shared) for i in range(4)]
    batch = jax.tree.map(_in_pairs, stack(questions))
    batch = dataclasses.replace(batch, inputs=batch.inputs[:1, :1])
    for one in _thirds(pruner, 7)[:1]:
        each = zip(questions, keys, strict=True)
        loop = stack([run(pruner, one.of(tokens), key) for tokens, key in each])
        with case(f"pruning.select_inside, G = Q = 2, {one.name}"):
            got = batches.select_inside(pruner, batch, one.how, keys.reshape(2, 2))
            require_same(got, jax.tree.map(_in_pairs, loop))


def _in_pairs(leaf: jax.Array) -> jax.Array:
    """Return four rows as [G, Q] = [2, 2]."""
    return leaf.reshape(2, 2, *leaf.shape[1:])


def hostile_values_give_valid_survivors(pruner: Any) -> None:
    """Survive values that no model should make, without a NaN on the way."""
    cases = _thirds(pruner, 9)
    compiled = [_hostile(one, name) for one in cases for name in HOSTILE if name not in NARROW]
    stepwise = [_hostile(one, name) for one in cases[:1] for name in HOSTILE]
    _shared.hostile_values_give_valid_answers(pruner, compiled, stepwise)


def _hostile(one: Case, name: str) -> Case:
    """Change what the model computes; attention stays float32, and at most 1."""
    harm = _huge if name == "huge" else HOSTILE[name]
    changes = dict.fromkeys((*_VISUAL, *_TEXT, "final_norm"), harm)
    if name not in (*NARROW, "huge"):
        changes |= dict.fromkeys(_ATTENTION, lambda leaf: _per_token(leaf, name))
    return one.of(change(one.tokens, changes), name)


def _huge(leaf: np.ndarray) -> np.ndarray:
    """Leave room for a product of two: logits of a decoder have no other scale."""
    return leaf * np.float32(1e15)


def _per_token(attention: np.ndarray, name: str) -> np.ndarray:
    """Apply a change to what tokens are looked at, the last axis."""
    changed = np.moveaxis(HOSTILE[name](np.moveaxis(attention, -1, 0)), 0, -1)
    return changed / np.float32(100) if name == "constant" else changed


def one_program_serves_a_sweep_over_floats(pruner: Any) -> None:
    """Compile no float hyper-parameter in."""
    for one in _thirds(pruner, 10)[:1]:
        _shared.one_program_serves_a_sweep_over_floats(pruner, one)


def select_inside_names_what_is_missing(pruner: Any) -> None:
    """Be refused by `select_inside` with the name of the field that is missing."""
    for one in _thirds(pruner, 11)[:1]:
        batch = jax.tree.map(lambda leaf: leaf[None, None], one.tokens)
        for field in pruner.needs:
            lacking, text = dataclasses.replace(batch, **{field: None}), ""
            try:
                batches.select_inside(pruner, lacking, one.how, KEY[None, None])
            except ValueError as error:
                text = str(error)
            named = f"{pruner.name!r} needs tokens.{field}"
            require(named in text, f"without {field} a ValueError “{named}” is due, got {text!r}")


IN_DECODER = (
    Promise(the_class_describes_itself),
    Promise(cuts_go_up_in_layer_and_down_in_tokens),
    Promise(survivors_are_distinct_tokens),
    Promise(same_input_same_survivors),
    Promise(jit_equals_eager),
    Promise(only_a_stochastic_pruner_reads_the_key),
    Promise(needs_is_all_a_pruner_reads),
    Promise(padding_of_the_text_has_no_influence),
    Promise(select_inside_equals_a_loop),
    Promise(hostile_values_give_valid_survivors),
    Promise(one_program_serves_a_sweep_over_floats, _shared.has_floats),
    Promise(select_inside_names_what_is_missing, lambda pruner: bool(pruner.needs)),
)
