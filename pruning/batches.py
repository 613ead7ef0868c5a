"""Pruners over batches of images: the one place of this package that compiles.

Axes: G images · Q questions of each · N visual tokens · K tokens kept.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from ._ops import check_budget
from .base import Merged, Pruner, Stage, Tokens
from .cdpruner import cdpruner_relevance
from .decoder import Cut, DecoderPruner, DecoderTokens, Masked, Survivors


def select(pruner: Pruner, tokens: Tokens, budget: int, keys: jax.Array) -> jax.Array | Merged:
    """Choose `budget` tokens of every image of a batch, before the decoder.

    Args:
      pruner: an instance of a registered class; its float fields are traced.
      tokens: the fields `pruner.needs`, each with a leading image axis G; `relevance` is
        float[G, Q, N].
      budget: K, 1 … N, static.
      keys: key[G], one per image (`image_key`); read by stochastic pruners only.

    Returns:
      int32[G, K], the kept tokens of every image in order of selection, or a `Merged` of
      arrays with that leading axis; [G, Q, K] from a pruner that sees the question. A budget
      out of range, a missing field, an impossible hyper-parameter and an answer of another
      shape or type are ValueErrors.
    """
    pruner.check()
    _check_needs(pruner, tokens)
    check_budget(budget, tokens.num_tokens)
    return _select(pruner, tokens, int(budget), keys)


@functools.partial(jax.jit, static_argnames="budget")
def _select(pruner: Pruner, tokens: Tokens, budget: int, keys: jax.Array) -> jax.Array | Merged:
    def one(tokens: Tokens, key: jax.Array) -> jax.Array | Merged:
        found = pruner(tokens, budget, key)
        index = found.index if isinstance(found, Merged) else found
        _check_index(pruner, index, budget)
        if isinstance(found, Merged):
            _check_made(pruner, found.features, budget)
        return found

    def each_question(tokens: Tokens, key: jax.Array) -> jax.Array | Merged:
        def ask(relevance: jax.Array) -> jax.Array | Merged:
            return one(dataclasses.replace(tokens, relevance=relevance), key)

        return _map(ask, tokens.relevance)

    return _map(each_question if pruner.stage is Stage.QUESTION else one, tokens, keys)


@functools.partial(jax.jit, static_argnames="sign")
def relevance(image_embeds: jax.Array, text_embeds: jax.Array, *, sign: int = -1) -> jax.Array:
    """Rate the tokens of every image for every question; see `cdpruner_relevance`.

    Args:
      image_embeds: float[G, N, C].
      text_embeds: float[G, Q, M, C].
      sign: −1 or 1, static.

    Returns:
      float32[G, Q, N].
    """
    rate = functools.partial(cdpruner_relevance, sign=sign)
    return jax.vmap(jax.vmap(rate, (None, 0)))(image_embeds, text_embeds)


def select_inside(
    pruner: DecoderPruner, tokens: DecoderTokens, cut: Cut, keys: jax.Array
) -> Survivors | Masked:
    """Choose what is left after a cut in the decoder, for every question of every image.

    Args:
      pruner: an instance of a registered class.
      tokens: the fields `pruner.needs`, each with leading axes [G, Q], 1 where all are alike.
      cut: one of `pruner.cuts`.
      keys: key[G, Q]; read by stochastic pruners only.

    Returns:
      The pruner's answer with leading axes [G, Q]. A missing field and an answer of another
      shape or type are ValueErrors.
    """
    _check_needs(pruner, tokens)
    return _select_inside(pruner, tokens, cut, keys)


@functools.partial(jax.jit, static_argnames="cut")
def _select_inside(
    pruner: DecoderPruner, tokens: DecoderTokens, cut: Cut, keys: jax.Array
) -> Survivors | Masked:
    def one(tokens: DecoderTokens, key: jax.Array) -> Survivors | Masked:
        found = pruner(tokens, cut, key)
        if not cut.at_most:
            _check_index(pruner, found.index, cut.keep)
        if not cut.at_most and isinstance(found, Survivors) and cut.merged:
            _check_made(pruner, found.merged, cut.merged)
        return found

    each = jax.tree.map(lambda x: jnp.broadcast_to(x, (*keys.shape, *x.shape[2:])), tokens)
    return jax.vmap(jax.vmap(one))(each, keys)


def _map(function: Any, *stacked: Any) -> Any:
    """Apply a function to every element of leading axes.

    A CPU gains nothing from a batch: it would leave the cache, and loops of different
    lengths would wait for the longest.
    """
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda element: function(*element), stacked)
    return jax.vmap(function)(*stacked)


def _check_index(pruner: Pruner | DecoderPruner, index: Any, count: int) -> None:
    """Raise a ValueError unless a pruner's answer is int32[count]."""
    found = jax.typeof(index) if isinstance(index, jax.Array) else None
    if found is None or found.shape != (count,) or found.dtype != jnp.int32:
        is_not = type(index).__name__ if found is None else found.str_short()
        raise ValueError(f"pruner {pruner.name!r} must choose int32[{count}], got {is_not}")


def _check_made(pruner: Pruner | DecoderPruner, made: Any, count: int) -> None:
    """Raise a ValueError unless a pruner made as many tokens as it says."""
    if not isinstance(made, jax.Array) or made.ndim != 2 or len(made) != count:
        found = list(getattr(made, "shape", ())) or type(made).__name__
        raise ValueError(f"pruner {pruner.name!r} must make {count} tokens, got {found}")


def _check_needs(pruner: Pruner | DecoderPruner, tokens: Tokens | DecoderTokens) -> None:
    missing = [field for field in pruner.needs if getattr(tokens, field) is None]
    if missing:
        fields = ", ".join(f"tokens.{field}" for field in missing)
        raise ValueError(f"pruner {pruner.name!r} needs {fields}, got None")
