"""The Llama decoder, written for suffixes that share a prefix.

Hidden states are float[G, Q, T, D]: the suffixes (questions) of G images; a prefix is the special
case Q = 1. Axis letters: G images, Q questions, P prefix, T suffix, D width, H heads, K key-value
heads, d head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from llava_jax.config import TextConfig
from llava_jax.layers import (
    Linear,
    RMSNorm,
    dense,
    prefix_attention,
    prefix_attention_rows,
    rope,
    run,
)

Params = Mapping[str, Any]


class KeyValue(NamedTuple):
    """Keys and values of one layer, each float[G, P, K, d]."""

    keys: jax.Array
    values: jax.Array


class TextBlock(nn.Module):
    """One block: x + attention(norm x), then x + down(silu(gate) · up)."""

    cfg: TextConfig

    def setup(self) -> None:
        """Create the sub-modules."""
        cfg = self.cfg
        self.attention_norm = RMSNorm(cfg.eps)
        self.q = Linear(cfg.num_heads * cfg.head_dim)
        self.k = Linear(cfg.num_kv_heads * cfg.head_dim)
        self.v = Linear(cfg.num_kv_heads * cfg.head_dim)
        self.out = Linear(cfg.width)
        self.mlp_norm = RMSNorm(cfg.eps)
        self.gate = Linear(cfg.mlp_width)
        self.up = Linear(cfg.mlp_width)
        self.down = Linear(cfg.width)

    def query_key_value(
        self, x: jax.Array, positions: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return rotated queries [G, Q, T, H, d], rotated keys and values [G, Q, T, K, d]."""
        keys, values = self.key_value(x, positions)
        return self.query(x, positions), keys, values

    def query(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        """Return rotated queries float[G, Q, T, H, d]."""
        q = self.q(self.attention_norm(x)).reshape(*x.shape[:3], -1, self.cfg.head_dim)
        return rope(q, positions, self.cfg.rope_theta)

    def key_value(self, x: jax.Array, positions: jax.Array) -> KeyValue:
        """Return rotated keys and values, float[G, Q, T, K, d] each."""
        y, shape = self.attention_norm(x), (*x.shape[:3], -1, self.cfg.head_dim)
        k = rope(self.k(y).reshape(shape), positions, self.cfg.rope_theta)
        return KeyValue(k, self.v(y).reshape(shape))

    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        prefix: KeyValue,
        visible: jax.Array | None = None,
        prefix_visible: jax.Array | None = None,
    ) -> tuple[jax.Array, KeyValue]:
        """Map float[G, Q, T, D] to the same shape; also return the suffix's keys and values."""
        own = self.key_value(x, positions)
        query = self.query(x, positions)
        mixed = prefix_attention(query, *own, *prefix, visible, prefix_visible)
        return self._finish(x, mixed), own

    def attention_rows(
        self,
        x: jax.Array,
        positions: jax.Array,
        prefix: KeyValue,
        places: jax.Array,
        prefix_visible: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Return how much the tokens at places int[G, Q, U] look at the prefix and at x."""
        query, keys = self._query_at(x, positions, places), self.key_value(x, positions).keys
        seen = _before(places, x.shape[2])
        return prefix_attention_rows(query, keys, prefix.keys, seen, prefix_visible)

    def last_token(
        self,
        x: jax.Array,
        positions: jax.Array,
        prefix: KeyValue,
        lengths: jax.Array,
        prefix_visible: jax.Array | None = None,
    ) -> jax.Array:
        """Map float[G, Q, T, D] to float[G, Q, 1, D]: the output at each suffix's last token."""
        own, last = self.key_value(x, positions), (lengths - 1)[..., None]
        query = self._query_at(x, positions, last)
        seen = _before(last, x.shape[2])
        mixed = prefix_attention(query, *own, *prefix, seen, prefix_visible)
        return self._finish(jnp.take_along_axis(x, last[..., None], axis=2), mixed)

    def step(
        self,
        x: jax.Array,
        positions: jax.Array,
        prefix: KeyValue,
        cache: KeyValue,
        slot: jax.Array,
        visible: jax.Array,
        prefix_visible: jax.Array | None = None,
    ) -> tuple[jax.Array, KeyValue]:
        """Map one more token of each suffix, float[G, Q, 1, D], and put it into the cache."""
        own = self.key_value(x, positions)
        update = jax.lax.dynamic_update_slice_in_dim
        cache = KeyValue(
            *(update(all_, new, slot, 2) for all_, new in zip(cache, own, strict=True))
        )
        query = self.query(x, positions)
        mixed = prefix_attention(query, *cache, *prefix, visible, prefix_visible)
        return self._finish(x, mixed), cache

    def _query_at(self, x: jax.Array, positions: jax.Array, places: jax.Array) -> jax.Array:
        """Return the rotated queries float[G, Q, U, H, d] of the tokens at places int[G, Q, U]."""
        positions = jnp.broadcast_to(positions, x.shape[:3])
        return self.query(
            jnp.take_along_axis(x, places[..., None], axis=2),
            jnp.take_along_axis(positions, places, axis=2),
        )

    def _finish(self, x: jax.Array, mixed: jax.Array) -> jax.Array:
        """Add the attention's output, then the feed-forward network's."""
        x = x + self.out(mixed.reshape(*x.shape[:3], -1))
        y = self.mlp_norm(x)
        return x + self.down(jax.nn.silu(self.gate(y)) * self.up(y))


def _before(places: jax.Array, num_tokens: int) -> jax.Array:
    """Return which of T tokens those at places int[G, Q, U] see, bool[G, Q, U, T]."""
    return jnp.arange(num_tokens).reshape(1, 1, 1, -1) <= places[..., None]


def empty_prefix(num_images: int, dtype: jnp.dtype, *, cfg: TextConfig) -> KeyValue:
    """Return keys and values of a prefix without tokens, float[G, 0, K, d]."""
    nothing: Any = np.zeros((num_images, 0, cfg.num_kv_heads, cfg.head_dim), dtype)
    return KeyValue(nothing, nothing)


def embed(params: Params, ids: jax.Array | np.ndarray) -> jax.Array:
    """Look up token ids int[...] in the embedding; float[..., D]."""
    return jnp.take(params["embed_tokens"], ids, axis=0)


def block(
    params: Params,
    x: jax.Array,
    positions: jax.Array,
    prefix: KeyValue,
    visible: jax.Array | None = None,
    prefix_visible: jax.Array | None = None,
    *,
    cfg: TextConfig,
) -> tuple[jax.Array, KeyValue]:
    """Run one block on suffixes that share a prefix.

    Args:
        params: the block.
        x: float[G, Q, T, D].
        positions: int[G, Q, T] or broadcastable, places of the suffix tokens in the sequence.
        prefix: this layer's keys and values of the prefix, float[G, P, K, d].
        visible: bool[G, Q, T, T] or broadcastable, suffix tokens that each of them sees; None
            for itself and what stands before it.
        prefix_visible: bool[G, P], prefix tokens that all of them see; None for every one.
        cfg: shapes.

    Returns:
        (hidden states float[G, Q, T, D], the suffix's keys and values float[G, Q, T, K, d]).
    """
    return run(TextBlock(cfg), params, x, positions, prefix, visible, prefix_visible)


def attention_rows(
    params: Params,
    x: jax.Array,
    positions: jax.Array,
    prefix: KeyValue,
    places: jax.Array,
    prefix_visible: jax.Array | None = None,
    *,
    cfg: TextConfig,
) -> tuple[jax.Array, jax.Array]:
    """Return how much some suffix tokens look at the prefix and at the suffix in one block.

    Args:
        params: the block.
        x: float[G, Q, T, D], its input.
        positions: int[G, Q, T] or broadcastable.
        prefix: this layer's keys and values of the prefix, float[G, P, K, d].
        places: int[G, Q, U], indices of the tokens in the suffix.
        prefix_visible: bool[G, P], prefix tokens that they see; None for all.
        cfg: shapes.

    Returns:
        (float32[G, Q, H, U, P], float32[G, Q, H, U, T]); together they sum to one.
    """
    args = (x, positions, prefix, places, prefix_visible)
    return run(TextBlock(cfg), params, *args, method="attention_rows")


def votes(
    params: Params,
    x: jax.Array,
    positions: jax.Array,
    prefix: KeyValue,
    lengths: jax.Array,
    offsets: jax.Array,
    prefix_visible: jax.Array | None = None,
    *,
    cfg: TextConfig,
) -> jax.Array:
    """Return how much the last tokens of each suffix together look at every token in one block.

    Args:
        params: the block.
        x: float[G, Q, T, D], its input.
        positions: int[G, Q, T] or broadcastable.
        prefix: this layer's keys and values of the prefix, float[G, P, K, d].
        lengths: int[G, Q], tokens of each suffix; what follows them is padding.
        offsets: int[W], of them from the suffix's end: −W, …, −1; a shorter suffix has fewer.
        prefix_visible: bool[G, P], prefix tokens that they see; None for all.
        cfg: shapes.

    Returns:
        float32[G, Q, K, P + T], summed over the tokens and the query heads that share a key.
    """
    places = lengths[..., None] + offsets.reshape(1, 1, -1)
    args = (x, positions, prefix, jnp.maximum(places, 0), prefix_visible)
    rows = attention_rows(params, *args, cfg=cfg)
    there = (places >= 0)[:, :, None, :, None]
    seen = jnp.where(there, jnp.concatenate(rows, axis=-1), 0.0).sum(axis=3)
    return seen.reshape(*seen.shape[:2], cfg.num_kv_heads, -1, seen.shape[-1]).sum(axis=3)


def query_key_value(
    params: Params, x: jax.Array, positions: jax.Array, *, cfg: TextConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return one block's rotated queries and keys and its values for its input x."""
    return run(TextBlock(cfg), params, x, positions, method="query_key_value")


def key_value(params: Params, x: jax.Array, positions: jax.Array, *, cfg: TextConfig) -> KeyValue:
    """Return one block's rotated keys and its values for its input x, and nothing else of it."""
    return run(TextBlock(cfg), params, x, positions, method="key_value")


def last_token(
    params: Params,
    x: jax.Array,
    positions: jax.Array,
    prefix: KeyValue,
    lengths: jax.Array,
    prefix_visible: jax.Array | None = None,
    *,
    cfg: TextConfig,
) -> jax.Array:
    """Run the last block of all, of which only the last token of each suffix is read.

    Args:
        params: the block.
        x: float[G, Q, T, D].
        positions: int[G, Q, T] or broadcastable.
        prefix: this layer's keys and values of the prefix, float[G, P, K, d].
        lengths: int[G, Q], tokens of each suffix; what follows them is padding.
        prefix_visible: bool[G, P], prefix tokens that it sees; None for all.
        cfg: shapes.

    Returns:
        float[G, Q, 1, D].
    """
    args = (x, positions, prefix, lengths, prefix_visible)
    return run(TextBlock(cfg), params, *args, method="last_token")


def step(
    params: Params,
    x: jax.Array,
    positions: jax.Array,
    prefix: KeyValue,
    cache: KeyValue,
    slot: jax.Array,
    visible: jax.Array,
    prefix_visible: jax.Array | None = None,
    *,
    cfg: TextConfig,
) -> tuple[jax.Array, KeyValue]:
    """Run one block on the next token of each suffix.

    Args:
        params: the block.
        x: float[G, Q, 1, D].
        positions: int[G, Q, 1].
        prefix: this layer's keys and values of the prefix, float[G, P, K, d].
        cache: those of the suffixes and what follows them, float[G, Q, S, K, d]; may be donated.
        slot: int[], where in it the token's go.
        visible: bool[G, Q, 1, S], places of the cache that the token sees, its own among them.
        prefix_visible: bool[G, P], prefix tokens that it sees; None for all.
        cfg: shapes.

    Returns:
        (hidden states float[G, Q, 1, D], the cache with the token).
    """
    args = (x, positions, prefix, cache, slot, visible, prefix_visible)
    return run(TextBlock(cfg), params, *args, method="step")


def unembed(params: Params, x: jax.Array, *, cfg: TextConfig) -> jax.Array:
    """Return next-token logits float32[..., V] of hidden states float[..., D]."""
    y = run(RMSNorm(cfg.eps), params["norm"], x)
    return dense(y, params["lm_head"], dtype=jnp.float32)
