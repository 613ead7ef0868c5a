"""The pieces both towers are made of: linear maps, norms, rotary positions, attention.

Axis letters, here and in the modules that build on this one: G images, Q questions, N visual
tokens, P prefix, T suffix, L layers, D width, H heads, K key-value heads, V vocabulary.
Weights are stored as Hugging Face stores them, [out, in], so that a checkpoint is mapped and
never transposed. Matrix products accumulate in float32, and those of float32 are exact products:
accelerators would round the factors to fewer bits by themselves. Norms and softmax run in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llava_jax.quantize import Quantized


def dense(
    x: jax.Array,
    weight: jax.Array | Quantized,
    bias: jax.Array | None = None,
    *,
    dtype: jnp.dtype | None = None,
) -> jax.Array:
    """Apply y = x Wᵀ + b with float32 accumulation.

    A single row is computed twice: XLA's one-row half-precision product on CPU is some twenty
    times slower than its two-row product.

    Args:
        x: float[..., I].
        weight: float[O, I], or integers that stand for it.
        bias: float[O] or None.
        dtype: of the result; x's by default.

    Returns:
        float[..., O].
    """
    rows = x.reshape(-1, x.shape[-1])
    num_rows = rows.shape[0]
    rows = jnp.concatenate([rows, rows]) if num_rows == 1 else rows
    dims = (((1,), (1,)), ((), ()))
    matrix, scale = weight.factors(x.dtype) if isinstance(weight, Quantized) else (weight, None)
    y = jax.lax.dot_general(rows, matrix, dims, **exact(x))[:num_rows]
    if scale is not None:
        y = y * _like(scale, y)
    if bias is not None:
        y = y + _like(bias, y)
    return y.astype(dtype or x.dtype).reshape(*x.shape[:-1], weight.shape[0])


def exact(x: jax.Array) -> dict[str, Any]:
    """Return the keywords of a product with x: accumulate in float32, do not round float32."""
    highest = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return {"preferred_element_type": jnp.float32, "precision": highest}


def run(module: nn.Module, params: Mapping[str, Any], *args: Any, method: str | None = None) -> Any:
    """Apply a linen module to its own parameters."""
    return module.apply({"params": params}, *args, method=method)


class Linear(nn.Module):
    """y = x Wᵀ (+ b), weight [out, in]."""

    features: int
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map float[..., I] to float[..., features]."""
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=1, out_axis=0)
        weight = self.param("weight", init, (self.features, x.shape[-1]), x.dtype)
        zeros = nn.initializers.zeros
        bias = self.param("bias", zeros, (self.features,), x.dtype) if self.use_bias else None
        return dense(x, weight, bias)


class LayerNorm(nn.Module):
    """y = (x − mean) / √(var + ε) · w + b, in float32."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise float[..., D] over its last axis."""
        weight = self.param("weight", nn.initializers.ones, (x.shape[-1],), x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), x.dtype)
        x32 = x.astype(jnp.float32)
        centred = x32 - x32.mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.eps)
        return (y * _like(weight, y) + _like(bias, y)).astype(x.dtype)


class RMSNorm(nn.Module):
    """y = x / √(mean(x²) + ε) · w, in float32."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise float[..., D] over its last axis."""
        weight = self.param("weight", nn.initializers.ones, (x.shape[-1],), x.dtype)
        x32 = x.astype(jnp.float32)
        y = x32 * jax.lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + self.eps)
        return (y * _like(weight, y)).astype(x.dtype)


def _like(vector: jax.Array, x: jax.Array) -> jax.Array:
    """Broadcast a [D] parameter to x's shape in float32."""
    return jnp.broadcast_to(vector.astype(jnp.float32), x.shape)


def rope(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
    """Rotate queries or keys by their positions (RoPE, half-split layout of Llama).

    (x₁, x₂) → (x₁ cos φ − x₂ sin φ, x₂ cos φ + x₁ sin φ),  φ = position · θ^(−2i/d).

    Args:
        x: float[..., T, H, d].
        positions: int[..., T], broadcastable against x's leading axes.
        theta: base θ.

    Returns:
        float[..., T, H, d] in x's dtype.
    """
    half = x.shape[-1] // 2
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[..., None, None].astype(jnp.float32) * _expand(frequency, positions.ndim + 2)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x1, x2 = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).astype(x.dtype)


def _expand(vector: jax.Array, ndim: int) -> jax.Array:
    """View a [D] vector as [1, ..., 1, D] with ndim axes."""
    return vector.reshape((1,) * (ndim - 1) + vector.shape)


def attention(
    query: jax.Array, keys: jax.Array, values: jax.Array, *, causal: bool = False
) -> jax.Array:
    """Return softmax(q kᵀ / √d) v.

    ``jax.nn.dot_product_attention`` asks XLA for a float16 product that the CPU does not have.

    Args:
        query: float[G, S, H, d].
        keys: float[G, S, H, d].
        values: float[G, S, H, d].
        causal: a token sees itself and what stands before it; otherwise every token.

    Returns:
        float[G, S, H, d] in query's dtype.
    """
    product = functools.partial(jnp.einsum, **exact(query))
    scores = product("gqhd,gkhd->ghqk", query, keys) * query.shape[-1] ** -0.5
    if causal:
        before = jnp.tril(jnp.ones(scores.shape[-2:], bool)).reshape(1, 1, *scores.shape[-2:])
        scores = jnp.where(before, scores, jnp.finfo(jnp.float32).min)
    (weights,), total = _exponentials(scores)
    out = product("ghqk,gkhd->ghqd", weights.astype(query.dtype), values) / total
    return out.astype(query.dtype).transpose(0, 2, 1, 3)


