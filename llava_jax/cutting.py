"""Answers of a decoder out of which visual tokens are taken between two layers.

    image[G, N, D] ──────── layers below the cut, once per picture ───┐
    suffix ids[G, Q, T] ─── layers below the cut, once per question ──┴► look ► choose ► cut
    visual[G · Q, K, D], text[G · Q, T, D] ─── layers above ───► logits[G, Q, V]

What is chosen depends on the question, so from the first cut on every question has a picture of
its own; below it all questions of a picture share one. The choice is the caller's.

Axis letters: G images, Q questions, B = G below the first cut and G · Q above it, S prompt text
before the picture, N visual tokens, W those that are left, K kept by a cut, R merged, T suffix,
M = S + N + T, H heads, D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from llava_jax import decoding, generation, model, text
from llava_jax.config import LlavaConfig
from llava_jax.looking import Choose, Run, Tokens, by_question, living, look, view
from llava_jax.stage import Array, Params, Stage, inline


class Cut(Protocol):
    """Where tokens are taken out."""

    @property
    def layer(self) -> int:
        """The first layer, 0-based, that runs without them."""

    @property
    def look(self) -> int:
        """The layer whose attention is looked at, ``layer`` − 1 or ``layer``."""

    @property
    def renumber(self) -> bool:
        """Whether what is left gets the positions 0, 1, … instead of keeping its own."""

    @property
    def how(self) -> str:
        """Say "drop"; "mask" hides them and leaves them; "restart" takes them out of the input."""


def answer(
    params: Params,
    prompt_ids: Array,
    image: jax.Array,
    suffix_ids: Array,
    lengths: Array,
    cuts: Sequence[Cut],
    choose: Choose,
    reads: Sequence[str],
    *,
    before: decoding.Prefix,
    keep: bool = False,
    observers: int = 0,
    cfg: LlavaConfig,
    stage: Stage = inline,
) -> tuple[generation.Context, jax.Array]:
    """Return what the answer is computed from, and which visual tokens were left for it.

    Args:
        params: the model.
        prompt_ids: int[S], text before the picture.
        image: float[G, N, D], all visual tokens, projected.
        suffix_ids: int[G, Q, T], the whole text after the picture, padded on the right.
        lengths: int[G, Q], true length of each suffix, 1..T.
        cuts: where tokens are taken out, from the first layer on; one that masks or restarts is
            the only one.
        choose: what is left after a cut.
        reads: names of the fields of ``View`` that ``choose`` reads.
        before: the prefix of prompt_ids, from ``decoding.begin``.
        keep: whether more than one token is wanted; without it, and where a cut masks, the
            context has the first token's logits alone.
        observers: as in ``decoding.read``.
        cfg: shapes.
        stage: how a stage is run.

    Returns:
        (context, int32[G, Q, W] the tokens left, −1 for one made of others and for every place
        that a cut left empty).
    """
    run = Run(params, before, lengths, reads, keep, observers, cfg, stage)
    embedding = {"embed_tokens": params["text"]["embed_tokens"]}
    start = tokens = stage(_start)(embedding, image, suffix_ids, before.next_position)
    layer, seen = 0, []
    for cut in cuts:
        tokens, looked, found = _descend(run, tokens, layer, cut)
        chosen = choose(cut, view(run, looked, tokens, start))
        if cut.how == "mask":
            logits = _answer_masked(run, prompt_ids, cut.layer, tokens, chosen)
            return generation.Context(logits, (), (), lengths), chosen.index
        if cut.how == "restart":
            again = _answer_again(run, image, suffix_ids, chosen.index, renumber=cut.renumber)
            return again, chosen.index
        seen += found
        if chosen.alive is None:
            tokens = stage(_take)(tokens, chosen.index, chosen.merged)
        else:
            tokens = stage(_take_living)(tokens, chosen.index, chosen.merged, chosen.alive)
        tokens = stage(_renumber)(tokens, before.next_position) if cut.renumber else tokens
        layer = cut.layer
    logits, found = _finish(run, tokens, layer)
    layers, suffixes = zip(*seen, *found, strict=True) if keep else ((), ())
    context = generation.Context(logits, layers, suffixes, lengths)
    return context, by_question(run, tokens.origin[:, None])


def _start(params: Params, image: jax.Array, suffix_ids: jax.Array, start: jax.Array) -> Tokens:
    """Return the decoder's input; ``start`` int[1] is the position of the picture."""
    (g, n, _), t = image.shape, suffix_ids.shape[2]
    places = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (g, 1, n))
    behind = jnp.broadcast_to(n + jnp.arange(t, dtype=jnp.int32), (g, 1, t))
    offset = start.reshape(1, 1, 1)
    words = text.embed(params, suffix_ids).astype(image.dtype)
    return Tokens(image[:, None], words, offset + places, offset + behind, places[:, 0])


_Seen = list[tuple[generation.Layer, text.KeyValue]]
"""Per layer, what the next token would find there and the suffixes' keys and values."""


