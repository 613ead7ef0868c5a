"""What a pass moves between memory and processor: bytes, counted from a model's shapes.

Every product reads its matrix and its rows once and writes its result; keys and values are read
once a picture; attention weights are written and read in float32 before and after the softmax. What
a compiler keeps in registers or caches beyond that makes it less, a second look at anything more.
Axis letters: P prefix, T suffix, K kept, G images, Q questions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from llava_jax.config import LlavaConfig, TextConfig, VisionConfig
from llava_jax.costs import Batch

_SCORE = 4 * 4
"""Bytes of an attention weight: float32, written and read before and after the softmax."""


def encode_bytes(cfg: VisionConfig, images: int, itemsize: int, depth: int | None = None) -> int:
    """Count the bytes that encode a batch of pictures.

    Args:
        cfg: the vision tower.
        images: pictures G.
        itemsize: bytes of a weight and of an activation.
        depth: blocks that run; up to the feature layer by default.
    """
    tokens, width = 1 + cfg.num_tokens, cfg.width
    rows = images * tokens
    block = 4 * _product(rows, width, width)
    block += _product(rows, width, cfg.mlp_width) + _product(rows, cfg.mlp_width, width)
    attention = 4 * rows * width * itemsize + _SCORE * cfg.num_heads * rows * tokens
    patches = _product(images * cfg.num_tokens, 3 * cfg.patch_size**2, width) * itemsize
    blocks = cfg.feature_depth if depth is None else depth
    return patches + blocks * (block * itemsize + attention)


def project_bytes(cfg: LlavaConfig, rows: int, itemsize: int) -> int:
    """Count the bytes of the projector on so many visual tokens in one pass."""
    width = cfg.text.width
    return itemsize * (_product(rows, cfg.vision.width, width) + _product(rows, width, width))


def extend_bytes(cfg: TextConfig, batch: Batch, itemsize: int) -> int:
    """Count the bytes that add T tokens to each prefix: of the last layer keys and values only.

    Args:
        cfg: the decoder.
        batch: G pictures with a prefix of P tokens, to each of which Q · T are added.
        itemsize: bytes of a weight and of an activation.
    """
    rows = _rows(batch)
    last = _key_value(cfg, rows) * itemsize
    return (cfg.num_layers - 1) * block_bytes(cfg, batch, itemsize) + last


def block_bytes(cfg: TextConfig, batch: Batch, itemsize: int) -> int:
    """Count the bytes of one decoder layer on all tokens of a batch's suffixes."""
    return _block(cfg, batch, _rows(batch), _rows(batch), itemsize)


def answer_bytes(cfg: TextConfig, batch: Batch, itemsize: int) -> int:
    """Count the bytes that answer Q questions a picture, the head left out.

    Args:
        cfg: the decoder.
        batch: G pictures with a prefix of P tokens, Q questions of T tokens each.
        itemsize: bytes of a weight and of an activation.
    """
    last = _block(cfg, batch, _rows(batch), batch.images * batch.questions, itemsize)
    return (cfg.num_layers - 1) * block_bytes(cfg, batch, itemsize) + last


def head_bytes(cfg: TextConfig, rows: int, itemsize: int) -> int:
    """Count the bytes of the head for so many tokens in one pass."""
    return itemsize * _product(rows, cfg.width, cfg.vocab_size)


def step_bytes(cfg: TextConfig, batch: Batch, itemsize: int) -> int:
    """Count the bytes of one more token of every question, the head included."""
    rows = batch.images * batch.questions
    longer = dataclasses.replace(batch, suffix=batch.suffix + 1)
    layers = cfg.num_layers * _block(cfg, longer, rows, rows, itemsize)
    return layers + head_bytes(cfg, rows, itemsize)


def cut_bytes(
    cfg: TextConfig, batch: Batch, counts: Sequence[int], first: int, itemsize: int
) -> tuple[int, int]:
    """Count the bytes of a decoder out of which visual tokens are taken on the way.

    Args:
        cfg: the decoder.
        batch: G pictures, P tokens before the visual ones, Q questions of T tokens after them.
        counts: visual tokens in each layer.
        first: the first layer with fewer of them; from it on nothing is shared.
        itemsize: bytes of a weight and of an activation.

    Returns:
        (of the pictures, of the questions; the head left out).
    """
    picture = question = 0
    for count in counts[:first]:
        seen = dataclasses.replace(batch, questions=1, suffix=count)
        asked = dataclasses.replace(batch, prefix=batch.prefix + count)
        picture += block_bytes(cfg, seen, itemsize)
        question += block_bytes(cfg, asked, itemsize)
    asked = batch.images * batch.questions
    *upper, last = (Batch(asked, 1, batch.prefix, count + batch.suffix) for count in counts[first:])
    question += sum(block_bytes(cfg, each, itemsize) for each in upper)
    return picture, question + _block(cfg, last, _rows(last), asked, itemsize)


def alone_bytes(cfg: LlavaConfig, counts: Sequence[int], num_text: int, itemsize: int) -> int:
    """Count the bytes of one question that shares nothing; see ``costs.alone_flops``."""
    seen = encode_bytes(cfg.vision, 1, itemsize, cfg.vision.num_layers)
    seen += project_bytes(cfg, counts[0], itemsize)
    decoder = sum(block_bytes(cfg.text, Batch(1, 1, 0, n + num_text), itemsize) for n in counts)
    return seen + decoder + head_bytes(cfg.text, 1, itemsize)


def _rows(batch: Batch) -> int:
    return batch.images * batch.questions * batch.suffix


def _product(rows: int, inputs: int, outputs: int) -> int:
    """Count the numbers that a product of [rows, inputs] and [inputs, outputs] reads and writes."""
    return inputs * outputs + rows * (inputs + outputs)


def _key_value(cfg: TextConfig, rows: int) -> int:
    return 2 * _product(rows, cfg.width, cfg.num_kv_heads * cfg.head_dim)


def _block(cfg: TextConfig, batch: Batch, rows: int, queries: int, itemsize: int) -> int:
    """Count the bytes of a layer whose keys and values are of ``rows`` tokens, all else of fewer.

    Args:
        cfg: the decoder.
        batch: whose prefixes and suffixes are looked at.
        rows: tokens whose keys and values are computed.
        queries: tokens that go through the layer.
        itemsize: bytes of a weight and of an activation.
    """
    own = cfg.num_heads * cfg.head_dim
    moved = _key_value(cfg, rows)
    moved += _product(queries, cfg.width, own) + _product(queries, own, cfg.width)
    moved += 2 * _product(queries, cfg.width, cfg.mlp_width)
    moved += _product(queries, cfg.mlp_width, cfg.width)
    places = batch.images * (batch.prefix + batch.questions * batch.suffix)
    moved += 2 * places * cfg.num_kv_heads * cfg.head_dim + 2 * queries * own
    return moved * itemsize + _SCORE * cfg.num_heads * queries * (batch.prefix + batch.suffix)
