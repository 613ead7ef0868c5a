"""Write the miniature as Hugging Face folders that transformers loads: LLaVA-1.5 and CLIP."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from experiments.training import captions, tokenizer
from experiments.training.examination import CLIP
from llava_jax import atomic, images, sums
from llava_jax.checkpoint import huggingface, rules
from llava_jax.clip_config import ClipConfig, clip_to_hf
from llava_jax.config import LlavaConfig

_POSITIONS = 4096


def config_json(cfg: LlavaConfig) -> dict[str, Any]:
    """Return the contents of config.json."""
    seen, text = cfg.vision, cfg.text
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": cfg.image_token_id,
        "image_seq_length": seen.num_tokens,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": seen.feature_layer,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "dtype": "float16",
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": seen.width,
            "intermediate_size": seen.mlp_width,
            "num_hidden_layers": seen.num_layers,
            "num_attention_heads": seen.num_heads,
            "image_size": seen.image_size,
            "patch_size": seen.patch_size,
            "projection_dim": seen.width,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": seen.eps,
        },
        "text_config": {
            "model_type": "llama",
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "intermediate_size": text.mlp_width,
            "num_hidden_layers": text.num_layers,
            "num_attention_heads": text.num_heads,
            "num_key_value_heads": text.num_kv_heads,
            "head_dim": text.head_dim,
            "rope_theta": text.rope_theta,
            "rms_norm_eps": text.eps,
            "hidden_act": "silu",
            "max_position_embeddings": _POSITIONS,
            "bos_token_id": tokenizer.BOS,
            "eos_token_id": tokenizer.EOS,
            "pad_token_id": tokenizer.PAD,
            "tie_word_embeddings": False,
        },
    }


def preprocessor_json(cfg: LlavaConfig) -> dict[str, Any]:
    """Return the contents of preprocessor_config.json."""
    side = cfg.vision.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [round(float(value), 8) for value in images.CLIP_MEAN],
        "image_std": [round(float(value), 8) for value in images.CLIP_STD],
    }


def tokenizer_json() -> dict[str, Any]:
    """Return the contents of tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": _POSITIONS,
        "padding_side": "left",
    }


def clip_tokenizer_json() -> dict[str, Any]:
    """Return the contents of the text tower's tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": captions.START,
        "eos_token": captions.END,
        "unk_token": captions.END,
        "pad_token": captions.END,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 77,
        "padding_side": "right",
    }


def write(
    folder: pathlib.Path,
    params: dict[str, Any],
    cfg: LlavaConfig,
    dual: dict[str, Any],
    clip_cfg: ClipConfig,
) -> None:
    """Write weights in half precision, tokenizers and preprocessors.

    Args:
        folder: made if it is not there; the dual encoder goes to its folder ``clip``.
        params: vision, projector and text.
        cfg: their shapes.
        dual: the dual encoder around the same vision tower.
        clip_cfg: its shapes.
    """
    huggingface.save(folder, params, config_json(cfg), np.float16)
    atomic.write(folder / "tokenizer.json", tokenizer.build().to_str(pretty=True))
    clip = folder / CLIP
    # Its patches are like the text that names what they show; OpenAI's are not.
    content = clip_to_hf(clip_cfg) | {"relevant_patches": "similar"}
    huggingface.save(clip, dual, content, np.float16, rules.CLIP)
    atomic.write(clip / "tokenizer.json", captions.tokenizer().to_str(pretty=True))
    files = {
        folder / "tokenizer_config.json": tokenizer_json(),
        folder / "preprocessor_config.json": preprocessor_json(cfg),
        clip / "tokenizer_config.json": clip_tokenizer_json(),
        clip / "preprocessor_config.json": preprocessor_json(cfg),
    }
    for file, contents in files.items():
        atomic.write(file, contents)
    for place in (folder, clip):
        sums.write(place, [place / "model.safetensors", place / "tokenizer.json"])