def _exponentials(*segments: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    """Return exp(x − m) of every segment x and their sum over the last axes, m the largest of all.

    The softmax of segments side by side, without a copy of them; the division by the sum is left
    for the product with the values, which is smaller.
    """
    largest = [x.max(-1, keepdims=True, initial=-jnp.inf) for x in segments]
    top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, largest))
    found = [jnp.exp(x - top) for x in segments]
    return found, functools.reduce(jnp.add, [x.sum(-1, keepdims=True) for x in found])


def attention_row(query: jax.Array, keys: jax.Array) -> jax.Array:
    """Return one row of an attention matrix: softmax(q kᵀ / √d).

    Args:
        query: float[G, H, d], one query per head.
        keys: float[G, S, H, d].

    Returns:
        float32[G, H, S]; sums to one over S.
    """
    scores = jnp.einsum("ghd,gshd->ghs", query, keys, **exact(query))
    return jax.nn.softmax(scores * query.shape[-1] ** -0.5, axis=-1)


def prefix_attention(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    prefix_keys: jax.Array,
    prefix_values: jax.Array,
    visible: jax.Array | None = None,
    prefix_visible: jax.Array | None = None,
) -> jax.Array:
    """Attend to a shared prefix and to the own suffix under one softmax.

    softmax([q·Kprefix, q·Ksuffix]) over both segments; the prefix is never copied per question.
    An empty prefix (P = 0) makes this plain attention.

    Args:
        query: float[G, Q, U, H, d], of all T suffix tokens or of some.
        keys: float[G, Q, T, K, d] of the suffix, H a multiple of K (grouped queries).
        values: float[G, Q, T, K, d] of the suffix.
        prefix_keys: float[G, P, K, d], one prefix per image.
        prefix_values: float[G, P, K, d].
        visible: bool[G, Q, U, T] or broadcastable, suffix tokens that each query sees; None for
            causal attention (U = T): itself and what stands before it.
        prefix_visible: bool[G, P], prefix tokens that every query sees; None for all.

    Returns:
        float[G, Q, U, H, d] in query's dtype.
    """
    before, own, total = _prefix_weights(query, keys, prefix_keys, visible, prefix_visible)
    product = functools.partial(jnp.einsum, **exact(query))
    out = product("gkqtrp,gpkd->gkqtrd", before.astype(query.dtype), prefix_values)
    out += product("gkqtrs,gqskd->gkqtrd", own.astype(query.dtype), values)
    return (out / total).astype(query.dtype).transpose(0, 2, 3, 1, 4, 5).reshape(query.shape)


def prefix_attention_rows(
    query: jax.Array,
    keys: jax.Array,
    prefix_keys: jax.Array,
    visible: jax.Array,
    prefix_visible: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return rows of the attention matrix that ``prefix_attention`` never forms.

    Args:
        query: float[G, Q, U, H, d], of some suffix tokens.
        keys: float[G, Q, T, K, d] of the suffix.
        prefix_keys: float[G, P, K, d].
        visible: bool[G, Q, U, T] or broadcastable, suffix tokens that each query sees.
        prefix_visible: bool[G, P], prefix tokens that every query sees; None for all.

    Returns:
        (float32[G, Q, H, U, P], float32[G, Q, H, U, T]); together they sum to one.
    """
    before, own, total = _prefix_weights(query, keys, prefix_keys, visible, prefix_visible)
    g, q, u, heads, _ = query.shape

    def rows(weights: jax.Array) -> jax.Array:
        return (weights / total).transpose(0, 2, 1, 4, 3, 5).reshape(g, q, heads, u, -1)

    return rows(before), rows(own)


def _prefix_weights(
    query: jax.Array,
    keys: jax.Array,
    prefix_keys: jax.Array,
    visible: jax.Array | None,
    prefix_visible: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the exponentials of ``prefix_attention`` and their sum, float32[G, K, Q, U, r, ·]."""
    g, q, u, _, width = query.shape
    product = functools.partial(jnp.einsum, **exact(query))
    grouped = query.reshape(g, q, u, keys.shape[-2], -1, width)
    before = product("gqtkrd,gpkd->gkqtrp", grouped, prefix_keys) * width**-0.5
    own = product("gqtkrd,gqskd->gkqtrs", grouped, keys) * width**-0.5
    if visible is None:
        visible = jnp.tril(jnp.ones((u, u), bool)).reshape(1, 1, u, u)
    least = jnp.finfo(jnp.float32).min
    own = jnp.where(visible[:, None, :, :, None], own, least)
    if prefix_visible is not None:
        before = jnp.where(prefix_visible[:, None, None, None, None, :], before, least)
    (before, own), total = _exponentials(before, own)
    return before, own, total
