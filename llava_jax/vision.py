"""CLIP's vision transformer as LLaVA reads it: hidden state of layer −2 and its attention.

Axis letters: G images, N patches (1+N with CLS first), D width, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llava_jax.clip_config import ClipTextConfig
from llava_jax.config import VisionConfig
from llava_jax.layers import LayerNorm, Linear, attention, attention_row, dense, run

Params = Mapping[str, Any]


class VisionBlock(nn.Module):
    """One pre-norm transformer block: x + attention(norm x), then x + mlp(norm x).

    Attributes:
        cfg: shapes.
        causal: a token sees itself and what stands before it; CLIP's text tower is made of such
            blocks.
    """

    cfg: VisionConfig | ClipTextConfig
    causal: bool = False

    def setup(self) -> None:
        """Create the sub-modules."""
        cfg = self.cfg
        self.norm_1 = LayerNorm(cfg.eps)
        self.q = Linear(cfg.width, use_bias=True)
        self.k = Linear(cfg.width, use_bias=True)
        self.v = Linear(cfg.width, use_bias=True)
        self.out = Linear(cfg.width, use_bias=True)
        self.norm_2 = LayerNorm(cfg.eps)
        self.fc1 = Linear(cfg.mlp_width, use_bias=True)
        self.fc2 = Linear(cfg.width, use_bias=True)

    def cls_row(self, x: jax.Array) -> jax.Array:
        """Return how much CLS looks at every token, float32[G, H, 1+N]; no other row."""
        y = self.norm_1(x)
        return attention_row(self._split(self.q(y[:, :1]))[:, 0], self._split(self.k(y)))

    def single_head_cls_row(self, x: jax.Array) -> jax.Array:
        """Return the CLS row as if all heads were one, float32[G, 1+N]."""
        y = self.norm_1(x)
        return attention_row(self.q(y[:, :1]), self.k(y)[:, :, None])[:, 0]

    def keys(self, x: jax.Array) -> jax.Array:
        """Return keys float[G, 1+N, H, d]."""
        return self._split(self.k(self.norm_1(x)))

    def _split(self, x: jax.Array) -> jax.Array:
        """View the last axis as heads: float[G, S, D] to float[G, S, H, d]."""
        return x.reshape(*x.shape[:2], self.cfg.num_heads, -1)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map hidden states float[G, 1+N, D] to float[G, 1+N, D]."""
        y = self.norm_1(x)
        q, k, v = (self._split(project(y)) for project in (self.q, self.k, self.v))
        x = x + self.out(attention(q, k, v, causal=self.causal).reshape(x.shape))
        return x + self.fc2(quick_gelu(self.fc1(self.norm_2(x))))


def quick_gelu(x: jax.Array) -> jax.Array:
    """Return x · σ(1.702 x), CLIP's activation."""
    return x * jax.nn.sigmoid(1.702 * x)


def embed(params: Params, pixels: jax.Array, *, cfg: VisionConfig) -> jax.Array:
    """Cut pictures into patches and add CLS and positions.

    Args:
        params: the vision tower.
        pixels: float[G, H, W, 3], normalised.
        cfg: shapes.

    Returns:
        float[G, 1+N, D], CLS first, after the first layer norm.
    """
    g, side, _, _ = pixels.shape
    p, n = cfg.patch_size, side // cfg.patch_size
    patches = pixels.reshape(g, n, p, n, p, 3).transpose(0, 1, 3, 5, 2, 4)
    weights = params["embeddings"]
    kernel = weights["patch_embedding"]
    x = dense(
        patches.reshape(g, n * n, -1).astype(kernel.dtype),
        kernel.reshape(cfg.width, -1),
    )
    cls = jnp.broadcast_to(weights["class_embedding"].astype(x.dtype), (g, 1, cfg.width))
    x = jnp.concatenate([cls, x], axis=1)
    x = x + jnp.broadcast_to(weights["position_embedding"].astype(x.dtype), x.shape)
    return run(LayerNorm(cfg.eps), params["pre_norm"], x)


def block(params: Params, x: jax.Array, *, cfg: VisionConfig) -> jax.Array:
    """Run one block on hidden states float[G, 1+N, D]."""
    return run(VisionBlock(cfg), params, x)


def saliency(params: Params, x: jax.Array, *, cfg: VisionConfig) -> jax.Array:
    """Return how much CLS looks at each patch in one block: Σ over heads of its attention row.

    Args:
        params: the block.
        x: float[G, 1+N, D], the block's input.
        cfg: shapes.

    Returns:
        float32[G, N], without the CLS column.
    """
    return run(VisionBlock(cfg), params, x, method="cls_row").sum(axis=1)[:, 1:]


def mean_keys(params: Params, x: jax.Array, *, cfg: VisionConfig) -> jax.Array:
    """Return the block's keys averaged over heads, float[G, 1+N, d]."""
    return run(VisionBlock(cfg), params, x, method="keys").mean(axis=2)


def joined_keys(params: Params, x: jax.Array, *, cfg: VisionConfig) -> jax.Array:
    """Return the block's keys, heads side by side, float[G, 1+N, D]."""
    return run(VisionBlock(cfg), params, x, method="keys").reshape(x.shape)


def single_head_saliency(params: Params, x: jax.Array, *, cfg: VisionConfig) -> jax.Array:
    """Return how much CLS looks at each patch in a block with all heads as one, float32[G, N]."""
    return run(VisionBlock(cfg), params, x, method="single_head_cls_row")[:, 1:]
