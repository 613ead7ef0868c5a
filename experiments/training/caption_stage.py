"""A text tower learns to find the picture that a caption belongs to (Radford et al. 2021).

The vision tower is at rest up to layer −2, which LLaVA reads; its last block and norm, which
LLaVA does not use, learn along with the text tower and the two projections.

Axis letters: G pictures and as many captions, N visual tokens, T tokens of a caption.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import scenes
from experiments.training import captions
from experiments.training.pictures import Pool
from experiments.training.vision_stage import auc
from llava_jax import clip_text, parameters, vision
from llava_jax.clip_config import ClipConfig, pocket_clip

Params = dict[str, Any]

_LARGEST_SCALE = np.log(100.0)  # of the logits, as in CLIP


def config() -> ClipConfig:
    """Return the sizes of the miniature dual encoder."""
    vocabulary = captions.tokenizer().get_vocab()
    return pocket_clip(len(vocabulary), vocabulary[captions.END])


def start(tower: Params, cfg: ClipConfig, seed: int) -> Params:
    """Return a dual encoder around a trained vision tower."""
    return parameters.init_clip(jax.random.key(seed + 2), cfg) | {"vision": tower}


def split(params: Params, cfg: ClipConfig) -> tuple[Params, Params]:
    """Return (what stays at rest, what learns) of a dual encoder."""
    depth, tower = cfg.vision.feature_depth, params["vision"]
    learning = {"layers": tower["layers"][depth:], "post_norm": tower["post_norm"]}
    resting = {
        "embeddings": tower["embeddings"],
        "pre_norm": tower["pre_norm"],
        "layers": tower["layers"][:depth],
    }
    return resting, params | {"vision": learning}


def join(resting: Params, learnt: Params) -> Params:
    """Return the dual encoder from the two parts of ``split``."""
    layers = [*resting["layers"], *learnt["vision"]["layers"]]
    return learnt | {"vision": resting | learnt["vision"] | {"layers": layers}}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pictures and a caption of each.

    Attributes:
        hidden: float[G, 1 + N, Dv], layer −2, CLS first.
        ids: int32[G, T].
    """

    hidden: jax.Array
    ids: jax.Array


def pairs(source: Pool, hidden: np.ndarray, size: int, rng: np.random.Generator) -> Pairs:
    """Draw pictures and a caption for each."""
    picked = np.sort(rng.choice(len(source), size, replace=False))
    texts = [captions.caption(source.world, source.start + int(i), rng) for i in picked]
    return Pairs(jnp.asarray(hidden[picked]), jnp.asarray(captions.token_ids(texts)))


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def embed_images(params: Params, hidden: jax.Array, *, cfg: ClipConfig) -> jax.Array:
    """Embed pictures by CLS after the last block; unit length, float[G, P].

    Args:
        params: a dual encoder, whole or the part of it that learns.
        hidden: float[G, 1 + N, Dv], layer −2.
        cfg: shapes.
    """
    x, left = hidden.astype(jnp.float32), cfg.vision.num_layers - cfg.vision.feature_depth
    for layer in params["vision"]["layers"][-left:]:
        x = vision.block(layer, x, cfg=cfg.vision)
    return _unit(clip_text.embed_visual(params, x[:, 0], cfg=cfg))


def embed_texts(params: Params, ids: jax.Array, *, cfg: ClipConfig) -> jax.Array:
    """Embed captions; unit length, float[E, P]."""
    return _unit(clip_text.embed_text(params, ids, cfg=cfg))


def loss(params: Params, batch: Pairs, *, cfg: ClipConfig) -> tuple[jax.Array, jax.Array]:
    """Return CLIP's symmetric cross-entropy and how often the right picture is nearest.

    L = ½ (CE(s I Tᵀ, diagonal) + CE(s T Iᵀ, diagonal)),  s = exp(logit scale).
    """
    seen, read = (
        embed_images(params, batch.hidden, cfg=cfg),
        embed_texts(params, batch.ids, cfg=cfg),
    )
    scale = jnp.exp(jnp.minimum(params["logit_scale"], _LARGEST_SCALE))
    logits = scale * jnp.einsum("gp,ep->ge", seen, read)
    own = jnp.arange(logits.shape[0])
    entropy = optax.softmax_cross_entropy_with_integer_labels
    total = (entropy(logits, own) + entropy(logits.T, own)).mean() / 2
    return total, (logits.T.argmax(-1) == own).mean()


@functools.partial(jax.jit, static_argnames="cfg")
def _probe(
    params: Params, hidden: jax.Array, texts: jax.Array, *, cfg: ClipConfig
) -> tuple[jax.Array, jax.Array]:
    """Return cosines of texts [E, P] with pictures [G, E] and with their patches [G, N, E]."""
    patches = _unit(clip_text.embed_visual(params, hidden[:, 1:].astype(jnp.float32), cfg=cfg))
    seen = embed_images(params, hidden, cfg=cfg)
    return jnp.einsum("gp,ep->ge", seen, texts), jnp.einsum("gnp,ep->gne", patches, texts)


def evaluate(params: Params, source: Pool, hidden: np.ndarray, cfg: ClipConfig) -> dict[str, float]:
    """Measure the dual encoder on held-out pictures by the text "a photo of a …".

    Returns:
        zero_shot_auc: of cosines with the picture, for whether the category is in it.
        patch_auc: of cosines with the patches, for whether a patch shows the category, mean
            over the categories that are in the picture; below one half, texts point away
            from what they name, as in CLIP itself.
    """
    names = captions.token_ids([captions.photo_of(name) for name in scenes.NAMES])
    texts = embed_texts(params, jnp.asarray(names), cfg=cfg)
    whole, found = [], []
    for begin in range(0, len(source), 16):
        part = slice(begin, begin + 16)
        images, patches = _probe(params, jnp.asarray(hidden[part]), texts, cfg=cfg)
        whole.append(np.asarray(images))
        for labels, scores in zip(source.categories[part], np.asarray(patches), strict=True):
            flat = labels.ravel()
            found += [auc(scores[:, c], flat == c) for c in np.unique(flat[flat >= 0])]
    shown = np.stack([np.isin(np.arange(len(scenes.NAMES)), row) for row in source.categories])
    return {
        "zero_shot_auc": auc(np.concatenate(whole).ravel(), shown.ravel()),
        "patch_auc": float(np.mean(found)),
    }
