"""SparseVLM: the tokens that the question's telling words look at, and means of what they leave.

Axes: H heads · N visual tokens · V those that are left · K the nominal budget · T text tokens
after them, padded · D width · C merged tokens.

Source: Zhang et al. (2025), "SparseVLM: visual token sparsification for efficient
vision-language model inference", and its code, Gumpest/SparseVLMs, versions 1.0, 1.5 and +.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ._density import cluster_means, density_peaks
from ._ops import check_budget
from .base import Stage, register
from .decoder import Cut, DecoderTokens, Survivors, scaled_layers
from .saliency import saliency_top_k

_LAYERS = (3, 7, 16)  # that run without the tokens, first each time
_HEADS = 14  # of SparseVLM+, whatever their number

# Version → K → tokens kept at each of the layers, for N = 576.
_SCHEDULES = {
    "1.5": {64: (66, 30, 17), 96: (238, 48, 26), 128: (303, 110, 36), 192: (300, 200, 110)},
    "plus": {64: (66, 34, 20), 96: (246, 54, 28), 128: (238, 108, 60), 192: (300, 200, 118)},
}
_NUM_TOKENS = 576


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


def rank_budget(rows: jax.Array, raters: jax.Array, scale: float, bias: float) -> jax.Array:
    """Return how many tokens version 1.0 keeps, min(⌊rank(R) · scale + bias⌋, V − 1), at least 1.

    R is the raters' attention, mean over heads. The official (scale, bias) are (13.5, 0) for
    K = 192, (9, 6) for 128 and (0.8, 0) for 64, after layers 2, 6, 15 and 19. A program of fixed
    shapes cannot follow it, so no pruner here does.

    Args:
      rows: float[H, T, V], attention of the text tokens.
      raters: bool[T].
      scale: of the rank.
      bias: added to it.

    Returns:
      int32[].
    """
    mean = jnp.mean(rows.astype(jnp.float32), axis=0)
    rank = jnp.linalg.matrix_rank(jnp.where(raters[:, None], mean, 0.0))
    count = jnp.floor(rank * scale + bias).astype(jnp.int32)
    return jnp.clip(count, 1, max(rows.shape[2] - 1, 1))


def recycle(hidden: jax.Array, order: jax.Array, keep: int) -> jax.Array:
    """Merge the best of the tokens that are not kept into means of clusters (`density_peaks`).

    Of d deleted tokens the first ⌊0.3 d⌋ + 1 are recycled, and every ten of them and the rest
    make a cluster. The official code adds noise of 10⁻⁶ to densities; there is none here.

    Args:
      hidden: float[V, D].
      order: int32[V], all tokens by falling relation.
      keep: of them are kept.

    Returns:
      float32[C, D]; C = `recycled(V − keep)[1]`.
    """
    num_recycled, num_clusters = recycled(hidden.shape[0] - keep)
    chosen = hidden[order[keep : keep + num_recycled]]
    _, labels = density_peaks(chosen, num_clusters)
    return cluster_means(chosen, labels, num_clusters)


def recycled(num_deleted: int) -> tuple[int, int]:
    """Return how many deleted tokens are recycled, and into how many; none of none."""
    if not num_deleted:
        return 0, 0
    count = int(0.3 * num_deleted) + 1
    return count, count // 10 + 1


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

    The budget is nominal: the published schedules for 192, 128, 96 and 64 of 576 tokens keep
    300, 303, 238 and 66 tokens first and 110, 36, 26 and 17 at last. Between them numbers are
    interpolated, up to all of N for K = N and down to none, and scaled by N / 576. A decoder
    without room for three cuts makes the last ones.

    Attributes:
      sparsevlm_version: "1.5" or "plus".
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
        if self.sparsevlm_version not in _SCHEDULES:
            raise ValueError(
                "sparsevlm: sparsevlm_version must be 1.5 or plus (1.0 keeps another number of "
                "tokens for every question, which programs of fixed shapes cannot), got "
                f"{self.sparsevlm_version!r}"
            )

    def cuts(self, budget: int, num_tokens: int, num_layers: int) -> tuple[Cut, ...]:
        """Return a cut after each pruning layer."""
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
        order = saliency_top_k(jnp.where(jnp.isfinite(score), score, -jnp.inf), num_visual)
        if not cut.merged:
            return Survivors(order[: cut.keep])
        assert tokens.hidden is not None
        return Survivors(order[: cut.keep], recycle(tokens.hidden, order, cut.keep))

    @property
    def _merges(self) -> bool:
        return self.sparsevlm_version == "1.5"


def schedule(version: str, budget: int, num_tokens: int) -> tuple[int, ...]:
    """Return how many tokens are kept at each of the three layers.

    Args:
      version: "1.5" or "plus".
      budget: K, 1 … N; anything else is a ValueError.
      num_tokens: N.
    """
    check_budget(budget, num_tokens)
    scale = num_tokens / _NUM_TOKENS
    known = {0: (0, 0, 0)} | _SCHEDULES[version] | {_NUM_TOKENS: (_NUM_TOKENS,) * 3}
    steps = np.array(list(known.values()))
    exact = (np.interp(budget / scale, list(known), column) * scale for column in steps.T)
    return tuple(max(1, int(count + 0.5)) for count in exact)
