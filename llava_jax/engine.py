"""Runs a model on batches: the one place of this package that compiles.

Each stage is compiled once per shape and called from Python, so compile time does not grow with
depth and no weights are stacked or copied.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax

from llava_jax import decoding, model, stage
from llava_jax.config import LlavaConfig


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a stage under ``jax.jit``, its config static."""
    static = [name for name in ("cfg",) if name in inspect.signature(function).parameters]
    return jax.jit(function, static_argnames=static)


class Engine:
    """A loaded model.

    Attributes:
        params: the parameter tree.
        cfg: its shapes.
    """

    def __init__(self, params: stage.Params, cfg: LlavaConfig):
        self.params = params
        self.cfg = cfg

    def encode(
        self, pixels: stage.Array, outputs: Sequence[str], saliency_layers: Sequence[int] = ()
    ) -> model.VisionOutputs:
        """Run the vision tower on float[G, H, W, 3]; see ``model.encode``."""
        return model.encode(
            self.params,
            pixels,
            cfg=self.cfg,
            outputs=outputs,
            saliency_layers=saliency_layers,
            stage=_compiled,
        )

    def begin(self, prompt_ids: stage.Array) -> decoding.Prefix:
        """Compute the prefix of the text before the picture, int[S]; see ``decoding.begin``."""
        return decoding.begin(self.params, prompt_ids, cfg=self.cfg, stage=_compiled)

    def prefill(
        self,
        before: decoding.Prefix,
        features: jax.Array,
        kept: stage.Array,
        common_ids: stage.Array | None = None,
        *,
        original_positions: bool = False,
    ) -> decoding.Prefix:
        """Compute the prefix that the questions of each picture share.

        Args:
            before: the text before the picture, from ``begin``.
            features: float[G, N, Dv], all visual tokens before the projector.
            kept: int[G, K], which of them the decoder sees, in the order to hand over.
            common_ids: int[C], first tokens of every suffix; None for no token.
            original_positions: keep each token's place among the N; otherwise renumber 0..K−1.

        Returns:
            The prefix of S + K + C tokens.
        """
        image, places = _compiled(model.project_kept)(self.params["projector"], features, kept)
        span = features.shape[1] if original_positions else kept.shape[1]
        return decoding.prefill(
            self.params,
            before,
            image,
            kept if original_positions else places,
            span,
            common_ids,
            cfg=self.cfg,
            stage=_compiled,
        )

    def answer(
        self, prefix: decoding.Prefix, suffix_ids: stage.Array, lengths: stage.Array
    ) -> jax.Array:
        """Return first-token logits float32[G, Q, V]; see ``decoding.answer``."""
        return decoding.answer(
            self.params, prefix, suffix_ids, lengths, cfg=self.cfg, stage=_compiled
        )
