"""LLaVA-1.5 and LLaVA-NeXT as pure functions: from pixels to visual tokens, and the whole model.

    pixels[G, H, W, 3] ─ encode ─► VisionOutputs ─ (prune, project) ─► image[G, K, D] ─ decoding ─►

Parameters are a plain nested dict whose layers are a list.

Axis letters: G images, Q questions, N visual tokens, K kept, S prompt text before the picture,
T suffix, D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from llava_jax import decoding, vision
from llava_jax.config import LlavaConfig, LlavaNextConfig, VisionConfig
from llava_jax.layers import dense
from llava_jax.stage import Array, Params, Stage, inline, without_layers


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VisionOutputs:
    """What the vision tower says of a batch of pictures; fields not asked for are None.

    Attributes:
        features: float[G, N, Dv], hidden state of layer −2 without CLS, before the projector.
        embeddings: float[G, N, D], the same after the projector.
        hidden: float[G, 1+N, Dv], layer −2 with CLS first.
        keys: float[G, 1+N, d], that layer's keys, mean over heads.
        saliency: float32[G, N], that layer's CLS attention row, sum over heads.
        saliency_by_layer: float32[G, n, N], the same for each layer named in the call.
        last_keys: float[G, 1+N, Dv], keys of the layer after it, heads side by side.
        last_saliency: float32[G, N], CLS attention row of that layer with all heads as one.
    """

    features: jax.Array | None = None
    embeddings: jax.Array | None = None
    hidden: jax.Array | None = None
    keys: jax.Array | None = None
    saliency: jax.Array | None = None
    saliency_by_layer: jax.Array | None = None
    last_keys: jax.Array | None = None
    last_saliency: jax.Array | None = None

    def require(self, name: str) -> jax.Array:
        """Return an output that was asked for.

        Raises:
            ValueError: it was not.
        """
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"{name} was not among the outputs asked of encode")
        return value


VISION_OUTPUTS = tuple(field.name for field in dataclasses.fields(VisionOutputs))


def encode(
    params: Params,
    pixels: Array,
    *,
    cfg: LlavaConfig,
    outputs: Sequence[str] = ("features",),
    saliency_layers: Sequence[int] = (),
    stage: Stage = inline,
) -> VisionOutputs:
    """Run the vision tower up to layer −2 and return the named outputs.

    Args:
        params: the model.
        pixels: float[G, H, W, 3], normalised.
        cfg: shapes.
        outputs: names out of ``VISION_OUTPUTS``; only these are computed.
        saliency_layers: 0-based blocks for ``saliency_by_layer``.
        stage: how a stage is run.

    Returns:
        The outputs; LLaVA's features are ``hidden`` without its CLS row.

    Raises:
        ValueError: a name or a layer does not exist.
    """
    depth = cfg.vision.feature_depth
    if unknown := [name for name in outputs if name not in VISION_OUTPUTS]:
        raise ValueError(f"unknown vision output {unknown}; known: {list(VISION_OUTPUTS)}")
    if wrong := [layer for layer in saliency_layers if not 0 <= layer < depth]:
        raise ValueError(f"saliency layer {wrong} is outside 0..{depth - 1}")
    tower = params["vision"]
    x = stage(vision.embed)(without_layers(tower), pixels, cfg=cfg.vision)
    rows, found = {}, {}
    for index, layer in enumerate(tower["layers"][:depth]):
        if index in saliency_layers:
            rows[index] = stage(vision.saliency)(layer, x, cfg=cfg.vision)
        if index == depth - 1:
            found = _probe(_PROBES, layer, x, cfg=cfg.vision, outputs=outputs, stage=stage)
        x = stage(vision.block)(layer, x, cfg=cfg.vision)
    if after := tower["layers"][depth:]:
        found |= _probe(_PROBES_AFTER, after[0], x, cfg=cfg.vision, outputs=outputs, stage=stage)
    if "saliency_by_layer" in outputs:
        found["saliency_by_layer"] = stage(_stack)([rows[i] for i in saliency_layers])
    if "hidden" in outputs:
        found["hidden"] = x
    if "features" in outputs:
        found["features"] = stage(_patches)(x)
    if "embeddings" in outputs:
        found["embeddings"] = stage(project)(params["projector"], stage(_patches)(x))
    return VisionOutputs(**found)


_PROBES = {"saliency": vision.saliency, "keys": vision.mean_keys}
_PROBES_AFTER = {"last_saliency": vision.single_head_saliency, "last_keys": vision.joined_keys}


def _probe(
    probes: Mapping[str, Callable[..., jax.Array]],
    layer: Params,
    x: jax.Array,
    *,
    cfg: VisionConfig,
    outputs: Sequence[str],
    stage: Stage,
) -> dict[str, jax.Array]:
    """Return the attention outputs of one block for its input x."""
    return {name: stage(f)(layer, x, cfg=cfg) for name, f in probes.items() if name in outputs}


def _patches(hidden: jax.Array) -> jax.Array:
    return hidden[:, 1:]


def _stack(rows: list[jax.Array]) -> jax.Array:
    return jnp.stack(rows, axis=1)


def project(params: Params, features: jax.Array) -> jax.Array:
    """Map vision features float[..., Dv] to decoder inputs float[..., D] (MLP, exact GELU)."""
    first, second = params["linear_1"], params["linear_2"]
    x = jax.nn.gelu(dense(features, first["weight"], first["bias"]), approximate=False)
    return dense(x, second["weight"], second["bias"])


def pick(features: jax.Array, kept: jax.Array) -> jax.Array:
    """Gather the kept tokens.

    Args:
        features: float[G, N, D].
        kept: int[G, K], or int[G, Q, K] where each question keeps its own.

    Returns:
        float[G, K, D], or float[G · Q, K, D].
    """
    (g, n, width), k = features.shape, kept.shape[-1]
    rows = features[:, None].reshape(g, 1, n, width)
    found = jnp.take_along_axis(rows, kept.reshape(g, -1, k, 1), axis=2)
    return found.reshape(-1, k, width)


def project_kept(
    params: Params, features: jax.Array, kept: jax.Array, newline: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Project the kept tokens only.

    Args:
        params: the projector.
        features: float[G, N, Dv].
        kept: int[G, K] or int[G, Q, K], in the order to hand over.
        newline: float[D] of a LLaVA-NeXT; stands wherever ``kept`` is N.

    Returns:
        (float[B, K, D], int32[B, K] their places when renumbered, 0..K−1), B = G or G · Q.
    """
    n, k = features.shape[1], kept.shape[-1]
    tokens = kept if newline is None else jnp.minimum(kept, n - 1)
    image = project(params, pick(features, tokens))
    if newline is not None:
        ends = (kept == n).reshape(-1, k, 1)
        image = jnp.where(ends, newline.astype(image.dtype).reshape(1, 1, -1), image)
    return image, jnp.broadcast_to(jnp.arange(k, dtype=jnp.int32), image.shape[:2])


