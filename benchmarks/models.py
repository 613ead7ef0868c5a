"""One set of random weights in two frameworks: transformers' model and ours, the same tensors."""

from __future__ import annotations

from typing import Any

import jax
import torch
import transformers

from llava_jax.checkpoint import huggingface, rules
from llava_jax.config import LlavaConfig, from_hf

_VOCABULARY = {"vocab_size": 32064, "rms_norm_eps": 1e-5}
_CLIP_L = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "image_size": 336,
    "patch_size": 14,
}


def _tower(width: int, layers: int, side: int) -> dict[str, Any]:
    heads = {"num_attention_heads": 4, "num_hidden_layers": layers}
    return heads | {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "image_size": 14 * side,
        "patch_size": 14,
    }


def _decoder(width: int, layers: int, heads: int, mlp: int) -> dict[str, Any]:
    shape = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": mlp}
    return _VOCABULARY | shape | {"num_attention_heads": heads, "num_key_value_heads": heads}


SIZES: dict[str, dict[str, Any]] = {
    "tiny-64": {"vision": _tower(64, 4, 8), "text": _decoder(128, 4, 4, 344)},
    "tiny-576": {"vision": _tower(128, 4, 24), "text": _decoder(256, 4, 4, 688)},
    "small-576": {"vision": _tower(256, 6, 24), "text": _decoder(512, 8, 8, 1376)},
    "0.85B": {"vision": _CLIP_L, "text": _decoder(2048, 8, 16, 5504)},
    "7B": {"vision": _CLIP_L, "text": _decoder(4096, 32, 32, 11008)},
}


def build(size: str, dtype: str, device: str) -> tuple[Any, LlavaConfig, dict[str, Any]]:
    """Make a random LLaVA of transformers, and our parameters over the same memory.

    Args:
        size: of ``SIZES``.
        dtype: float32, float16 or bfloat16.
        device: cpu or cuda.

    Returns:
        (the torch model, our shapes, our parameters; shared where the tensors are aligned).
    """
    shapes = SIZES[size]
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**shapes["vision"]),
        text_config=transformers.LlamaConfig(**shapes["text"]),
        image_token_index=32000,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    with torch.device(device):
        model = transformers.LlavaForConditionalGeneration(config).eval()
    torch.set_default_dtype(torch.float32)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            _randomise(name, tensor)
    return model, from_hf(config.to_dict()), share(model, from_hf(config.to_dict()))


def _randomise(name: str, tensor: torch.Tensor) -> None:
    """Draw a tensor: matrices of unit gain, norms around one, biases around zero."""
    if tensor.ndim > 1:
        fan_in = tensor[0].numel()
        tensor.normal_(0.0, 1.0 if "embed_tokens" in name else fan_in**-0.5)
    else:
        tensor.normal_(1.0 if name.endswith("weight") else 0.0, 0.1)


def share(model: Any, cfg: LlavaConfig) -> dict[str, Any]:
    """Return our parameter tree over the memory of a torch model."""
    sources = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    targets = {p: leaf.shape for p, leaf in huggingface.flatten(huggingface.abstract(cfg)).items()}
    matched = rules.LLAVA.match({k: tuple(v.shape) for k, v in sources.items()}, targets)
    leaves = [jax.dlpack.from_dlpack(sources[matched[path]].detach()) for path in targets]
    return jax.tree.unflatten(jax.tree.structure(huggingface.abstract(cfg)), leaves)
