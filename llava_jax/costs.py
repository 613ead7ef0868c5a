"""What a model costs: floating-point operations and bytes, counted from its shapes.

A product of [m, k] and [k, n] counts 2mkn operations; norms, activations and softmax are left out
(about one per cent). Axis letters: N visual tokens, K kept, P prefix, T suffix, S tokens of a whole
prompt, D width, V vocabulary, G images, Q questions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from llava_jax.config import LlavaConfig, TextConfig, VisionConfig


def encode_flops(cfg: VisionConfig, depth: int | None = None) -> int:
    """Count the operations that encode one picture.

    Args:
        cfg: the vision tower.
        depth: blocks that run; up to the feature layer by default.
    """
    tokens, width = 1 + cfg.num_tokens, cfg.width
    linear = 2 * tokens * (4 * width**2 + 2 * width * cfg.mlp_width)
    attention = 4 * tokens**2 * width
    patches = 2 * cfg.num_tokens * 3 * cfg.patch_size**2 * width
    return patches + (cfg.feature_depth if depth is None else depth) * (linear + attention)


def project_flops(cfg: LlavaConfig, num_tokens: int) -> int:
    """Count the operations of the projector on K tokens."""
    return 2 * num_tokens * cfg.text.width * (cfg.vision.width + cfg.text.width)


def extend_flops(cfg: TextConfig, before: int, num_tokens: int) -> int:
    """Count the operations that add tokens to a prefix: of the last layer keys and values only.

    Args:
        cfg: the decoder.
        before: tokens P in the prefix.
        num_tokens: tokens added.
    """
    whole = block_flops(cfg, before, num_tokens)
    return (cfg.num_layers - 1) * whole + num_tokens * _key_value_flops(cfg)


def block_flops(cfg: TextConfig, before: int, num_tokens: int) -> int:
    """Count the operations that add tokens to a prefix in one layer.

    Args:
        cfg: the decoder.
        before: tokens P in the prefix.
        num_tokens: tokens added.
    """
    seen = num_tokens * before + num_tokens * (num_tokens + 1) // 2
    return num_tokens * _linear_flops(cfg) + seen * _attention_flops(cfg)


def answer_flops(cfg: TextConfig, prefix: int, num_tokens: int) -> int:
    """Count the operations of one question: in the last layer and the head its last token only.

    Args:
        cfg: the decoder.
        prefix: tokens P before the question.
        num_tokens: tokens T of the question.
    """
    return extend_flops(cfg, prefix, num_tokens) + _last_token_flops(cfg, prefix + num_tokens)


def cut_flops(
    cfg: TextConfig, before: int, counts: Sequence[int], first: int, num_text: int
) -> tuple[int, int]:
    """Count the operations of a decoder out of which visual tokens are taken on the way.

    Args:
        cfg: the decoder.
        before: tokens S before the picture.
        counts: visual tokens in each layer.
        first: the first layer with fewer of them; from it on nothing is shared.
        num_text: tokens T after the picture.

    Returns:
        (of a picture, once; of each question).
    """
    picture = sum(block_flops(cfg, before, n) for n in counts[:first])
    question = sum(block_flops(cfg, before + n, num_text) for n in counts[:first])
    *upper, last = counts[first:]
    question += sum(block_flops(cfg, before, n + num_text) for n in upper)
    question += (last + num_text) * _key_value_flops(cfg)
    return picture, question + _last_token_flops(cfg, before + last + num_text)


def alone_flops(cfg: LlavaConfig, counts: Sequence[int], num_text: int) -> int:
    """Count the operations of one question that shares nothing.

    The whole tower runs, and every token goes through every layer; the head reads the last one.

    Args:
        cfg: the model.
        counts: visual tokens in each decoder layer.
        num_text: text tokens in the prompt.
    """
    seen = encode_flops(cfg.vision, cfg.vision.num_layers) + project_flops(cfg, counts[0])
    decoder = sum(block_flops(cfg.text, 0, n + num_text) for n in counts)
    return seen + decoder + head_flops(cfg.text)


def head_flops(cfg: TextConfig) -> int:
    """Count the operations of the head for one token."""
    return 2 * cfg.width * cfg.vocab_size


def _last_token_flops(cfg: TextConfig, seen: int) -> int:
    """Count what the last layer and the head do for one token that sees others and itself."""
    last = _linear_flops(cfg) - _key_value_flops(cfg) + seen * _attention_flops(cfg)
    return last + head_flops(cfg)


def _linear_flops(cfg: TextConfig) -> int:
    """Count the matrix products of one token in one layer."""
    own = 2 * cfg.width * cfg.num_heads * cfg.head_dim * 2
    return own + _key_value_flops(cfg) + 6 * cfg.width * cfg.mlp_width


def _key_value_flops(cfg: TextConfig) -> int:
    return 2 * cfg.width * 2 * cfg.num_kv_heads * cfg.head_dim


def _attention_flops(cfg: TextConfig) -> int:
    """Count the operations of one query token with one key token, all heads of one layer."""
    return 4 * cfg.num_heads * cfg.head_dim


@dataclasses.dataclass(frozen=True)
class Batch:
    """Shapes of a batch.

    Attributes:
        images: pictures G.
        questions: questions Q per picture.
        prefix: tokens P of a prefix.
        suffix: tokens T of a suffix.
        said: tokens that may be generated after each suffix; 0 for the first one's logits alone.
    """

    images: int
    questions: int
    prefix: int
    suffix: int
    said: int = 0


def peak_bytes(cfg: LlavaConfig, batch: Batch, itemsize: int) -> int:
    """Estimate the memory of a batch, the weights not counted.

    Keys and values of all layers stay, those of suffixes too if text is generated; of the rest,
    the largest block counts: its float32 attention scores, twice (before and after the softmax),
    and its widest activations.

    Args:
        cfg: the model.
        batch: shapes.
        itemsize: bytes of an activation.
    """
    g, tokens = batch.images, 1 + cfg.vision.num_tokens
    seen = g * (tokens * (4 * cfg.vision.width + cfg.vision.mlp_width) * itemsize)
    seen += g * 2 * 4 * cfg.vision.num_heads * tokens**2
    text, rows = cfg.text, batch.questions * batch.suffix
    places = batch.prefix + (batch.questions * (batch.suffix + batch.said) if batch.said else 0)
    kept = 2 * g * places * text.num_kv_heads * text.head_dim * itemsize * text.num_layers
    wide = 4 * text.width + 3 * text.mlp_width
    scores = 2 * 4 * text.num_heads
    prefix = g * batch.prefix * (wide * itemsize + scores * batch.prefix)
    suffix = g * rows * (wide * itemsize + scores * (batch.prefix + batch.suffix))
    suffix += g * batch.questions * 4 * text.vocab_size
    return kept + max(seen, prefix, suffix)
