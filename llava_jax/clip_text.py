"""CLIP's text tower, and the space it shares with the vision tower, as pure functions.

    ids[E, T] ─ embed_text ─► [E, P]          hidden[..., Dv] ─ embed_visual ─► [..., P]

Nothing here is normalised to unit length: a cosine is the caller's. Axis letters: E texts,
T tokens, D width of the text tower, Dv of the vision tower, P of the shared space.

Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from llava_jax.clip_config import ClipConfig, ClipTextConfig
from llava_jax.layers import LayerNorm, dense, run
from llava_jax.vision import VisionBlock

Params = Mapping[str, Any]


def embed_text(params: Params, ids: jax.Array, *, cfg: ClipConfig) -> jax.Array:
    """Embed texts in the shared space: W · norm(x_end), x the last block's hidden states.

    The end is the first end-of-text token (see ``ClipTextConfig.eos_id``). Attention is causal,
    so what stands after it, padding of any id, plays no part; with ``eos_id=None`` padding must
    not be larger than the end-of-text token. A text without its end is read at its first token.

    Args:
        params: the dual encoder, of which only "text" and "text_projection" are read.
        ids: int[E, T], begin- and end-of-text tokens included, padded on the right.
        cfg: shapes.

    Returns:
        float[E, P], not of unit length.

    Raises:
        ValueError: the texts are longer than the tower's positions.
    """
    if ids.shape[1] > cfg.text.num_positions:
        raise ValueError(
            f"texts of {ids.shape[1]} tokens; the text tower has {cfg.text.num_positions} positions"
        )
    tower = params["text"]
    x = embed(tower, ids)
    for layer in tower["layers"]:
        x = block(layer, x, cfg=cfg.text)
    end = jnp.take_along_axis(x, _end(ids, cfg.text.eos_id)[:, None, None], axis=1)[:, 0]
    return dense(run(LayerNorm(cfg.text.eps), tower["final_norm"], end), params["text_projection"])


def embed(params: Params, ids: jax.Array) -> jax.Array:
    """Look up token ids int[E, T] and add positions; float[E, T, D]."""
    weights = params["embeddings"]
    x = jnp.take(weights["token_embedding"], ids, axis=0)
    return x + jnp.broadcast_to(weights["position_embedding"][: ids.shape[1]], x.shape)


def block(params: Params, x: jax.Array, *, cfg: ClipTextConfig) -> jax.Array:
    """Run one causal block on hidden states float[E, T, D]."""
    return run(VisionBlock(cfg, causal=True), params, x)


def _end(ids: jax.Array, eos_id: int | None) -> jax.Array:
    """Return the place of each text's end, int[E]."""
    return jnp.argmax(ids if eos_id is None else ids == eos_id, axis=1)


def embed_visual(params: Params, hidden: jax.Array, *, cfg: ClipConfig) -> jax.Array:
    """Embed hidden states of the vision tower in the shared space: W · norm(h).

    Of the last block's CLS this is CLIP's embedding of the picture; of the patches of layer −2
    it is what CDPruner compares with the question.

    Args:
        params: the dual encoder, of which only "vision"/"post_norm" and "visual_projection" are
            read.
        hidden: float[..., Dv].
        cfg: shapes.

    Returns:
        float[..., P], not of unit length.
    """
    normed = run(LayerNorm(cfg.vision.eps), params["vision"]["post_norm"], hidden)
    return dense(normed, params["visual_projection"])