def _descend(
    run: Run, tokens: Tokens, layer: int, cut: Cut
) -> tuple[Tokens, dict[str, jax.Array], _Seen]:
    """Run the layers from one to a cut; return the tokens there, what was looked at and seen."""
    looked, seen = {}, []
    for index in range(layer, cut.layer):
        if index == cut.look:
            looked = look(run, tokens, index)
        tokens, found = _advance(run, tokens, index)
        seen += found
    return tokens, look(run, tokens, cut.layer) if cut.look == cut.layer else looked, seen


def _advance(run: Run, tokens: Tokens, index: int) -> tuple[Tokens, _Seen]:
    """Run one layer."""
    layer, cfg = run.params["text"]["layers"][index], run.cfg.text
    before = run.before.layers[index]
    visual, prefix = run.stage(decoding.prefix_block)(
        layer, tokens.visual, tokens.positions, before, cfg=cfg
    )
    words, own = run.stage(text.block)(
        layer, tokens.text, tokens.text_positions, prefix, **living(run, tokens), cfg=cfg
    )
    seen = _seen(run, tokens, index, prefix, own)
    return dataclasses.replace(tokens, visual=visual, text=words), seen


def _seen(run: Run, tokens: Tokens, index: int, prefix: text.KeyValue, own: text.KeyValue) -> _Seen:
    """Return a layer's entry, if they are kept."""
    if not run.keep:
        return []
    shape = tokens.text.shape[:2]
    positions = jnp.broadcast_to(tokens.text_positions, tokens.text.shape[:3])
    last = (jnp.asarray(run.lengths) - 1).reshape(*shape, 1)
    behind = jnp.take_along_axis(positions, last, axis=2)[..., 0] + 1
    layer = generation.Layer(prefix, behind, **living(run, tokens))
    if run.observers:
        params, lengths = run.params["text"]["layers"][index], run.lengths.reshape(shape)
        offsets = np.arange(-min(run.observers, tokens.text.shape[2]), 0, dtype=np.int32)
        words = (params, tokens.text, tokens.text_positions, prefix, lengths, offsets)
        votes = run.stage(text.votes)(*words, **living(run, tokens), cfg=run.cfg.text)
        layer = layer._replace(votes=votes)
    return [(layer, own)]


def _finish(run: Run, tokens: Tokens, layer: int) -> tuple[jax.Array, _Seen]:
    """Run the layers from one to the last and read the answer, float32[G, Q, V]."""
    last, seen = run.cfg.text.num_layers - 1, []
    for index in range(layer, last):
        tokens, found = _advance(run, tokens, index)
        seen += found
    params, cfg = run.params["text"]["layers"][last], run.cfg.text
    prefix = run.stage(decoding.last_prefix_block)(
        params, tokens.visual, tokens.positions, run.before.layers[last], cfg=cfg
    )
    lengths = run.lengths.reshape(tokens.text.shape[:2])
    end = run.stage(text.last_token)(
        params,
        tokens.text,
        tokens.text_positions,
        prefix,
        lengths,
        **living(run, tokens),
        cfg=cfg,
    )
    if run.keep:
        own = run.stage(text.key_value)(params, tokens.text, tokens.text_positions, cfg=cfg)
        seen += _seen(run, tokens, last, prefix, own)
    return _read(run, end), seen


def _read(run: Run, end: jax.Array) -> jax.Array:
    """Return the logits float32[G, Q, V] of the last tokens, float[B, ·, 1, D]."""
    decoder = run.params["text"]
    head = {"norm": decoder["norm"], "lm_head": decoder["lm_head"]}
    return by_question(run, run.stage(decoding.logits)(head, end, cfg=run.cfg))


def _take(tokens: Tokens, index: jax.Array, merged: jax.Array | None) -> Tokens:
    """Keep visual tokens int[G, Q, K] in raster order, and put merged ones behind them."""
    b, q, k = tokens.visual.shape[0], index.shape[0] * index.shape[1], index.shape[2]
    rows = jnp.sort(index, axis=-1).reshape(b, -1, k)

    def kept(x: jax.Array) -> jax.Array:
        """Gather from [B, W, ...]: [G · Q, K, ...]."""
        at = rows.reshape(*rows.shape, *(1,) * (x.ndim - 2))
        return jnp.take_along_axis(x[:, None], at, axis=2).reshape(q, k, *x.shape[2:])

    visual, positions, origin = map(
        kept, (tokens.visual[:, 0], tokens.positions[:, 0], tokens.origin)
    )
    if merged is not None:
        r = merged.shape[2]
        visual = jnp.concatenate([visual, merged.reshape(q, r, -1).astype(visual.dtype)], axis=1)
        positions = jnp.pad(positions, ((0, 0), (0, r)))  # of no use: they are renumbered
        origin = jnp.pad(origin, ((0, 0), (0, r)), constant_values=-1)
    words, t = tokens.text, tokens.text.shape[2]
    behind = jnp.broadcast_to(tokens.text_positions, words.shape[:3]).reshape(q, 1, t)
    return Tokens(
        visual[:, None], words.reshape(q, 1, *words.shape[2:]), positions[:, None], behind, origin
    )


