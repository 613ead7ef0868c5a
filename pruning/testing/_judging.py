"""What promises are made of: a case, a call, a verdict.

Axes: N visual tokens · K tokens kept · Dv width of the vision tower · M tokens in the decoder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..base import Merged, Tokens
from ..decoder import Cut, DecoderTokens, Masked, Survivors
from ..random import image_key

KEY = image_key(0, "made up")


@dataclasses.dataclass(frozen=True)
class Promise:
    """Something that pruners promise: a function of one that raises an AssertionError.

    Attributes:
      keeps: raises where it does not.
      applies: whether a pruner makes this promise.
    """

    keeps: Callable[[Any], None]
    applies: Callable[[Any], bool] = lambda pruner: True

    @property
    def name(self) -> str:
        """The promise in words."""
        return self.keeps.__name__.replace("_", " ")

    def __call__(self, pruner: Any) -> None:
        """Refuse a pruner that breaks the promise, whatever it raises."""
        with case(f"pruner {getattr(pruner, 'name', pruner)!r} breaks the promise {self.name!r}"):
            self.keeps(pruner)


@contextlib.contextmanager
def case(text: str) -> Iterator[None]:
    """Turn what is raised inside into an AssertionError that starts with `text`."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{text}: {error}") from error
    except Exception as error:
        raise AssertionError(f"{text}: raises {type(error).__name__}: {error}") from error


def require(condition: Any, found: str) -> None:
    """Raise an AssertionError that says what was found, unless the condition holds."""
    if not condition:
        raise AssertionError(found)


@dataclasses.dataclass(frozen=True)
class Case:
    """One call of a pruner.

    Attributes:
      name: the case in words.
      tokens: what it looks at.
      how: the budget, or the cut.
      among: budgets or cuts that are compiled as one program, which is faster than one by one;
        `how` is one of them.
    """

    name: str
    tokens: Any
    how: Any
    among: tuple[Any, ...]

    def of(self, tokens: Any, name: str = "") -> Case:
        """Return the same case of other tokens."""
        words = f"{name}, {self.name}" if name else self.name
        return dataclasses.replace(self, name=words, tokens=tokens)


def run(pruner: Any, one: Case, key: jax.Array = KEY) -> Any:
    """Call a pruner, compiled."""
    return _run(pruner, one.tokens, one.among, key)[one.among.index(one.how)]


@functools.partial(jax.jit, static_argnames="among")
def _run(pruner: Any, tokens: Any, among: tuple[Any, ...], key: jax.Array) -> list[Any]:
    return [pruner(tokens, how, key) for how in among]


def run_eagerly(pruner: Any, one: Case, key: jax.Array = KEY) -> Any:
    """Call a pruner step by step."""
    with jax.disable_jit():
        return pruner(one.tokens, one.how, key)


def index_of(answer: Any) -> np.ndarray:
    """Return the tokens of any answer, int32[K]."""
    return np.asarray(answer.index if isinstance(answer, tuple) else answer)


