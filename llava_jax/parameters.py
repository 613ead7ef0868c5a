"""The parameter tree of a model: one description that init, conversion and tests share."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llava_jax import text, vision
from llava_jax.clip_config import ClipConfig, ClipTextConfig
from llava_jax.config import LlavaConfig, LlavaNextConfig, TextConfig, VisionConfig
from llava_jax.layers import LayerNorm, Linear, RMSNorm


def init(key: jax.Array, cfg: LlavaConfig, dtype: Any = jnp.float32) -> dict[str, Any]:
    """Return random parameters; ``jax.eval_shape`` of it is the tree a checkpoint must fill.

    Args:
        key: random key.
        cfg: shapes.
        dtype: of every leaf.

    Returns:
        {"vision": ..., "projector": ..., "text": ...}; layers are lists. A LLaVA-NeXT also has
        "image_newline": float[D], the token that ends a row of tiles.
    """
    vision_key, projector_key, text_key = jax.random.split(key, 3)
    params: dict[str, Any] = {
        "vision": _init_vision(vision_key, cfg.vision, dtype),
        "projector": _init_projector(projector_key, cfg, dtype),
        "text": _init_text(text_key, cfg.text, dtype),
    }
    if isinstance(cfg, LlavaNextConfig):
        width, newline_key = cfg.text.width, jax.random.fold_in(key, 3)
        params["image_newline"] = width**-0.5 * jax.random.normal(newline_key, (width,), dtype)
    return params


def init_clip(key: jax.Array, cfg: ClipConfig, dtype: Any = jnp.float32) -> dict[str, Any]:
    """Return random parameters of a dual encoder, as CLIP starts its training.

    Args:
        key: random key.
        cfg: shapes.
        dtype: of every leaf.

    Returns:
        {"vision": ..., "text": ..., "visual_projection": float[P, Dv], "text_projection":
        float[P, D], "logit_scale": float[] = log(1/0.07)}; layers are lists, and "vision" is the
        tree that ``init`` makes for a LLaVA.
    """
    vision_key, text_key, *projection_keys = jax.random.split(key, 4)
    seen, read = (
        width**-0.5 * jax.random.normal(k, (cfg.projection, width), dtype)
        for k, width in zip(projection_keys, (cfg.vision.width, cfg.text.width), strict=True)
    )
    return {
        "vision": _init_vision(vision_key, cfg.vision, dtype),
        "text": _init_clip_text(text_key, cfg.text, dtype),
        "visual_projection": seen,
        "text_projection": read,
        "logit_scale": jnp.asarray(math.log(1 / 0.07), dtype),
    }


def _init_clip_text(key: jax.Array, cfg: ClipTextConfig, dtype: Any) -> dict[str, Any]:
    keys = jax.random.split(key, cfg.num_layers + 2)
    x = jnp.zeros((1, 2, cfg.width), dtype)
    block = vision.VisionBlock(cfg, causal=True)
    tokens, positions = (cfg.vocab_size, cfg.width), (cfg.num_positions, cfg.width)
    return {
        "embeddings": {
            "token_embedding": 0.02 * jax.random.normal(keys[0], tokens, dtype),
            "position_embedding": 0.01 * jax.random.normal(keys[1], positions, dtype),
        },
        "layers": _init_layers(block, keys[2:], x),
        "final_norm": LayerNorm(cfg.eps).init(key, x)["params"],
    }


def _init_vision(key: jax.Array, cfg: VisionConfig, dtype: Any) -> dict[str, Any]:
    keys = jax.random.split(key, cfg.num_layers + 3)
    shape = (cfg.width, 3, cfg.patch_size, cfg.patch_size)
    x = jnp.zeros((1, 2, cfg.width), dtype)
    norm = LayerNorm(cfg.eps)
    scale, positions = cfg.width**-0.5, (1 + cfg.num_tokens, cfg.width)
    return {
        "embeddings": {
            "class_embedding": scale * jax.random.normal(keys[0], (cfg.width,), dtype),
            "patch_embedding": 0.02 * jax.random.normal(keys[1], shape, dtype),
            "position_embedding": scale * jax.random.normal(keys[2], positions, dtype),
        },
        "pre_norm": norm.init(key, x)["params"],
        "layers": _init_layers(vision.VisionBlock(cfg), keys[3:], x),
        "post_norm": norm.init(key, x)["params"],
    }


def _init_layers(block: nn.Module, keys: jax.Array, *inputs: Any) -> list[dict[str, Any]]:
    """Return the parameters of equal blocks; their initialiser is traced once."""
    init = jax.jit(block.init)
    return [init(key, *inputs)["params"] for key in keys]


def _init_projector(key: jax.Array, cfg: LlavaConfig, dtype: Any) -> dict[str, Any]:
    first, second = jax.random.split(key)
    linear = Linear(cfg.text.width, use_bias=True)
    return {
        "linear_1": linear.init(first, jnp.zeros((1, cfg.vision.width), dtype))["params"],
        "linear_2": linear.init(second, jnp.zeros((1, cfg.text.width), dtype))["params"],
    }


def _init_text(key: jax.Array, cfg: TextConfig, dtype: Any) -> dict[str, Any]:
    keys = jax.random.split(key, cfg.num_layers + 2)
    x, positions = (
        jnp.zeros((1, 1, 1, cfg.width), dtype),
        jnp.zeros((1, 1, 1), jnp.int32),
    )
    prefix = text.empty_prefix(1, x.dtype, cfg=cfg)
    block, scale = text.TextBlock(cfg), cfg.width**-0.5
    return {
        "embed_tokens": 0.02 * jax.random.normal(keys[0], (cfg.vocab_size, cfg.width), dtype),
        "layers": _init_layers(block, keys[2:], x, positions, prefix),
        "norm": RMSNorm(cfg.eps).init(key, x)["params"],
        "lm_head": scale * jax.random.normal(keys[1], (cfg.vocab_size, cfg.width), dtype),
    }
