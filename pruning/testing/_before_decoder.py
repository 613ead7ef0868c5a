"""Promises of pruners before the decoder, which choose K tokens of one image.

Axes: G images · Q questions of each · N visual tokens · K tokens kept.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import batches
from ..base import Merged, Stage, Tokens
from ..none import KeepAll
from ..random import image_key
from . import _shared
from ._judging import (
    KEY,
    Case,
    Promise,
    case,
    index_of,
    require,
    require_batch_of,
    require_same,
    run,
    run_eagerly,
)
from ._made_up import (
    HOSTILE,
    NARROW,
    NUM_TOKENS,
    WEIGHTS,
    change,
    made_up_tokens,
    relabelled,
    stack,
)

_FIELDS = tuple(field.name for field in dataclasses.fields(Tokens))


# Where two tokens are each other's only uncovered neighbour they add equally much to a coverage,
# and rounding decides. Images of these seeds have no such pair among the first N/5 picks.
_SEEDS = (0, 1, 2)


def _cases(pruner: Any, tokens: Tokens) -> list[Case]:
    """Return K = 1, one between and N, or N alone for the pruner that keeps everything."""
    num_tokens = tokens.num_tokens
    between = num_tokens // (5 if pruner.nested else 3)
    every = {num_tokens} if isinstance(pruner, KeepAll) else {1, between, num_tokens}
    budgets = tuple(sorted(every - {0}))
    return [Case(f"K = {k} of N = {num_tokens}", tokens, k, budgets) for k in budgets]


def _telling_case(pruner: Any, tokens: Tokens) -> Case:
    """Return the budget between, for promises that are expensive to try or end at a tie."""
    return _cases(pruner, tokens)[-2:][0]


def the_class_describes_itself(pruner: Any) -> None:
    """Find it by its name, its needs among the fields of `Tokens`, and as a pytree with a value."""
    _shared.describes_itself(pruner, Tokens)


def picks_are_distinct_tokens(pruner: Any) -> None:
    """Give K distinct tokens in range, of the right type, for K = 1, one between and N."""
    # With K = N that is all of them.
    for num_tokens in (1, NUM_TOKENS):
        _shared.answers_are_valid(pruner, _cases(pruner, made_up_tokens(0, num_tokens)))


def same_input_same_picks(pruner: Any) -> None:
    """Give the same answer twice."""
    _shared.same_input_same_answer(pruner, _cases(pruner, made_up_tokens(0)))


def jit_equals_eager(pruner: Any) -> None:
    """Give compiled what it gives step by step."""
    _shared.jit_equals_eager(pruner, _telling_case(pruner, made_up_tokens(0)))


def only_a_stochastic_pruner_reads_the_key(pruner: Any) -> None:
    """Depend on the key if `stochastic`, and otherwise not."""
    _shared.the_key_is_read_if_stochastic(pruner, _cases(pruner, made_up_tokens(0)))


def needs_is_all_a_pruner_reads(pruner: Any) -> None:
    """Do with the fields that `needs` names."""
    one = _telling_case(pruner, made_up_tokens(0))
    _shared.needs_is_all_that_is_read(pruner, one, otherwise="saliency")


def a_nested_order_answers_smaller_budgets(pruner: Any) -> None:
    """Start, where `nested`, with the answers to all smaller budgets."""
    *smaller, full = _cases(pruner, made_up_tokens(0))
    order = run(pruner, full)
    for one in smaller:
        start = jax.tree.map(lambda leaf, budget=one.how: leaf[:budget], order)
        with case(f"{one.name} against the start of K = N"):
            require_same(run(pruner, one), start)


def select_equals_a_loop(pruner: Any) -> None:
    """Give through `select` what it gives image by image, question by question."""
    cases = [_telling_case(pruner, made_up_tokens(seed)) for seed in _SEEDS]
    keys = jnp.stack([image_key(0, str(index)) for index in range(3)])
    batch = stack([one.tokens for one in cases])
    if pruner.stage is Stage.QUESTION:  # Q = 2, the second of which turns the relevance around
        relevance = jnp.stack([batch.relevance, batch.relevance[:, ::-1]], axis=1)
        batch = dataclasses.replace(batch, relevance=relevance)
    # Step by step: it takes another program, whose parts other promises look at.
    with case(f"pruning.select, G = 3, {cases[0].name}"), jax.disable_jit():
        got = batches.select(pruner, batch, cases[0].how, keys)
        each = zip(cases, keys, strict=True)
        require_same(got, stack([_answer_all(pruner, one, key) for one, key in each]))


def _answer_all(pruner: Any, one: Case, key: jax.Array) -> Any:
    """Answer one image, or the two questions about it."""
    if pruner.stage is not Stage.QUESTION:
        return run_eagerly(pruner, one, key)
    turned = change(one.tokens, {"relevance": lambda leaf: leaf[::-1]})
    return stack([run_eagerly(pruner, each, key) for each in (one, one.of(turned))])


def it_can_be_vmapped(pruner: Any) -> None:
    """Trace under `jax.vmap`, with an axis more."""
    one = _telling_case(pruner, made_up_tokens(0))
    batch = stack([made_up_tokens(seed) for seed in _SEEDS])
    with case(f"traced for G = 3, {one.name}"):
        shapes = jax.eval_shape(jax.vmap(lambda tokens: pruner(tokens, one.how, KEY)), batch)
        want = jax.eval_shape(lambda tokens: pruner(tokens, one.how, KEY), one.tokens)
        require_batch_of(shapes, want, 3)


def relabelled_tokens_give_relabelled_picks(pruner: Any) -> None:
    """Follow its tokens when they change places, unless it `uses_raster`."""
    for seed in _SEEDS:
        tokens = made_up_tokens(seed)
        relabel = np.random.default_rng(seed).permutation(NUM_TOKENS)
        moved = relabelled(tokens, relabel)
        for one in _cases(pruner, tokens)[:-1]:
            with case(f"seed {seed}, {one.name}"):
                answers = run(pruner, one.of(moved)), run(pruner, one)
                _require_renamed(*answers, relabel, pruner.nested)


def _require_renamed(moved: Any, want: Any, relabel: np.ndarray, ordered: bool) -> None:
    """Compare answers about the same tokens in two orders; some are sorted, some say nothing."""
    if not isinstance(moved, Merged):
        picks, names = np.asarray(want), relabel[np.asarray(moved)]
        require_same(*((names, picks) if ordered else (np.sort(names), np.sort(picks))))
        return
    # Where a mean of many is put is a convention about places: the tokens alone are compared.
    distance = np.abs(np.asarray(moved.features)[:, None] - np.asarray(want.features)).max(-1)
    nearest = np.arange(len(distance)) if ordered else distance.argmin(axis=1)
    require_same(np.sort(nearest), np.arange(len(distance)))
    require_same(moved.features, want.features[nearest])


def equal_tokens_are_taken_in_raster_order(pruner: Any) -> None:
    """Take the lowest index where nothing tells tokens apart."""
    equal = change(made_up_tokens(0), dict.fromkeys(_FIELDS, np.ones_like))
    order = index_of(run(pruner, _cases(pruner, equal)[-1])).tolist()
    with case("all tokens are equal"):
        require(order == sorted(order), f"the order is {order}, not 0 … {NUM_TOKENS - 1}")


def the_scale_of_a_saliency_does_not_matter(pruner: Any) -> None:
    """Keep the same tokens of a scaled saliency, unless it `uses_scale`."""
    for one in _cases(pruner, made_up_tokens(0)):
        want = index_of(run(pruner, one))
        for field in sorted(set(WEIGHTS) & set(pruner.needs)):
            for scale in (0.25, 4.0):  # exact: only exponents change
                times = change(one.tokens, {field: lambda x, by=scale: x * np.float32(by)})
                with case(f"{one.name}, {field} times {scale}, and uses_scale is not set"):
                    require_same(index_of(run(pruner, one.of(times))), want)


def hostile_tokens_give_valid_picks(pruner: Any) -> None:
    """Survive tokens that no model should make, without a NaN on the way."""
    made_up = made_up_tokens(0)
    hostile = {name: change(made_up, dict.fromkeys(_FIELDS, HOSTILE[name])) for name in HOSTILE}
    hostile["no saliency"] = change(made_up, dict.fromkeys(WEIGHTS, np.zeros_like))
    compiled = [
        one.of(tokens, name)
        for name, tokens in hostile.items()
        if name not in NARROW  # another type is another program
        for one in _cases(pruner, made_up)
    ]
    one = _telling_case(pruner, made_up)
    stepwise = [one.of(tokens, name) for name, tokens in hostile.items()]
    _shared.hostile_values_give_valid_answers(pruner, compiled, stepwise)


def one_program_serves_a_sweep_over_floats(pruner: Any) -> None:
    """Compile no float hyper-parameter in."""
    one = _telling_case(pruner, made_up_tokens(0))
    _shared.one_program_serves_a_sweep_over_floats(pruner, one)


def select_names_what_is_missing(pruner: Any) -> None:
    """Be refused by `select` with the name of the field that is missing."""
    batch = stack([made_up_tokens(0)])
    for field in pruner.needs:
        lacking = dataclasses.replace(batch, **{field: None})
        text = _refusal(pruner, lacking, NUM_TOKENS)
        named = f"{pruner.name!r} needs tokens.{field}"
        require(named in text, f"without {field} a ValueError “{named}” is due, got {text!r}")


def select_refuses_a_budget_out_of_range(pruner: Any) -> None:
    """Be refused by `select` with budgets of 0 and below, and above N."""
    batch = stack([made_up_tokens(0)])
    for budget in (-1, 0, NUM_TOKENS + 1):
        text = _refusal(pruner, batch, budget)
        require(f"got {budget}" in text, f"K = {budget} is due a ValueError, got {text!r}")


def _refusal(pruner: Any, batch: Tokens, budget: int) -> str:
    """Return what the ValueError says; nothing if there is none."""
    if pruner.stage is Stage.QUESTION and batch.relevance is not None:
        batch = dataclasses.replace(batch, relevance=batch.relevance[:, None])
    try:
        batches.select(pruner, batch, budget, KEY[None])
    except ValueError as error:
        return str(error)
    return ""


def _ranks(pruner: Any) -> bool:
    return pruner.nested and not pruner.stochastic


def _is_blind_to_place(pruner: Any) -> bool:
    return not pruner.stochastic and not getattr(pruner, "uses_raster", False)


def _is_blind_to_scale(pruner: Any) -> bool:
    weighs = bool(set(WEIGHTS) & set(pruner.needs))
    return weighs and not pruner.stochastic and not getattr(pruner, "uses_scale", False)


def _needs_something(pruner: Any) -> bool:
    return bool(pruner.needs)


BEFORE_DECODER = (
    Promise(the_class_describes_itself),
    Promise(picks_are_distinct_tokens),
    Promise(same_input_same_picks),
    Promise(jit_equals_eager),
    Promise(only_a_stochastic_pruner_reads_the_key),
    Promise(needs_is_all_a_pruner_reads),
    Promise(a_nested_order_answers_smaller_budgets, lambda pruner: pruner.nested),
    Promise(select_equals_a_loop),
    Promise(it_can_be_vmapped),
    Promise(relabelled_tokens_give_relabelled_picks, _is_blind_to_place),
    Promise(equal_tokens_are_taken_in_raster_order, _ranks),
    Promise(the_scale_of_a_saliency_does_not_matter, _is_blind_to_scale),
    Promise(hostile_tokens_give_valid_picks, _needs_something),
    Promise(one_program_serves_a_sweep_over_floats, _shared.has_floats),
    Promise(select_names_what_is_missing, _needs_something),
    Promise(select_refuses_a_budget_out_of_range),
)
