"""Shapes of a LLaVA-1.5 or LLaVA-NeXT model: CLIP vision tower, MLP projector, Llama decoder.

Sizes are read from the checkpoint's own ``config.json``; the presets state the same numbers for
models that exist without a file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """CLIP ViT.

    Attributes:
        width: hidden size Dv.
        num_layers: transformer blocks in the checkpoint.
        num_heads: attention heads.
        mlp_width: hidden size of the feed-forward network.
        image_size: side of the square picture, pixels.
        patch_size: side of a patch, pixels; N = (image_size / patch_size)².
        eps: epsilon of the layer norms.
        feature_layer: which hidden state LLaVA reads, counted from the end (−2).
    """

    width: int
    num_layers: int
    num_heads: int
    mlp_width: int
    image_size: int
    patch_size: int
    eps: float = 1e-5
    feature_layer: int = -2

    @property
    def num_tokens(self) -> int:
        """Visual tokens N of a picture, without CLS."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def feature_depth(self) -> int:
        """Blocks that run before the feature layer's hidden state exists."""
        return self.num_layers + 1 + self.feature_layer


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Llama decoder.

    Attributes:
        vocab_size: rows of the embedding V.
        width: hidden size D.
        num_layers: transformer blocks L.
        num_heads: query heads.
        num_kv_heads: key and value heads (grouped-query attention).
        head_dim: width of one head.
        mlp_width: hidden size of the gated feed-forward network.
        rope_theta: base of the rotary position embedding.
        eps: epsilon of the RMS norms.
    """

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_width: int
    rope_theta: float = 10000.0
    eps: float = 1e-5


@dataclasses.dataclass(frozen=True)
class LlavaConfig:
    """A LLaVA-1.5 model.

    Attributes:
        vision: the vision tower.
        text: the decoder.
        image_token_id: id that marks the picture in a prompt.
        real_vocab_size: ids a tokenizer can produce; rows above it only pad the matrix and are
            masked out of every softmax.
    """

    vision: VisionConfig
    text: TextConfig
    image_token_id: int = 32000
    real_vocab_size: int = 32000


GRID_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
"""LLaVA-NeXT's list (haotian-liu/LLaVA, ``image_grid_pinpoints`` of the v1.6 checkpoints)."""


@dataclasses.dataclass(frozen=True)
class LlavaNextConfig(LlavaConfig):
    """A LLaVA-NeXT (v1.6) model, which sees a picture in tiles; see ``anyres``.

    Attributes:
        grid_pinpoints: sizes in pixels that a picture is brought to before it is cut, in the
            checkpoint's order; ``anyres.Convention`` says which number is the width.
    """

    grid_pinpoints: tuple[tuple[int, int], ...] = GRID_PINPOINTS


LLAMA_PIECES = 32000
"""Pieces of the Llama tokenizer; llava-hf's 64 rows above them are <image>, <pad> and padding."""


def llava_1_5_7b() -> LlavaConfig:
    """Return the sizes of llava-hf/llava-1.5-7b-hf."""
    return LlavaConfig(
        vision=VisionConfig(1024, 24, 16, 4096, image_size=336, patch_size=14),
        text=TextConfig(32064, 4096, 32, 32, 32, 128, 11008),
    )


def llava_1_5_13b() -> LlavaConfig:
    """Return the sizes of llava-hf/llava-1.5-13b-hf."""
    return dataclasses.replace(llava_1_5_7b(), text=TextConfig(32064, 5120, 40, 40, 40, 128, 13824))


def llava_1_6_vicuna_7b() -> LlavaNextConfig:
    """Return the sizes of llava-hf/llava-v1.6-vicuna-7b-hf."""
    return LlavaNextConfig(**vars(llava_1_5_7b()))


def pocket() -> LlavaConfig:
    """Return the sizes of the embedded miniature: 576 visual tokens, about 1.5 M parameters."""
    return LlavaConfig(
        vision=VisionConfig(96, 4, 3, 288, image_size=192, patch_size=8),
        text=TextConfig(512, 128, 4, 4, 4, 32, 352, rope_theta=100000.0),
        image_token_id=3,
        real_vocab_size=512,
    )


# What Hugging Face leaves out of config.json because it is the default of its class.
VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 32,
    "layer_norm_eps": 1e-5,
    "hidden_act": "quick_gelu",
}
_LLAMA_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}
_LLAVA, _NEXT = _MODEL_TYPES = ("llava", "llava_next")
_LLAVA_REQUIRED: dict[str, Any] = {
    "projector_hidden_act": "gelu",
    "vision_feature_select_strategy": "default",
    "use_image_newline_parameter": True,
}
_MOST_TILES = 16
"""Along a side of a picture; a list of pinpoints says how much memory a picture takes."""
VISION_REQUIRED: dict[str, Any] = {"hidden_act": "quick_gelu"}
_TEXT_REQUIRED: dict[str, Any] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}


