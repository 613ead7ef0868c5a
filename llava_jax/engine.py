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

from llava_jax import decoding, model
from llava_jax.config import LlavaConfig
from llava_jax.stage import Array, Params, Stage


@functools.cache
def _compiled(function: Callable[..., Any]) -> jax.stages.Wrapped:
    """Return a stage under ``jax.jit``, its config static."""
    static = [name for name in ("cfg",) if name in inspect.signature(function).parameters]
    return jax.jit(function, static_argnames=static)


def _rehearsed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a stage that is compiled for its arguments' shapes and returns those of its result."""

    def rehearse(*args: Any, **cfg: Any) -> Any:
        lowered = _compiled(function).lower(*args, **cfg)
        lowered.compile()
        return lowered.out_info

    return rehearse


class Engine:
    """A loaded model.

    Attributes:
        params: the parameter tree.
        cfg: its shapes.
        stage: how a stage is run.
    """

    def __init__(self, params: Params, cfg: LlavaConfig, stage: Stage = _compiled):
        self.params = params
        self.cfg = cfg
        self.stage = stage

    def rehearsal(self) -> Engine:
        """Return an engine that takes arrays or shapes, compiles, and returns shapes.

        What it has compiled need not be compiled again when this engine is called with arrays of
        those shapes; so a thread can compile for one part of the work while another is done.
        """
        return Engine(self.params, self.cfg, _rehearsed)

    def encode(
        self, pixels: Array, outputs: Sequence[str], saliency_layers: Sequence[int] = ()
    ) -> model.VisionOutputs:
        """Run the vision tower on float[G, H, W, 3]; see ``model.encode``."""
        return model.encode(
            self.params,
            pixels,
            cfg=self.cfg,
            outputs=outputs,
            saliency_layers=saliency_layers,
            stage=self.stage,
        )

    def begin(self, prompt_ids: Array) -> decoding.Prefix:
        """Compute the prefix of the text before the picture, int[S]; see ``decoding.begin``."""
        return decoding.begin(self.params, prompt_ids, cfg=self.cfg, stage=self.stage)

    def prefill(
        self,
        before: decoding.Prefix,
        features: jax.Array,
        kept: Array,
        common_ids: Array | None = None,
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
        image, places = self.stage(model.project_kept)(self.params["projector"], features, kept)
        span = features.shape[1] if original_positions else kept.shape[1]
        return decoding.prefill(
            self.params,
            before,
            image,
            kept if original_positions else places,
            span,
            common_ids,
            cfg=self.cfg,
            stage=self.stage,
        )

    def answer(self, prefix: decoding.Prefix, suffix_ids: Array, lengths: Array) -> jax.Array:
        """Return first-token logits float32[G, Q, V]; see ``decoding.answer``."""
        return decoding.answer(
            self.params, prefix, suffix_ids, lengths, cfg=self.cfg, stage=self.stage
        )