def _take_living(
    tokens: Tokens, index: jax.Array, merged: jax.Array | None, alive: jax.Array
) -> Tokens:
    """Keep those of index and merged that are alive, bool[G, Q, K + R], and fill up behind them.

    They are no more than there were before, and so no more than W places are needed.
    """
    w, k = tokens.visual.shape[2], index.shape[2]
    rows = jnp.sort(jnp.where(alive[..., :k], index, w), axis=-1)
    found = _take(tokens, jnp.minimum(rows, w - 1), merged)
    there = jnp.concatenate([rows < w, alive[..., k:]], axis=-1)
    there = there.reshape(found.origin.shape)
    order = jnp.argsort(~there, axis=-1, stable=True)[:, :w]
    there, origin, positions = (
        jnp.take_along_axis(x, order, axis=1) for x in (there, found.origin, found.positions[:, 0])
    )
    return dataclasses.replace(
        found,
        visual=jnp.take_along_axis(found.visual, order[:, None, :, None], axis=2),
        positions=positions[:, None],
        origin=jnp.where(there, origin, -1),
        alive=there,
    )


def _renumber(tokens: Tokens, start: jax.Array) -> Tokens:
    """Give what is left the positions from the picture's start on, int[1]."""
    w, t = tokens.visual.shape[2], tokens.text.shape[2]
    places = start.reshape(1, 1, 1) + jnp.arange(w + t, dtype=jnp.int32).reshape(1, 1, -1)
    places = jnp.broadcast_to(places, (tokens.visual.shape[0], 1, w + t))
    within, behind = places[..., :w], places[..., w:]
    if tokens.alive is not None:
        behind -= jnp.sum(~tokens.alive, axis=1, dtype=jnp.int32).reshape(-1, 1, 1)
    return dataclasses.replace(tokens, positions=within, text_positions=behind)


def _answer_again(
    run: Run, image: jax.Array, suffix_ids: Array, index: jax.Array, *, renumber: bool
) -> generation.Context:
    """Answer from the first layer on with the kept tokens alone."""
    kept = jnp.sort(index, axis=-1)
    k, n, t = kept.shape[-1], image.shape[1], suffix_ids.shape[2]
    picked = run.stage(model.pick)(image, kept)
    places = np.broadcast_to(np.arange(k), picked.shape[:2]) if renumber else kept.reshape(-1, k)
    how = {"cfg": run.cfg, "stage": run.stage}
    prefix = decoding.prefill(run.params, run.before, picked, places, k if renumber else n, **how)
    ids, lengths = suffix_ids.reshape(-1, 1, t), run.lengths.reshape(-1, 1)
    wanted = {"keep": run.keep, "observers": run.observers}
    context = generation.start(run.params, prefix, ids, lengths, **wanted, **how)
    return dataclasses.replace(
        context, logits=by_question(run, context.logits), lengths=run.lengths
    )


def _answer_masked(
    run: Run, prompt_ids: Array, layer: int, tokens: Tokens, chosen: Any
) -> jax.Array:
    """Answer with all M tokens in the layers from one on, of which each sees what it may."""
    decoder, cfg, stage = run.params["text"], run.cfg.text, run.stage
    embedding = {"embed_tokens": decoder["embed_tokens"]}
    x, positions, _ = stage(decoding.prompt)(embedding, prompt_ids)
    for params in decoder["layers"][:layer]:
        x, _ = stage(text.block)(
            params, x, positions, text.empty_prefix(1, x.dtype, cfg=cfg), cfg=cfg
        )
    x, positions = stage(_join)(x, positions, tokens, chosen.alive)
    nothing = text.empty_prefix(x.shape[0], x.dtype, cfg=cfg)
    visible = chosen.visible.reshape(x.shape[0], 1, *chosen.visible.shape[2:])
    for params in decoder["layers"][layer:]:
        x, _ = stage(text.block)(params, x, positions, nothing, visible, cfg=cfg)
    read = chosen.read.reshape(-1, 1, 1, 1)
    return _read(run, jnp.take_along_axis(x, read, axis=2))


def _join(
    x: jax.Array, positions: jax.Array, tokens: Tokens, alive: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return whole sequences float[G · Q, 1, M, D] and their positions; the dead are zero."""
    g, q, m = alive.shape

    def each(part: jax.Array) -> jax.Array:
        """Give [1, 1, ...], [G, 1, ...] or [G, Q, ...] to every question: [G · Q, 1, ...]."""
        return jnp.broadcast_to(part, (g, q, *part.shape[2:])).reshape(g * q, 1, *part.shape[2:])

    states = jnp.concatenate([each(x), each(tokens.visual), each(tokens.text)], axis=2)
    places = [each(part) for part in (positions, tokens.positions, tokens.text_positions)]
    return states * alive.reshape(g * q, 1, m, 1), jnp.concatenate(places, axis=2)
