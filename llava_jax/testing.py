"""Tiny fakes for tests of code that uses a LLaVA: configs, parameters, a tokenizer, folders."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import tokenizers

from llava_jax.checkpoint import huggingface, rules
from llava_jax.clip_config import ClipConfig, ClipTextConfig, clip_to_hf
from llava_jax.config import LlavaConfig, VisionConfig, from_hf

_WORDS = "Yes yes No no A B C D E Is there a an cat dog star moon in the image ? USER: ASSISTANT:"


def tiny_config(**text: Any) -> dict[str, Any]:
    """Return the ``config.json`` of a LLaVA with 16 visual tokens and a few thousand weights.

    Args:
        **text: fields of text_config to set otherwise, such as ``num_key_value_heads``.

    Returns:
        Contents of config.json; ``from_hf`` of it gives the shapes.
    """
    vision_config = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": 32,
    }
    text_config = {
        "model_type": "llama",
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 512,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512,
    }
    return {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "image_token_index": 3,
        "image_seq_length": 16,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vision_config": vision_config,
        "text_config": text_config | text,
    }


def tiny_next_config() -> dict[str, Any]:
    """Return the ``config.json`` of a LLaVA-NeXT with 16 visual tokens a tile, up to five tiles."""
    pinpoints = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
    architecture = {"architectures": ["LlavaNextForConditionalGeneration"]}
    own = {"model_type": "llava_next", "image_grid_pinpoints": pinpoints}
    return tiny_config() | architecture | own


def tiny_clip(eos_id: int | None = 97) -> ClipConfig:
    """Return a dual encoder with 16 visual tokens, 99 text tokens and texts of up to 12 tokens.

    Args:
        eos_id: id of the end-of-text token; None: the largest id of a text is its end.
    """
    return ClipConfig(
        vision=VisionConfig(32, 3, 2, 48, image_size=32, patch_size=8),
        text=ClipTextConfig(99, 24, 2, 3, 40, num_positions=12, eos_id=eos_id),
        projection=20,
    )


def random_params(cfg: LlavaConfig | ClipConfig, seed: int = 0) -> dict[str, Any]:
    """Return seeded random float32 parameters, made by numpy: nothing is compiled.

    Matrices have unit gain and norms scatter around one, so that no part of the model is idle.
    """
    rng = np.random.default_rng(seed)

    def leaf(path: Any, spec: jax.ShapeDtypeStruct) -> jax.Array:
        noise = rng.standard_normal(spec.shape)
        name = jax.tree_util.keystr(path)
        if len(spec.shape) > 1:
            noise /= np.sqrt(np.prod(spec.shape[1:]))
        elif "weight" in name:
            noise = 1 + 0.1 * noise
        else:
            noise *= 0.1
        return jax.numpy.asarray(noise, spec.dtype)

    return jax.tree_util.tree_map_with_path(leaf, huggingface.abstract(cfg))


def tiny_tokenizer(words: Sequence[str] = tuple(_WORDS.split())) -> tokenizers.Tokenizer:
    """Return a Llama-style tokenizer: ▁ starts a word, ``<s>`` comes first, bytes as last resort.

    Args:
        words: become single pieces.
    """
    special = ["<unk>", "<s>", "</s>", "<image>"]
    merges = [("▁" + word[:i], word[i]) for word in words for i in range(len(word))]
    pieces = special + [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += ["▁", *sorted(set("".join(words))), *(left + right for left, right in merges)]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    model = tokenizers.models.BPE(
        vocab, list(dict.fromkeys(merges)), unk_token="<unk>", byte_fallback=True
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def write_checkpoint(folder: pathlib.Path, *, seed: int = 0, **text: Any) -> LlavaConfig:
    """Write a tiny random LLaVA in the Hugging Face layout, tokenizer included.

    Args:
        folder: made if it is not there.
        seed: of the weights.
        **text: fields of text_config to set otherwise.

    Returns:
        The shapes of the model written.
    """
    config = tiny_config(**text)
    cfg = from_hf(config)
    huggingface.save(folder, random_params(cfg, seed), config, np.float32)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return cfg


def write_next_checkpoint(folder: pathlib.Path, *, seed: int = 0) -> LlavaConfig:
    """Write a tiny random LLaVA-NeXT in the Hugging Face layout, tokenizer included.

    Args:
        folder: made if it is not there.
        seed: of the weights.

    Returns:
        The shapes of the model written.
    """
    config = tiny_next_config()
    cfg, keys = from_hf(config), rules.LLAVA_NEXT
    huggingface.save(folder, random_params(cfg, seed), config, np.float32, keys=keys)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return cfg


def write_clip(folder: pathlib.Path, *, seed: int = 0, eos_id: int | None = 97) -> ClipConfig:
    """Write a tiny random dual encoder in the Hugging Face layout, tokenizer included.

    Args:
        folder: made if it is not there.
        seed: of the weights.
        eos_id: as in ``tiny_clip``.

    Returns:
        The shapes of the model written.
    """
    cfg = tiny_clip(eos_id)
    huggingface.save(folder, random_params(cfg, seed), clip_to_hf(cfg), np.float32, keys=rules.CLIP)
    _tiny_clip_tokenizer(cfg.text.vocab_size).save(str(folder / "tokenizer.json"))
    return cfg


def _tiny_clip_tokenizer(vocab_size: int) -> tokenizers.Tokenizer:
    """Return a tokenizer of single characters, between a begin-of-text and an end-of-text token."""
    vocab = {chr(code): code - 32 for code in range(32, 127)}
    begin, end = "<|startoftext|>", "<|endoftext|>"
    vocab |= {begin: vocab_size - 3, end: vocab_size - 2}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        special_tokens=[(begin, vocab[begin]), (end, vocab[end])],
    )
    return tokenizer
