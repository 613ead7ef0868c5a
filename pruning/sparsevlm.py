"""SparseVLM: the tokens that the question's telling words look at, and means of what they leave.

Axes: H heads · N visual tokens · V those that are left · K the nominal budget · T text tokens
after them, padded · D width.

Source: Zhang et al. (2025), "SparseVLM: visual token sparsification for efficient
vision-language model inference", and its code, Gumpest/SparseVLMs, versions 1.0, 1.5 and +.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ._ops import check_budget
from ._recycling import recycle, recycle_some, recycled
from .base import Stage, register
from .decoder import Cut, DecoderTokens, Survivors, scaled_layers
from .saliency import saliency_top_k

_LAYERS = (3, 7, 16)  # that run without the tokens, first each time
_RANK_LAYERS = (3, 7, 16, 20)
_HEADS = 14  # of SparseVLM+, whatever their number

# Version → K → tokens kept at each of the layers, for N = 576.
_SCHEDULES = {
    "1.5": {64: (66, 30, 17), 96: (238, 48, 26), 128: (303, 110, 36), 192: (300, 200, 110)},
    "plus": {64: (66, 34, 20), 96: (246, 54, 28), 128: (238, 108, 60), 192: (300, 200, 118)},
}
_RANK_RULES = {64: (0.8, 0.0), 128: (9.0, 6.0), 192: (13.5, 0.0)}  # K → (scale, bias)
_NUM_TOKENS = 576
_VERSIONS = ("1.0", *_SCHEDULES)


@dataclasses.dataclass(frozen=True)
class RankCut(Cut):
    """A cut of version 1.0, whose numbers follow `rank_budget`.

    Attributes:
      scale: of the rank.
      bias: added to it.
    """

    scale: float = 0.0
    bias: float = 0.0


def text_raters(image_inputs: jax.Array, text_inputs: jax.Array, is_text: jax.Array) -> jax.Array:
    """Choose the text tokens that resemble the picture more than the mean one does.

        p = mean over the picture's rows of softmax(V Tᵀ) over the text,   pₜ > mean p

    Where nothing stands out, as with a single token, all text rates; the official code then has
    no rater and a mean over nothing.

    Args:
      image_inputs: float[N, D], V, as it enters the decoder.
      text_inputs: float[T, D].
      is_text: bool[T], False for padding.

    Returns:
      bool[T].
    """
    image, text = image_inputs.astype(jnp.float32), text_inputs.astype(jnp.float32)
    logits = jnp.einsum("nd,td->nt", image, text, precision=jax.lax.Precision.HIGHEST)
    logits = jnp.where(is_text[None, :], logits, -jnp.inf)
    share = jnp.mean(jax.nn.softmax(logits, axis=1), axis=0)
    raters = is_text & (share > jnp.sum(share) / jnp.sum(is_text))
    return jnp.where(jnp.any(raters), raters, is_text)


def relation(rows: jax.Array, raters: jax.Array) -> jax.Array:
    """Return the attention of the mean rater, mean over heads, float32[V].

    Args:
      rows: float[H, T, V], attention of the text tokens.
      raters: bool[T], at least one.
    """
    mean = jnp.mean(rows.astype(jnp.float32), axis=0)
    return jnp.sum(jnp.where(raters[:, None], mean, 0.0), axis=0) / jnp.sum(raters)


def rank_budget(
    rows: jax.Array,
    raters: jax.Array,
    scale: float,
    bias: float,
    alive: jax.Array | None = None,
) -> jax.Array:
    """Return how many tokens version 1.0 keeps, min(⌊rank(R) · scale + bias⌋, V − 1), at least 1.

    R is the raters' attention, mean over heads; where its rank is V, all are kept. A singular
    value counts above σ₁ ε max(raters, V), with the ε of float32, as in torch.

    Args:
      rows: float[H, T, V], attention of the text tokens.
      raters: bool[T].
      scale: of the rank, ≥ 0, static.
      bias: added to it, static.
      alive: bool[V], visual tokens that count, also as V; None for all.

    Returns:
      int32[].
    """
    alive = jnp.ones(rows.shape[2], bool) if alive is None else alive
    num_alive = jnp.sum(alive, dtype=jnp.int32)
    mean = jnp.mean(rows.astype(jnp.float32), axis=0)
    seen = jnp.where(raters[:, None] & alive[None, :], mean, 0.0)
    values = jnp.linalg.svd(seen, compute_uv=False)
    size = jnp.maximum(jnp.sum(raters), num_alive)
    rank = jnp.sum(values > values[0] * jnp.finfo(jnp.float32).eps * size)
    counts = [int(number * scale + bias) for number in range(min(seen.shape) + 1)]
    count = jnp.clip(jnp.asarray(counts, jnp.int32)[rank], 1, jnp.maximum(num_alive - 1, 1))
    return jnp.where(rank == num_alive, num_alive, count)


def without_rotation(
    rows: jax.Array, distance: jax.Array, head_dim: int, theta: float
) -> jax.Array:
    """Divide attention by what rotary positions alone would make of it, as SparseVLM+ does.

        Rₜᵥ = 2/√d Σₘ cos((pₜ − pᵥ) θ^(−2m/d)),   m = 0 … d/2 − 1

    the product of two rotated vectors of ones. It may be near 0 or below, and then the quotient
    is large or negative, as in the official code.

    Args:
      rows: float[H, T, V].
      distance: int32[T, V], pₜ − pᵥ.
      head_dim: d.
      theta: θ.

    Returns:
      float32[H, T, V]; not finite where R is 0.
    """
    frequency = theta ** (-jnp.arange(head_dim // 2, dtype=jnp.float32) / (head_dim // 2))
    angle = distance.astype(jnp.float32)[:, :, None] * frequency[None, None, :]
    product = 2 / head_dim**0.5 * jnp.sum(jnp.cos(angle), axis=-1)
    return rows.astype(jnp.float32) / product[None]


def top_heads(rows: jax.Array, raters: jax.Array, num_heads: int) -> jax.Array:
    """Keep the heads in which raters look at the picture most, float[num_heads, T, V].

    Args:
      rows: float[H, T, V].
      raters: bool[T].
      num_heads: 1 … H.
    """
    total = jnp.sum(jnp.where(raters[None, :, None], rows, 0.0), axis=(1, 2))
    total = jnp.where(jnp.isfinite(total), total, -jnp.inf)
    return rows[saliency_top_k(total, num_heads)]


@register("sparsevlm")
class SparseVLM:
    """Keep what the question's raters look at, in three steps.

    Version "1.5" merges a part of what it drops and counts positions anew; "plus" does neither,
    but takes the effect of rotary positions out of the attention and reads some heads only.
    Version "1.0" does as "1.5" in four steps, of which each keeps a number that follows the rank
    of the raters' attention (`rank_budget`), so that its cuts are upper bounds.

    The budget is nominal: the published schedules for 192, 128, 96 and 64 of 576 tokens keep
    300, 303, 238 and 66 tokens first and 110, 36, 26 and 17 at last. Between them numbers are
    interpolated, up to all of N for K = N and down to none, and scaled by N / 576; so are scale
    and bias of the rank. A decoder without room for all cuts makes the last ones.

    Attributes:
      sparsevlm_version: "1.0", "1.5" or "plus".
    """

    stage: ClassVar = Stage.DECODER
    nested: ClassVar = False
    stochastic: ClassVar = False

    sparsevlm_version: str = dataclasses.field(default="1.5", metadata={"static": True})

    @property
    def needs(self) -> tuple[str, ...]:
        """Attention and inputs, and states to merge or positions."""
        own = ("hidden",) if self._merges else ("positions", "text_positions")
        return ("rows", "inputs", "text_inputs", "num_text", *own)

    def check(self) -> None:
        """Refuse hyper-parameters without a meaning."""
        if self.sparsevlm_version not in _VERSIONS:
            raise ValueError(
                f"sparsevlm: sparsevlm_version must be one of {', '.join(_VERSIONS)}, got "
                f"{self.sparsevlm_version!r}"
            )

    def cuts(self, budget: int, num_tokens: int, num_layers: int) -> tuple[Cut, ...]:
        """Return a cut after each pruning layer; in version 1.0 none for K = N."""
        if self.sparsevlm_version == "1.0":
            return _rank_cuts(budget, num_tokens, num_layers)
        layers, left, cuts = scaled_layers(_LAYERS, num_layers), num_tokens, []
        counts = schedule(self.sparsevlm_version, budget, num_tokens)[-len(layers) :]
        for layer, count in zip(layers, counts, strict=True):
            keep = count if budget == num_tokens else max(1, min(count, left - 1))
            merged = recycled(left - keep)[1] if self._merges else 0
            cuts.append(Cut(layer, layer - 1, keep, merged, renumber=self._merges))
            left = keep + merged
        return tuple(cuts)

    def __call__(self, tokens: DecoderTokens, cut: Cut, key: jax.Array) -> Survivors:
        """Return kept and merged tokens; the key is ignored."""
        assert tokens.rows is not None
        assert tokens.inputs is not None
        assert tokens.text_inputs is not None
        assert tokens.num_text is not None
        rows, (num_heads, num_text, num_visual) = tokens.rows, tokens.rows.shape
        is_text = jnp.arange(num_text) < tokens.num_text
        raters = text_raters(tokens.inputs, tokens.text_inputs, is_text)
        if not self._merges:
            assert tokens.positions is not None
            assert tokens.text_positions is not None
            distance = tokens.text_positions[:, None] - tokens.positions[None, :]
            rows = without_rotation(rows, distance, tokens.head_dim, tokens.rope_theta)
            rows = top_heads(rows, raters, min(_HEADS, num_heads))
        score = relation(rows, raters)
        score = jnp.where(jnp.isfinite(score), score, jnp.finfo(jnp.float32).min)
        if tokens.alive is not None:
            score = jnp.where(tokens.alive, score, -jnp.inf)
        order = saliency_top_k(score, num_visual)
        if isinstance(cut, RankCut):
            return _by_rank(tokens, cut, raters, order)
        if not cut.merged:
            return Survivors(order[: cut.keep])
        assert tokens.hidden is not None
        return Survivors(order[: cut.keep], recycle(tokens.hidden, order, cut.keep))

    @property
    def _merges(self) -> bool:
        return self.sparsevlm_version != "plus"


def _rank_cuts(budget: int, num_tokens: int, num_layers: int) -> tuple[RankCut, ...]:
    """Return the cuts of version 1.0; all there were may be left after each."""
    scale, bias = rank_rule(budget, num_tokens)
    if budget == num_tokens:
        return ()
    bounds = {"keep": num_tokens, "merged": recycled(num_tokens - 1)[1], "at_most": True}
    return tuple(
        RankCut(layer, layer - 1, renumber=True, scale=scale, bias=bias, **bounds)
        for layer in scaled_layers(_RANK_LAYERS, num_layers)
    )


def _by_rank(tokens: DecoderTokens, cut: RankCut, raters: jax.Array, order: jax.Array) -> Survivors:
    """Keep and merge as many of the tokens in order int32[V] as version 1.0 does.

    T tokens have no rank above T, which bounds what can be left.
    """
    assert tokens.rows is not None
    assert tokens.hidden is not None
    _, num_text, num_visual = tokens.rows.shape
    alive = jnp.ones(num_visual, bool) if tokens.alive is None else tokens.alive
    keep = rank_budget(tokens.rows, raters, cut.scale, cut.bias, alive)
    merged, count = recycle_some(tokens.hidden, order, keep, jnp.sum(alive, dtype=jnp.int32))
    most = min(num_visual, max(int(num_text * cut.scale + cut.bias), num_text))
    there = jnp.arange(most) < keep
    if merged is None:
        return Survivors(order[:most], alive=there)
    there = jnp.concatenate([there, jnp.arange(len(merged)) < count])
    return Survivors(order[:most], merged, there)


def schedule(version: str, budget: int, num_tokens: int) -> tuple[int, ...]:
    """Return how many tokens are kept at each of the three layers.

    Args:
      version: "1.5" or "plus".
      budget: K, 1 … N; anything else is a ValueError.
      num_tokens: N.
    """
    known = {0: (0, 0, 0)} | _SCHEDULES[version] | {_NUM_TOKENS: (_NUM_TOKENS,) * 3}
    return tuple(max(1, int(count + 0.5)) for count in _between(known, budget, num_tokens))


def rank_rule(budget: int, num_tokens: int) -> tuple[float, float]:
    """Return the scale and the bias of version 1.0's `rank_budget`.

    Args:
      budget: K, 1 … N; anything else is a ValueError.
      num_tokens: N.
    """
    known = {0: (0.0, 0.0)} | _RANK_RULES | {_NUM_TOKENS: (0.0, float(_NUM_TOKENS))}
    scale, bias = _between(known, budget, num_tokens)
    return scale, bias


def _between(
    known: Mapping[int, Sequence[float]], budget: int, num_tokens: int
) -> tuple[float, ...]:
    """Return numbers known for some budgets of 576 tokens, interpolated and scaled by N / 576."""
    check_budget(budget, num_tokens)
    scale = num_tokens / _NUM_TOKENS
    steps = np.array(list(known.values()))
    exact = (np.interp(budget / scale, list(known), column) * scale for column in steps.T)
    return tuple(map(float, exact))