def apply(
    params: Params,
    pixels: Array,
    prompt_ids: Array,
    suffix_ids: Array,
    lengths: Array,
    *,
    cfg: LlavaConfig,
    keep: jax.Array | None = None,
) -> jax.Array:
    """Answer questions about pictures, from pixels to logits, as one pure function.

    Args:
        params: the model.
        pixels: float[G, H, W, 3], normalised; of a LLaVA-NeXT float[G, T, H, W, 3], T tiles each.
        prompt_ids: int[S], text before the picture.
        suffix_ids: int[G, Q, T], text after it, padded on the right.
        lengths: int[G, Q].
        cfg: shapes; static under ``jax.jit``.
        keep: int[G, K], visual tokens to keep, in the order to hand over; all by default. The
            tokens of a picture's tiles are counted through, and ``assembly`` orders them.

    Returns:
        float32[G, Q, V], logits of the first answer token.

    Raises:
        ValueError: tiles without ``keep``: which of their tokens show the picture is not known.
    """
    if isinstance(cfg, LlavaNextConfig) and keep is None:
        raise ValueError("keep=None for a LLaVA-NeXT; assembly.sequence(layout) says what it reads")
    tiles = pixels.reshape(-1, *pixels.shape[-3:])
    features = encode(params, tiles, cfg=cfg, outputs=("features",)).require("features")
    features = features.reshape(pixels.shape[0], -1, features.shape[-1])
    if keep is None:
        keep = jnp.broadcast_to(jnp.arange(features.shape[1]), features.shape[:2])
    newline = params.get("image_newline")
    image, places = project_kept(params["projector"], features, keep, newline)
    before = decoding.begin(params, prompt_ids, cfg=cfg)
    prefix = decoding.prefill(params, before, image, places, image.shape[1], cfg=cfg)
    return decoding.answer(params, prefix, suffix_ids, lengths, cfg=cfg)
