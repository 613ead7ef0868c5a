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
from jax.sharding import Mesh

from llava_jax import (
    clip_text,
    cutting,
    decoding,
    eviction,
    generation,
    looking,
    model,
    sharding,
)
from llava_jax.clip_config import ClipConfig
from llava_jax.config import LlavaConfig
from llava_jax.stage import Array, Params, Stage


@functools.cache
def _compiled(function: Callable[..., Any]) -> jax.stages.Wrapped:
    """Return a stage under ``jax.jit``, its config static; a cache is written where it lies."""
    parameters = inspect.signature(function).parameters
    static, donated = ([name] if name in parameters else [] for name in ("cfg", "cache"))
    return jax.jit(function, static_argnames=static, donate_argnames=donated)


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
        mesh: of devices that share the model and the pictures; None for one device.
        stage: how a stage is run.
    """

    def __init__(
        self,
        params: Params,
        cfg: LlavaConfig,
        mesh: Mesh | None = None,
        stage: Stage = _compiled,
    ):
        self.params = params
        self.cfg = cfg
        self.mesh = mesh
        self.stage = stage

    def rehearsal(self) -> Engine:
        """Return an engine that takes arrays or shapes, compiles, and returns shapes.

        What it has compiled need not be compiled again when this engine is called with arrays of
        those shapes; so a thread can compile for one part of the work while another is done.
        """
        return Engine(self.params, self.cfg, stage=_rehearsed)

    def encode(
        self, pixels: Array, outputs: Sequence[str], saliency_layers: Sequence[int] = ()
    ) -> model.VisionOutputs:
        """Run the vision tower on float[G, H, W, 3]; see ``model.encode``."""
        return model.encode(
            self.params,
            self._spread(pixels),
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
        places: Array | None = None,
    ) -> decoding.Prefix:
        """Compute the prefix that the questions of each picture share.

        Args:
            before: the text before the picture, from ``begin``.
            features: float[G, N, Dv], all visual tokens before the projector.
            kept: int[G, K], which of them the decoder sees, in the order to hand over; or
                int[G, Q, K], and every question has a prefix of its own.
            common_ids: int[C], first tokens of every suffix; None for no token.
            places: integers of kept's shape, the place that each of them keeps among the
                model's visual tokens; None renumbers them 0..K−1.

        Returns:
            The prefix of S + K + C tokens, of G pictures or of G · Q questions.
        """
        picked = self._spread(features), self._spread(kept)
        newline = self.params.get("image_newline")
        image, numbers = self.stage(model.project_kept)(self.params["projector"], *picked, newline)
        k = kept.shape[-1]
        return decoding.prefill(
            self.params,
            before,
            image,
            numbers if places is None else self._spread(places.reshape(-1, k)),
            k if places is None else self.cfg.vision.num_tokens,
            common_ids,
            cfg=self.cfg,
            stage=self.stage,
        )

    def answer(self, prefix: decoding.Prefix, suffix_ids: Array, lengths: Array) -> jax.Array:
        """Return first-token logits float32[G, Q, V]; see ``decoding.answer``."""
        asked = self._spread(suffix_ids), self._spread(lengths)
        return decoding.answer(self.params, prefix, *asked, cfg=self.cfg, stage=self.stage)

    def read(
        self,
        prefix: decoding.Prefix,
        suffix_ids: Array,
        lengths: Array,
        *,
        keep: bool = True,
        observers: int = 0,
    ) -> generation.Context:
        """Read questions so that they can be answered at length; see ``generation.start``."""
        how = {"keep": keep, "observers": observers, "cfg": self.cfg, "stage": self.stage}
        asked = self._spread(suffix_ids), self._spread(lengths)
        return generation.start(self.params, prefix, *asked, **how)

    def evict(self, context: generation.Context, how: eviction.Eviction) -> generation.Context:
        """Leave a part of the prompt in the cache before a text; see ``eviction.evict``."""
        return eviction.evict(context, how, stage=self.stage)

    def say(
        self, context: generation.Context, end_id: int, max_new_tokens: int
    ) -> generation.Generated:
        """Return the text after what was read, once; see ``generation.greedy``."""
        how = {"cfg": self.cfg, "stage": self.stage}
        return generation.greedy(self.params, context, end_id, max_new_tokens, **how)

    def answer_cut(
        self,
        prompt_ids: Array,
        before: decoding.Prefix,
        features: jax.Array,
        suffix_ids: Array,
        lengths: Array,
        cuts: Sequence[cutting.Cut],
        choose: looking.Choose,
        reads: Sequence[str],
        *,
        keep: bool = False,
        observers: int = 0,
    ) -> tuple[generation.Context, jax.Array]:
        """Answer from all visual tokens, float[G, N, Dv], of which some are taken out on the way.

        Args:
            prompt_ids: int[S], text before the picture.
            before: its prefix, from ``begin``.
            features: float[G, N, Dv], all visual tokens before the projector.
            suffix_ids: int[G, Q, T], the whole text after the picture.
            lengths: int[G, Q].
            cuts: where; see ``cutting.answer``.
            choose: what is left.
            reads: what ``choose`` looks at.
            keep: whether more than the first token is wanted.
            observers: as in ``decoding.read``.

        Returns:
            (context, int32[G, Q, W] the tokens left, −1 for one made of others and for every
            place that a cut left empty).
        """
        image = self.stage(model.project)(self.params["projector"], self._spread(features))
        return cutting.answer(
            self.params,
            prompt_ids,
            image,
            self._spread(suffix_ids),
            self._spread(lengths),
            cuts,
            choose,
            reads,
            before=before,
            keep=keep,
            observers=observers,
            cfg=self.cfg,
            stage=self.stage,
        )

    def _spread(self, batch: Array) -> Array:
        """Divide a batch's leading axis among the devices."""
        return sharding.spread(batch, self.mesh)


class ClipEngine:
    """A loaded dual encoder.

    Attributes:
        params: the parameter tree.
        cfg: its shapes.
    """

    def __init__(self, params: Params, cfg: ClipConfig):
        self.params = params
        self.cfg = cfg

    def texts(self, ids: Array) -> jax.Array:
        """Embed texts int[E, T] in the shared space, float[E, P]; see ``clip_text.embed_text``."""
        parts = {name: self.params[name] for name in ("text", "text_projection")}
        return _compiled(clip_text.embed_text)(parts, ids, cfg=self.cfg)

    def patches(self, features: jax.Array) -> jax.Array:
        """Embed vision features float[..., Dv] in the shared space, float[..., P]."""
        norm = {"post_norm": self.params["vision"]["post_norm"]}
        parts = {"vision": norm, "visual_projection": self.params["visual_projection"]}
        return _compiled(clip_text.embed_visual)(parts, features, cfg=self.cfg)