def require_same(got: Any, want: Any) -> None:
    """Compare two answers: integers exactly, floats to a few roundings of the largest."""
    got_leaves, got_structure = jax.tree.flatten(got)
    want_leaves, want_structure = jax.tree.flatten(want)
    require(got_structure == want_structure, f"{got_structure} is not {want_structure}")
    for one, other in zip(got_leaves, want_leaves, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        require(one.shape == other.shape, f"shape {one.shape} is not {other.shape}")
        if np.issubdtype(one.dtype, np.integer) or one.dtype == bool:
            same = np.array_equal(one, other)
        else:
            scale = np.max(np.abs(other), initial=0.0)
            same = np.allclose(one, other, rtol=0, atol=1e-5 * scale)
        require(same, f"{_brief(one)} is not {_brief(other)}")


def require_batch_of(got: Any, want: Any, size: int) -> None:
    """Compare shapes and types, of which `got` has an axis more."""
    batched = jax.tree.map(lambda leaf: (leaf.dtype, (size, *leaf.shape)), want)
    found = jax.tree.map(lambda leaf: (leaf.dtype, leaf.shape), got)
    require(found == batched, f"{found} is not {batched}")


def require_valid(answer: Any, one: Case) -> None:
    """Check the shape, the type and the values of an answer."""
    if isinstance(one.how, Cut):
        _require_cut(answer, one.tokens, one.how)
    else:
        _require_choice(answer, one.tokens, one.how)


def _require_choice(answer: Any, tokens: Tokens, budget: int) -> None:
    """Check int32[K], or a `Merged`."""
    if not isinstance(answer, Merged):
        _require_picks(answer, budget, 0, tokens.num_tokens)
        return
    assert tokens.features is not None
    with case("index"):
        _require_picks(answer.index, budget, -1, tokens.num_tokens)
    with case("features"):
        _require_floats(answer.features, (budget, tokens.features.shape[1]))


def _require_cut(answer: Any, tokens: DecoderTokens, cut: Cut) -> None:
    """Check a `Survivors` or, where the cut says "mask", a `Masked`."""
    assert tokens.hidden is not None
    assert tokens.text_hidden is not None
    want = Masked if cut.how == "mask" else Survivors
    require(isinstance(answer, want), f"a {want.__name__} is due, got {type(answer).__name__}")
    num_left = len(tokens.hidden)
    if isinstance(answer, Survivors) and cut.at_most:
        cut = _require_bounds(answer, cut, num_left)
    with case("index"):
        _require_picks(answer.index, cut.keep, 0, num_left)
    if isinstance(answer, Masked):
        _require_mask(answer, tokens.num_before + num_left + len(tokens.text_hidden))
        return
    require(cut.at_most or answer.alive is None, "alive without a cut that says at_most")
    if cut.merged or answer.merged is not None:
        with case("merged"):
            _require_floats(answer.merged, (cut.merged, tokens.hidden.shape[1]))


def _require_bounds(answer: Survivors, cut: Cut, num_left: int) -> Cut:
    """Check bool[keep + merged] of a cut whose numbers are bounds; return it with those given."""
    keep = len(answer.index)
    merged = 0 if answer.merged is None else len(answer.merged)
    require(keep <= cut.keep, f"{keep} tokens, of {cut.keep} at most")
    require(merged <= cut.merged, f"{merged} merged tokens, of {cut.merged} at most")
    with case("alive"):
        _require_array(answer.alive, (keep + merged,), jnp.bool_)
        alive = np.asarray(answer.alive)
        require(alive[:keep].any(), "no token is left")
        require(alive.sum() <= num_left, f"{alive.sum()} are left of {num_left}")
    return dataclasses.replace(cut, keep=keep, merged=merged)


def _require_picks(picks: Any, count: int, low: int, high: int) -> None:
    """Check int32[count] of distinct numbers, low … high − 1."""
    _require_array(picks, (count,), jnp.int32)
    values = np.asarray(picks).tolist()
    outside = [value for value in values if not low <= value < high]
    require(not outside, f"{outside[:5]} outside {low} … {high - 1} among {values}")
    require(len(set(values)) == count, f"a token more than once in {values}")


def _require_floats(values: Any, shape: tuple[int, ...]) -> None:
    _require_array(values, shape, jnp.floating)
    finite = np.isfinite(np.asarray(values, np.float32))
    require(finite.all(), f"{(~finite).sum()} values are not finite")


def _require_mask(answer: Masked, length: int) -> None:
    """Check bool[M, M], bool[M] and int32[]."""
    with case("visible"):
        _require_array(answer.visible, (length, length), jnp.bool_)
        blind = np.flatnonzero(~np.asarray(answer.visible).any(axis=1)).tolist()
        require(not blind, f"tokens {blind[:5]} see nothing, so that their attention is NaN")
    with case("alive"):
        _require_array(answer.alive, (length,), jnp.bool_)
    with case("read"):
        _require_array(answer.read, (), jnp.int32)
        require(0 <= int(answer.read) < length, f"{answer.read} outside 0 … {length - 1}")


def _require_array(values: Any, shape: tuple[int, ...], kind: Any) -> None:
    require(isinstance(values, jax.Array), f"an array is due, got {type(values).__name__}")
    name = kind.__name__
    require(jnp.issubdtype(values.dtype, kind), f"{name} is due, got {values.dtype}")
    require(values.shape == shape, f"shape {shape} is due, got {values.shape}")


def _brief(values: np.ndarray) -> str:
    """Return an array for an error message."""
    return np.array2string(values, threshold=40, precision=6, separator=", ").replace("\n", "")
