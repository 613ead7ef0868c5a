"""Made-up tokens: what a pruner looks at, without a model.

Axes: N visual tokens · V those that are left · T text tokens after the picture, padded · S
before it · M = S + V + T · H heads · D, Dv, Dk widths.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ..base import Tokens
from ..decoder import DecoderTokens

NUM_TOKENS = 25  # a square, for methods that see the picture as a grid

WEIGHTS = ("saliency", "saliency_by_layer", "last_saliency", "relevance")
"""Fields of one number a token."""

_BEFORE, _HEADS, _HEAD_DIM = 5, 4, 4
_WIDTH = _HEADS * _HEAD_DIM


def made_up_tokens(seed: int, num_tokens: int = NUM_TOKENS) -> Tokens:
    """Return one image with every field set, seeded and without ties.

    Args:
      seed: of all values.
      num_tokens: N.

    Returns:
      Features around 0.3 with standard deviation 1 and saliencies in 0.01 … 1. Widths are 32
      (vision tower), 28 (its keys) and 40 (projector): above N, as those of a model.
    """
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(0.3, 1.0, shape), jnp.float32)

    def positive(*shape: int) -> jax.Array:
        return jnp.asarray(rng.uniform(0.01, 1.0, shape), jnp.float32)

    hidden = normal(1 + num_tokens, 32)
    return Tokens(
        features=hidden[1:],
        embeddings=normal(num_tokens, 40),
        hidden=hidden,
        keys=normal(1 + num_tokens, 28),
        saliency=positive(num_tokens),
        saliency_by_layer=positive(3, num_tokens),
        last_keys=normal(1 + num_tokens, 32),
        last_saliency=positive(num_tokens),
        relevance=positive(num_tokens),
    )


def relabelled(tokens: Tokens, relabel: np.ndarray) -> Tokens:
    """Return the same tokens in another order, token `relabel[i]` in place i; CLS stays first.

    Args:
      tokens: one image.
      relabel: int[N], a permutation.
    """
    with_cls = np.concatenate([[0], 1 + relabel])
    plain = dict.fromkeys(("features", "embeddings"), lambda leaf: leaf[relabel])
    special = dict.fromkeys(("hidden", "keys", "last_keys"), lambda leaf: leaf[with_cls])
    weights = dict.fromkeys(WEIGHTS, lambda leaf: leaf[..., relabel])
    return change(tokens, plain | special | weights)


def made_up_decoder_tokens(
    seed: int,
    num_left: int = NUM_TOKENS,
    *,
    num_tokens: int = NUM_TOKENS,
    num_text: int = 6,
    padding: int = 3,
) -> DecoderTokens:
    """Return one question about one image inside the decoder, every field set.

    Args:
      seed: of all values.
      num_left: V, visual tokens that earlier cuts have left, 1 … N.
      num_tokens: N.
      num_text: text tokens after the picture that are no padding, ≥ 1.
      padding: T less those.

    Returns:
      4 heads of width 4, of which 2 have keys, 5 tokens before the picture. Attention is a
      causal softmax, so that nothing real looks at padding; padding has values like the rest.
    """
    rng = np.random.default_rng(seed)
    length = num_text + padding

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(0.0, 1.0, shape), jnp.float32)

    left = np.sort(rng.permutation(num_tokens)[:num_left])
    attention = _causal_attention(rng, num_left, length)
    visual = slice(_BEFORE, _BEFORE + num_left)
    return DecoderTokens(
        hidden=normal(num_left, _WIDTH),
        text_hidden=normal(length, _WIDTH),
        row=jnp.asarray(attention[:, num_text - 1, visual]),
        row_text=jnp.asarray(attention[:, num_text - 1, visual.stop :]),
        rows=jnp.asarray(attention[:, :, visual]),
        keys=normal(num_left, 2 * _HEAD_DIM),
        text_keys=normal(length, 2 * _HEAD_DIM),
        inputs=normal(num_tokens, _WIDTH),
        text_inputs=normal(length, _WIDTH),
        positions=jnp.asarray(_BEFORE + left, jnp.int32),
        text_positions=jnp.asarray(_BEFORE + num_tokens + np.arange(length), jnp.int32),
        num_text=jnp.int32(num_text),
        final_norm=1 + 0.1 * normal(_WIDTH),
        num_before=_BEFORE,
        head_dim=_HEAD_DIM,
        rope_theta=10000.0,
    )


def _causal_attention(rng: np.random.Generator, num_left: int, length: int) -> np.ndarray:
    """Return float32[H, T, M], rows of text tokens that see themselves and what is before."""
    total = _BEFORE + num_left + length
    scores = rng.normal(0.0, 1.5, (_HEADS, length, total))
    seen = np.arange(total)[None, :] <= _BEFORE + num_left + np.arange(length)[:, None]
    weights = np.where(seen, np.exp(scores), 0.0)
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def stack(images: list[Any]) -> Any:
    """Return tokens with a leading axis over those given."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *images)


Fields = TypeVar("Fields", Tokens, DecoderTokens)


def change(tokens: Fields, changes: Mapping[str, Callable[[np.ndarray], np.ndarray]]) -> Fields:
    """Return tokens with some fields changed, one function each."""
    given = {name: np.asarray(getattr(tokens, name)) for name in changes}
    return dataclasses.replace(
        tokens, **{name: jnp.asarray(changes[name](value)) for name, value in given.items()}
    )


def only(tokens: Fields, fields: tuple[str, ...]) -> Fields:
    """Return tokens whose other arrays are None."""
    arrays = [f.name for f in dataclasses.fields(tokens) if f.default is None]
    return dataclasses.replace(tokens, **{n: None for n in arrays if n not in fields})


def _with_zero_row(leaf: np.ndarray) -> np.ndarray:
    return np.concatenate([leaf[:2], 0 * leaf[2:3], leaf[3:]])


def _with_duplicates(leaf: np.ndarray) -> np.ndarray:
    """Repeat a tenth of the rows, so that any budget but 1 needs copies."""
    return np.resize(leaf[: max(len(leaf) // 10, 1)], leaf.shape)


HOSTILE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "zero": np.zeros_like,
    "constant": np.ones_like,
    "one zero row": _with_zero_row,
    "duplicates": _with_duplicates,
    "huge": lambda leaf: leaf * np.float32(1e30),
    "tiny": lambda leaf: leaf * np.float32(1e-30),
    "float16": lambda leaf: leaf.astype(jnp.float16),
    "bfloat16": lambda leaf: leaf.astype(jnp.bfloat16),
}
"""Changes of a field that a model may never make and a method must survive."""

NARROW = ("float16", "bfloat16")
"""Those that change the type."""
