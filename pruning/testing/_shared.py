"""Promises of pruners of every stage.

Each takes the cases to try, so that the stages differ in these alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from .. import base
from ..random import image_key
from ._judging import (
    Case,
    case,
    index_of,
    require,
    require_same,
    require_valid,
    run,
    run_eagerly,
)
from ._made_up import only


def describes_itself(pruner: Any, view: type) -> None:
    """Check name, needs, hyper-parameters and that it is a pytree with a value."""
    cls = type(pruner)
    require(base.get(pruner.name) is cls, f"{pruner.name!r} is not the name of {cls.__qualname__}")
    fields = [field.name for field in dataclasses.fields(view)]
    unknown = [need for need in pruner.needs if need not in fields]
    require(not unknown, f"needs names {unknown}, which {view.__name__} does not have")
    with case("check()"):
        pruner.check()
    again = cls(**base.hyperparameters(pruner))
    require(again == pruner, f"{again} is not {pruner}")
    require(hash(again) == hash(pruner), "equal pruners have different hashes")
    mapped = jax.tree.map(lambda leaf: leaf, pruner)
    require(mapped == pruner, f"as a pytree it becomes {mapped}, which is not {pruner}")


def answers_are_valid(pruner: Any, cases: Iterable[Case]) -> None:
    """Check shape, type, range, finiteness and that no token is picked twice."""
    for one in cases:
        with case(one.name):
            require_valid(run(pruner, one), one)


def same_input_same_answer(pruner: Any, cases: Iterable[Case]) -> None:
    """Call twice and compare."""
    for one in cases:
        with case(one.name):
            require_same(run(pruner, one), run(pruner, one))


def jit_equals_eager(pruner: Any, one: Case) -> None:
    """Compare the compiled answer with two step by step."""
    want = run(pruner, one)
    for attempt in ("first", "second"):
        with case(f"{one.name}, {attempt} eager call against jit"):
            require_same(run_eagerly(pruner, one), want)


def the_key_is_read_if_stochastic(pruner: Any, cases: Iterable[Case]) -> None:
    """Vary the key: a stochastic pruner's answers differ somewhere, others' nowhere."""
    differs = False
    for one in cases:
        want = run(pruner, one)
        for seed in range(1, 4):
            got = run(pruner, one, image_key(seed, "made up"))
            differs |= not np.array_equal(index_of(got), index_of(want))
            if not pruner.stochastic:
                with case(f"{one.name}, another key, though stochastic is False"):
                    require_same(got, want)
    require(differs or not pruner.stochastic, "stochastic, but four keys give the same picks")


def needs_is_all_that_is_read(pruner: Any, one: Case, otherwise: str) -> None:
    """Take away what is not needed; `otherwise` stays where that is everything."""
    needs = tuple(pruner.needs) or (otherwise,)
    with case(f"{one.name}, given {', '.join(needs)} alone"):
        require_same(run_eagerly(pruner, one.of(only(one.tokens, needs))), run(pruner, one))


def hostile_values_give_valid_answers(
    pruner: Any, compiled: Iterable[Case], stepwise: Iterable[Case]
) -> None:
    """Survive values that no model should make, without any NaN on the way.

    Args:
      pruner: what is tried.
      compiled: cases to call compiled.
      stepwise: cases to call step by step, where every step is looked at.
    """
    answers_are_valid(pruner, compiled)
    for one in stepwise:
        with case(f"{one.name}, step by step"), jax.debug_nans(True):
            require_valid(run_eagerly(pruner, one), one)


def one_program_serves_a_sweep_over_floats(pruner: Any, one: Case) -> None:
    """Sweep the float hyper-parameters as `check` allows, traced and as numbers."""
    for scale in (1.0, 0.25, 0.5, 0.75, 2.0):
        swept = jax.tree.map(lambda value, scale=scale: scale * value, pruner)
        try:
            swept.check()
        except ValueError:
            continue
        with case(f"{one.name}, {swept} traced and not"):
            structures = jax.tree.structure(swept), jax.tree.structure(pruner)
            require(structures[0] == structures[1], "its value is compiled in")
            require_same(run(swept, one), run_eagerly(swept, one))


def has_floats(pruner: Any) -> bool:
    """Return whether a pruner has hyper-parameters that can be swept."""
    return bool(jax.tree.leaves(pruner))
