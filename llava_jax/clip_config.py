"""Shapes of a CLIP dual encoder: LLaVA's vision tower, a text tower, a space both project into."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from llava_jax import config
from llava_jax.config import VisionConfig


@dataclasses.dataclass(frozen=True)
class ClipTextConfig:
    """CLIP's text tower.

    Attributes:
        vocab_size: rows of the token embedding.
        width: hidden size D.
        num_layers: transformer blocks.
        num_heads: attention heads.
        mlp_width: hidden size of the feed-forward network.
        num_positions: longest text, tokens.
        eos_id: id of the end-of-text token, where a text is read off; None: the largest id of the
            text is its end, the rule of OpenAI's code and of its files on the hub.
        eps: epsilon of the layer norms.
    """

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    mlp_width: int
    num_positions: int
    eos_id: int | None
    eps: float = 1e-5


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """A CLIP model.

    Attributes:
        vision: the vision tower; its ``feature_layer`` is LLaVA's and plays no part in CLIP.
        text: the text tower.
        projection: width P of the shared space.
    """

    vision: VisionConfig
    text: ClipTextConfig
    projection: int


def pocket_clip(vocab_size: int, eos_id: int | None) -> ClipConfig:
    """Return the sizes of the miniature dual encoder: the pocket's vision tower, read by text.

    Args:
        vocab_size: of its tokenizer.
        eos_id: id of the tokenizer's end-of-text token, not 2 (see ``clip_to_hf``); None if it is
            the largest.
    """
    text = ClipTextConfig(vocab_size, 96, 2, 3, 192, num_positions=77, eos_id=eos_id)
    return ClipConfig(config.pocket().vision, text, projection=64)


_LARGEST_ID = 2
"""An ``eos_token_id`` that means: the largest id ends a text. transformers keeps it so for the
files written before its pull request 24773, which say 2 whatever the tokenizer."""

# What Hugging Face leaves out of config.json because it is the default of its class.
_DEFAULTS: dict[str, Any] = {
    "vision_config": config.VISION_DEFAULTS | {"num_channels": 3},
    "text_config": {
        "vocab_size": 49408,
        "hidden_size": 512,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "intermediate_size": 2048,
        "max_position_embeddings": 77,
        "layer_norm_eps": 1e-5,
        "hidden_act": "quick_gelu",
        "eos_token_id": 49407,
    },
}
_REQUIRED: dict[str, Any] = {"model_type": "clip"}
_VISION_REQUIRED: dict[str, Any] = config.VISION_REQUIRED | {"num_channels": 3}
_TEXT_REQUIRED: dict[str, Any] = {"hidden_act": "quick_gelu"}


def clip_from_hf(content: Mapping[str, Any]) -> ClipConfig:
    """Read the sizes from the contents of a Hugging Face CLIP ``config.json``.

    Args:
        content: the parsed JSON of a ``CLIPModel``.

    Returns:
        The model's shapes.

    Raises:
        ValueError: a field asks for something this architecture does not compute; every such
            field is named with its value and what is supported.
    """
    if missing := [part for part in _DEFAULTS if not isinstance(_given(content, part), Mapping)]:
        raise ValueError(f"config.json is not a CLIP model: it lacks {missing}")
    vision, text = (default | _given(content, part) for part, default in _DEFAULTS.items())
    _refuse_unsupported(content, vision, text)
    eos = text["eos_token_id"]
    return ClipConfig(
        vision=config.vision_from_hf(vision),
        text=ClipTextConfig(
            vocab_size=text["vocab_size"],
            width=text["hidden_size"],
            num_layers=text["num_hidden_layers"],
            num_heads=text["num_attention_heads"],
            mlp_width=text["intermediate_size"],
            num_positions=text["max_position_embeddings"],
            eos_id=None if eos == _LARGEST_ID else eos,
            eps=text["layer_norm_eps"],
        ),
        projection=content.get("projection_dim", 512),
    )


def _given(content: Mapping[str, Any], part: str) -> Any:
    """Return one tower's fields; the ``_dict`` that old files carry replaces what stands beside."""
    old = content.get(f"{part}_dict")
    return content.get(part) if old is None else old


def _refuse_unsupported(
    content: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any]
) -> None:
    """Raise ValueError that lists every field this architecture cannot follow."""
    wrong = config.unsupported("", content, _REQUIRED)
    wrong += config.unsupported("vision_config.", vision, _VISION_REQUIRED)
    wrong += config.unsupported("text_config.", text, _TEXT_REQUIRED)
    wrong += [
        f"vision_config.{name}={vision[name]!r} (supported: one number)"
        for name in ("image_size", "patch_size")
        if not isinstance(vision[name], int)
    ]
    eos, last = text["eos_token_id"], text["vocab_size"] - 1
    if not isinstance(eos, int) or (eos != _LARGEST_ID and not 0 <= eos <= last):
        known = f"an id, 0..{last}, or {_LARGEST_ID} for the largest id of a text"
        wrong.append(f"text_config.eos_token_id={eos!r} (supported: {known})")
    if wrong:
        raise ValueError("config.json is not a CLIP model: " + "; ".join(wrong))


def clip_to_hf(cfg: ClipConfig) -> dict[str, Any]:
    """Return the ``config.json`` of a ``CLIPModel`` of these shapes; ``clip_from_hf`` reads it.

    Raises:
        ValueError: the end-of-text token has id 2, which in such a file means something else.
    """
    seen, text = cfg.vision, cfg.text
    if text.eos_id == _LARGEST_ID:
        raise ValueError(
            f"eos_id={text.eos_id} cannot be written: transformers reads that id as the rule that "
            "the largest id ends a text; give the end-of-text token another id"
        )
    eos = _LARGEST_ID if text.eos_id is None else text.eos_id
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": cfg.projection,
        "vision_config": {
            "model_type": "clip_vision_model",
            "projection_dim": cfg.projection,
            "image_size": seen.image_size,
            "patch_size": seen.patch_size,
            **_tower(seen),
        },
        "text_config": {
            "model_type": "clip_text_model",
            "projection_dim": cfg.projection,
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.num_positions,
            "bos_token_id": None,
            "eos_token_id": eos,
            "pad_token_id": None,
            **_tower(text),
        },
    }


def _tower(cfg: VisionConfig | ClipTextConfig) -> dict[str, Any]:
    """Return the fields that both towers have."""
    return {
        "hidden_size": cfg.width,
        "num_hidden_layers": cfg.num_layers,
        "num_attention_heads": cfg.num_heads,
        "intermediate_size": cfg.mlp_width,
        "layer_norm_eps": cfg.eps,
        "hidden_act": "quick_gelu",
    }
