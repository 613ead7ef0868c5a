"""Answers of one batch under one setting, whatever the stage in which its pruner acts.

Axis letters: G pictures, Q questions, N visual tokens, C common start of the questions, K kept,
T suffix, V vocabulary.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import pruning
from experiments.harness import batching, selection, views
from experiments.harness.grid import Setting
from experiments.harness.stopwatch import Stopwatch
from llava_jax import decoding, generation, looking
from llava_jax.engine import Engine
from llava_jax.eviction import Eviction


@dataclasses.dataclass(frozen=True)
class Shared:
    """What all batches share.

    Attributes:
        engine: the model.
        prompt_ids: int32[S], the text before the picture.
        before: its prefix, computed beside the first picture.
        common_ids: int32[C], first tokens of every question.
        rehearsed: tokens handed over → done when the decoder is compiled for the first batch.
        end_id: of the token that ends an answer.
        max_new_tokens: of a generated answer; None reads the first token only.
        eviction: what is left in its cache; None for all.
        watch: is told where the time goes.
    """

    engine: Engine
    prompt_ids: np.ndarray
    before: concurrent.futures.Future[decoding.Prefix]
    common_ids: np.ndarray
    rehearsed: Mapping[int, concurrent.futures.Future[None]]
    end_id: int
    max_new_tokens: int | None
    eviction: Eviction | None
    watch: Stopwatch

    @property
    def speaks(self) -> bool:
        """Whether more than the first token is wanted."""
        return self.max_new_tokens is not None

    @property
    def observers(self) -> int:
        """Last tokens of each question whose attention decides what is left in the cache."""
        return self.eviction.observers if self.eviction else 0


class Answers(NamedTuple):
    """A batch's answers.

    Attributes:
        logits: float32[G, Q, V], of the first token.
        kept: int32[G, Q, W], or int32[G, 1, W] where all questions of a picture see the same:
            the visual tokens that were left, N for CLS, −1 for a token made of others and for a
            place that stayed empty; of a picture in T tiles T · N + t for the CLS of tile t.
        said: the text [G, Q, M]; None on the first-token route.
    """

    logits: jax.Array
    kept: np.ndarray
    said: generation.Generated | None = None


def answer(
    shared: Shared,
    orders: selection.Orders,
    features: jax.Array,
    batch: batching.ImageBatch,
    setting: Setting,
) -> Answers:
    """Answer a batch's questions under a setting.

    Args:
        shared: the model, and what was computed once.
        orders: of the batch.
        features: float[G, N, Dv], its visual tokens.
        batch: its questions.
        setting: the pruner, its budget, and how tokens are handed over.

    Raises:
        RuntimeError: the decoder did not see as many tokens as were asked for.
    """
    with shared.watch.stage("text before the picture"):
        before = shared.watch.ready(shared.before.result())
    if setting.inside:
        return _answer_inside(shared, before, features, batch, setting)
    handed = orders.handed(setting, features)
    return _answer_before(shared, before, handed, batch, setting)


def _answer_before(
    shared: Shared,
    before: decoding.Prefix,
    handed: selection.Handed,
    batch: batching.ImageBatch,
    setting: Setting,
) -> Answers:
    """Answer from tokens that were chosen before the decoder."""
    watch, engine = shared.watch, shared.engine
    (g, q), n = batch.lengths.shape, views.num_tokens(engine.cfg, batch.layout)
    count = setting.handed(batch.layout)
    if count in shared.rehearsed:  # not all budgets are open in the first batch
        with watch.stage("compile the decoder"):
            shared.rehearsed[count].exception()  # the answer itself would say it again
    places = np.maximum(handed.index, 0) if setting.positions == "original" else None
    with watch.stage("decoder, picture"):
        prefix = watch.ready(
            engine.prefill(before, handed.features, handed.rows, shared.common_ids, places=places)
        )
    text_tokens = before.length + len(shared.common_ids)
    if prefix.length != text_tokens + count:
        visual = prefix.length - text_tokens
        raise RuntimeError(f"the prefix has {visual} visual tokens, not K = {count}")
    pictures = prefix.next_position.shape[0]  # G, or one for each question
    ids = batch.suffix_ids.reshape(pictures, -1, batch.suffix_ids.shape[-1])
    lengths = batch.lengths.reshape(pictures, -1)
    with watch.stage("decoder, questions"):
        how = {"keep": shared.speaks, "observers": shared.observers}
        context = engine.read(prefix, ids, lengths, **how)
        watch.ready(context.logits)
    kept = np.where(handed.index < 0, n - 1 - handed.index, handed.index)  # CLS behind the last
    kept = kept.reshape(g, -1, kept.shape[-1])
    return Answers(context.logits.reshape(g, q, -1), kept, _said(shared, context, batch))


def _said(
    shared: Shared, context: generation.Context, batch: batching.ImageBatch
) -> generation.Generated | None:
    """Return the text after the questions, None on the first-token route."""
    if shared.max_new_tokens is None:
        return None
    with shared.watch.stage("decoder, text"):
        if shared.eviction:
            context = shared.engine.evict(context, shared.eviction)
        said = shared.engine.say(context, shared.end_id, shared.max_new_tokens)
    return said.reshape(*batch.lengths.shape)


def _answer_inside(
    shared: Shared,
    before: decoding.Prefix,
    features: jax.Array,
    batch: batching.ImageBatch,
    setting: Setting,
) -> Answers:
    """Answer from all visual tokens, some of which are taken out between decoder layers."""
    engine, pruner = shared.engine, setting.pruner
    (g, q), c = batch.lengths.shape, len(shared.common_ids)
    cuts = setting.cuts(features.shape[1], engine.cfg.text.num_layers)
    if not cuts and setting.budget < features.shape[1]:
        raise RuntimeError(f"pruner {setting.name} takes nothing out at K = {setting.budget}")
    images = [group.image for group in batch.groups]
    keys = jnp.stack([jax.random.split(key, q) for key in selection.image_keys(setting, images)])

    chosen: dict[pruning.Cut, Any] = {}

    def choose(cut: pruning.Cut, view: looking.View) -> Any:
        tokens = pruning.DecoderTokens(**vars(view))
        chosen[cut] = pruning.select_inside(pruner, tokens, cut, keys)
        return chosen[cut]

    common = np.broadcast_to(shared.common_ids, (g, q, c))
    with shared.watch.stage("decoder, pruned inside"):
        context, left = engine.answer_cut(
            shared.prompt_ids,
            before,
            features,
            np.concatenate([common, batch.suffix_ids], axis=2),
            batch.lengths + c,
            cuts,
            choose,
            pruner.needs,
            keep=shared.speaks,
            observers=shared.observers,
        )
        kept = np.asarray(shared.watch.ready(left))
    selection.check_range(kept, -1, features.shape[1], setting)
    place = np.arange(kept.shape[-1], dtype=kept.dtype)  # those made of others differ by place
    apart = np.where(kept < 0, -1 - place, kept)
    if cuts and cuts[-1].at_most:
        most = np.asarray(chosen[cuts[-1]].alive).sum(axis=-1)
        selection.check_at_most(apart, most, setting)
    else:
        count = setting.tokens_per_layer(features.shape[1], engine.cfg.text.num_layers)[-1]
        selection.check_distinct(apart, count, setting)
    return Answers(context.logits, kept, _said(shared, context, batch))
