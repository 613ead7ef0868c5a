"""Checkpoints of LLaVA's own code (liuhaotian/llava-v1.5-…): decoder and projector in one folder.

The vision tower is a CLIP of its own (openai/clip-vit-large-patch14-336), whose folder is given
beside, or it was trained on and stands in LLaVA's folder too; then of CLIP's only the config.json
is read. Either folder has safetensors or torch's ``pytorch_model*.bin``. Field and key names:
haotian-liu/LLaVA, llava/model.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from llava_jax.checkpoint import huggingface, pickled, rules, tensors
from llava_jax.clip_config import ClipConfig, clip_to_hf
from llava_jax.config import LLAMA_PIECES, VisionConfig, from_hf, unsupported

_FORMS = (tensors.SAFETENSORS, pickled.TORCH)
_INSIDE = "model.vision_tower."
_NEWLINE = "model.image_newline"
_CLIP_IGNORED = rf"text_model\..*|(text|visual)_projection\.weight|logit_scale|{rules.CLIP.ignored}"
"""What a CLIP has besides its vision tower."""

# What LLaVA takes a field to be that config.json does not have (llava/model/llava_arch.py,
# multimodal_projector/builder.py, mm_utils.py).
_DEFAULTS: dict[str, Any] = {
    "mm_projector_type": "linear",
    "mm_use_im_patch_token": True,
    "image_aspect_ratio": None,
}
_REQUIRED: dict[str, Any] = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
    "image_aspect_ratio": "pad",
    "mm_patch_merge_type": "flat",
    "mm_resampler_type": None,
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "s2": False,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "rope_scaling": None,
}
_MODEL_TYPES = ("llava", "llava_llama")
_TEXT_FIELDS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"),
    *("rms_norm_eps", "rope_theta", "rope_parameters", "hidden_act", "tie_word_embeddings"),
)
"""Fields of the decoder, which has the same names at Hugging Face, one level deeper."""


def describe(
    folder: pathlib.Path, vision_folder: pathlib.Path
) -> tuple[dict[str, Any], dict[str, tensors.Tensor], list[pathlib.Path]]:
    """Say what a checkpoint of LLaVA's own code is in the terms of Hugging Face.

    Args:
        folder: LLaVA's.
        vision_folder: CLIP's; its text tower is not needed, nor looked at.

    Returns:
        The contents of Hugging Face's config.json for the same model; path → tensor for every
        parameter, in the tree's order; the files that hold them.

    Raises:
        FileNotFoundError: no config.json, no weights.
        ValueError: it is another model, or a file is malformed.
        ConversionError: the weights do not fill the model exactly.
    """
    content = huggingface.read_content(folder)
    if huggingface.ORIGINAL not in content:
        raise ValueError(
            f"{folder} is no original LLaVA: config.json has no {huggingface.ORIGINAL}"
        )
    clip = huggingface.read_clip_config(vision_folder)
    _refuse_unsupported(folder, content, clip.vision)
    config = _to_hf(content, clip)
    huggingface.refuse_wrong_numbers(folder / "config.json", config)
    found, files = _find(folder, vision_folder)
    tree = huggingface.flatten(huggingface.abstract(from_hf(config)))
    targets = {path: leaf.shape for path, leaf in tree.items()}
    shapes = {key: tensor.shape for key, tensor in found.items()}
    matched = rules.ORIGINAL.match(shapes, targets)
    return config, {path: found[matched[path]] for path in targets}, files


def _refuse_unsupported(
    folder: pathlib.Path, content: Mapping[str, Any], vision: VisionConfig
) -> None:
    """Raise ValueError that lists every field that asks for another model."""
    wrong = unsupported("", {**_DEFAULTS, **content}, _REQUIRED | {"mm_hidden_size": vision.width})
    if (kind := content.get("model_type")) not in _MODEL_TYPES:
        wrong.insert(0, f"model_type={kind!r:.80} (supported: {' or '.join(_MODEL_TYPES)})")
    layer, deepest = content.get("mm_vision_select_layer"), vision.num_layers
    if type(layer) is not int or not -deepest <= layer < 0:
        wrong.append(f"mm_vision_select_layer={layer!r:.80} (supported: one of -{deepest}..-1)")
    tower = content[huggingface.ORIGINAL]
    if _sizes(str(tower)) not in (None, (vision.patch_size, vision.image_size)):
        given = f"patches of {vision.patch_size} in pictures of {vision.image_size}"
        wrong.append(f"mm_vision_tower={tower!r:.80} (the vision tower given has {given})")
    if wrong:
        what = f"{folder / 'config.json'} is not an original LLaVA-1.5"
        raise ValueError(f"{what}: {rules.some(wrong)}")


def _sizes(tower: str) -> tuple[int, int] | None:
    """Return the sides of a patch and of a picture that the name of an OpenAI CLIP tells."""
    name = re.search(r"clip-vit-[a-z]+-patch(\d{1,4})(?:-(\d{1,4}))?/?$", tower)
    return (int(name[1]), int(name[2] or 224)) if name else None


def _to_hf(content: Mapping[str, Any], clip: ClipConfig) -> dict[str, Any]:
    """Return the config.json that Hugging Face has for the same model."""
    text = {name: content[name] for name in _TEXT_FIELDS if name in content}
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        # LLaVA has no token for a picture, llava-hf's is the first behind the tokenizer's pieces.
        "image_token_index": LLAMA_PIECES,
        "image_seq_length": clip.vision.num_tokens,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": content["mm_vision_select_layer"],
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "text_config": {"model_type": "llama", **text},
        "vision_config": clip_to_hf(clip)["vision_config"],
    }


def _find(
    folder: pathlib.Path, vision_folder: pathlib.Path
) -> tuple[dict[str, tensors.Tensor], list[pathlib.Path]]:
    """Return key → tensor of both folders, and the files that hold them."""
    form = _form(folder)
    found, files = (
        tensors.tensors(folder, rules.ORIGINAL.ignored, form),
        tensors.files(folder, form),
    )
    if _NEWLINE in found:
        raise ValueError(f"{folder} has {_NEWLINE}: it is a LLaVA-NeXT (v1.6), not a LLaVA-1.5")
    if any(key.startswith(_INSIDE) for key in found):
        return found, files
    form = _form(vision_folder)
    vision = tensors.tensors(vision_folder, _CLIP_IGNORED, form)
    if twice := sorted(found.keys() & vision.keys()):
        raise ValueError(f"{twice[0]} is in {folder} and in {vision_folder}")
    return found | vision, files + tensors.files(vision_folder, form)


def _form(folder: pathlib.Path) -> tensors.Format:
    """Return the form of a folder's weights; safetensors where it has both.

    Raises:
        FileNotFoundError: it has neither.
    """
    for form in _FORMS:
        if (folder / form.single).is_file() or (folder / form.index).is_file():
            return form
    names = ", ".join(f"{form.single}, {form.index}" for form in _FORMS)
    raise FileNotFoundError(f"no weights in {folder}: none of {names}")