def from_hf(config: Mapping[str, Any]) -> LlavaConfig:
    """Read the sizes from the contents of a Hugging Face LLaVA ``config.json``.

    Args:
        config: the parsed JSON.

    Returns:
        The model's shapes, a ``LlavaNextConfig`` if it is one.

    Raises:
        ValueError: a field asks for something this architecture does not compute; every such
            field is named with its value and what is supported.
    """
    parts = ("vision_config", "text_config")
    if missing := [part for part in parts if not isinstance(config.get(part), Mapping)]:
        raise ValueError(f"config.json is not a LLaVA-1.5 model: it lacks {missing}")
    vision: dict[str, Any] = VISION_DEFAULTS | config["vision_config"]
    text: dict[str, Any] = _LLAMA_DEFAULTS | config["text_config"]
    _refuse_unsupported(config, vision, text)
    heads = text["num_attention_heads"]
    cfg = LlavaConfig(
        vision=vision_from_hf(vision, config.get("vision_feature_layer", -2)),
        text=TextConfig(
            vocab_size=text["vocab_size"],
            width=text["hidden_size"],
            num_layers=text["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=text.get("num_key_value_heads") or heads,
            head_dim=text.get("head_dim") or text["hidden_size"] // heads,
            mlp_width=text["intermediate_size"],
            rope_theta=_rope_theta(text),
            eps=text["rms_norm_eps"],
        ),
        image_token_id=config.get("image_token_index", config.get("image_token_id", 32000)),
        real_vocab_size=min(text["vocab_size"], LLAMA_PIECES),
    )
    if config.get("model_type") != _NEXT:
        return cfg
    return LlavaNextConfig(**vars(cfg), grid_pinpoints=tuple(map(tuple, _pinpoints(config))))


def vision_from_hf(vision: Mapping[str, Any], feature_layer: int = -2) -> VisionConfig:
    """Read CLIP's vision tower from a ``vision_config`` whose defaults are filled in."""
    return VisionConfig(
        width=vision["hidden_size"],
        num_layers=vision["num_hidden_layers"],
        num_heads=vision["num_attention_heads"],
        mlp_width=vision["intermediate_size"],
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        eps=vision["layer_norm_eps"],
        feature_layer=feature_layer,
    )


def unsupported(part: str, fields: Mapping[str, Any], required: Mapping[str, Any]) -> list[str]:
    """Describe every field that is there and is not what is required; ``part`` stands before it."""
    return [
        f"{part}{name}={fields[name]!r} (supported: {right!r})"
        for name, right in required.items()
        if fields.get(name, right) != right
    ]


def _pinpoints(config: Mapping[str, Any]) -> Any:
    """Return a LLaVA-NeXT's list of pinpoints as it stands in its ``config.json``."""
    listed = config.get("image_grid_pinpoints")
    return GRID_PINPOINTS if listed is None else listed


def _refuse_pinpoints(listed: Any, tile: int) -> list[str]:
    """Describe a list that is none of tilings, or that peers would not read alike.

    LLaVA reads (width, height), Hugging Face (height, width): of a list that holds the transpose
    of each pair, both make the same set of tilings.
    """
    sides = range(tile, (_MOST_TILES + 1) * tile, tile)
    pairs = listed if isinstance(listed, list | tuple) else [listed]
    right = all(
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(type(side) is int and side in sides for side in pair)
        for pair in pairs
    )
    if right and pairs and {tuple(pair) for pair in pairs} == {(b, a) for a, b in pairs}:
        return []
    what = f"pairs of multiples of {tile} up to {sides[-1]}, each with its transpose"
    return [f"image_grid_pinpoints={listed!r:.200} (supported in a {_NEXT}: {what})"]


def _rope_theta(text: Mapping[str, Any]) -> float:
    """Return the rotary base; transformers 5 nests it in ``rope_parameters``."""
    nested = text.get("rope_parameters") or {}
    return float(nested.get("rope_theta", text.get("rope_theta", 10000.0)))


def _refuse_unsupported(
    config: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any]
) -> None:
    """Raise ValueError that lists every field this architecture cannot follow."""
    wrong = unsupported("", config, _LLAVA_REQUIRED)
    if (family := config.get("model_type", _LLAVA)) not in _MODEL_TYPES:
        wrong.insert(0, f"model_type={family!r} (supported: {' or '.join(_MODEL_TYPES)})")
    if family == _NEXT:
        wrong += _refuse_pinpoints(_pinpoints(config), vision["image_size"])
    wrong += unsupported("vision_config.", vision, VISION_REQUIRED)
    wrong += unsupported("text_config.", text, _TEXT_REQUIRED)
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        wrong.append(f"text_config rope_type={kind!r} (supported: 'default')")
    layer, deepest = config.get("vision_feature_layer", -2), vision["num_hidden_layers"]
    if not isinstance(layer, int) or not -deepest <= layer < 0:
        wrong.append(f"vision_feature_layer={layer!r} (supported: one of -{deepest}..-1)")
    if wrong:
        name = "LLaVA-NeXT" if family == _NEXT else "LLaVA-1.5"
        raise ValueError(f"config.json is not a {name} model: {'; '.join(wrong)}")
