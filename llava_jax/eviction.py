"""Which prompt tokens stay in the cache, chosen once, before an answer is generated.

    Context: P + T prompt tokens ─ evict ─► Context: at most C of them in every layer and head

The first answer token is computed from the whole prompt: what is evicted shows from the second
token on. Kept keys stay rotated by their own positions, and new tokens count on from the whole
prompt's length; generated tokens are never evicted.

Axis letters: B pictures, or questions where each has a prefix of its own, Q questions of each,
P prefix, T suffix, M = P + T, C kept (the budget), W observers, K key-value heads, d head width.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from llava_jax import generation, text
from llava_jax.stage import Stage, inline

SINKS = 4
"""First tokens that ``recent_window`` keeps, as in StreamingLLM."""
_KERNEL = 5  # of SnapKV's pooling


@dataclasses.dataclass(frozen=True)
class Eviction:
    """How a cache is made smaller.

    Attributes:
        method: ``snapkv`` or ``window``.
        budget: prompt tokens C that every layer and key-value head keeps.
        window: last tokens of the question whose attention SnapKV counts, and keeps.
    """

    method: Literal["snapkv", "window"]
    budget: int
    window: int = 32

    def __post_init__(self) -> None:
        """Refuse a budget that leaves nothing to choose.

        Raises:
            ValueError: it does.
        """
        always = {"snapkv": self.window, "window": SINKS}[self.method]
        if self.window < 1 or self.budget <= always:
            raise ValueError(
                f"a budget of {self.budget} prompt tokens and a window of {self.window}: "
                f"{self.method} keeps {always} anyway, so a budget of at least {always + 1} and a "
                "window of at least 1 are right"
            )

    def __str__(self) -> str:
        kept = f"{self.budget} prompt tokens in every layer and key-value head"
        return {
            "snapkv": f"{kept}, those at which a question's last {self.window} tokens look most",
            "window": f"{kept}, the first {SINKS} and the last",
        }[self.method]

    @property
    def observers(self) -> int:
        """Tokens whose votes ``evict`` reads."""
        return self.window if self.method == "snapkv" else 0


def snapkv(
    votes: jax.Array, num_tokens: jax.Array, num_observers: jax.Array, budget: int
) -> jax.Array:
    """Keep the observers and what they look at most (SnapKV, arXiv:2404.14469, §4).

    vote_j = Σ_observers Σ_heads of the group a_j, averaged over 5 neighbours; the C − W largest,
    of equal ones the first. The paper leaves the pooling open; averages over 5 are its code's
    default (FasterDecoding/SnapKV), which pools before it chooses, with zeros around the tokens.
    That code copies keys and values for every query head; here the heads that share them choose
    together, by their sum.

    Args:
        votes: float32[..., K, M], attention to every token; what follows the tokens is ignored.
        num_tokens: int[...], of the prompt, ≤ M.
        num_observers: int[...], last ones of them.
        budget: tokens C to keep, ≤ M.

    Returns:
        int32[..., K, C], in ascending order; where there are fewer tokens, places behind them
        follow.
    """
    m = votes.shape[-1]
    place = jnp.arange(m).reshape((1,) * (votes.ndim - 1) + (m,))
    count, observers = num_tokens[..., None, None], num_observers[..., None, None]
    old = place < count - observers
    around = [(0, 0)] * (votes.ndim - 1) + [(_KERNEL // 2, _KERNEL // 2)]
    padded = jnp.pad(jnp.where(old, votes, 0.0), around)
    pooled = sum(padded[..., i : i + m] for i in range(_KERNEL)) / _KERNEL
    score = jnp.where(old, pooled, jnp.where(place < count, jnp.inf, -jnp.inf))
    return jnp.sort(jax.lax.top_k(score, budget)[1], axis=-1)


def recent_window(num_tokens: jax.Array, budget: int) -> jax.Array:
    """Keep the first four tokens and the last (StreamingLLM, arXiv:2309.17453, §3.2).

    StreamingLLM renumbers what is left, to write more than a model can read; a short answer needs
    none of that, and positions stay.

    Args:
        num_tokens: int[...], of the prompt.
        budget: tokens C to keep.

    Returns:
        int32[..., C], in ascending order; where there are fewer tokens, places behind them follow.
    """
    slot = jnp.arange(budget).reshape((1,) * num_tokens.ndim + (budget,))
    skipped = jnp.maximum(num_tokens - budget, 0)[..., None]
    return slot + jnp.where(slot < SINKS, 0, skipped)


def evict(
    context: generation.Context, how: Eviction, *, stage: Stage = inline
) -> generation.Context:
    """Leave at most C prompt tokens in the cache of every layer and key-value head.

    Args:
        context: of the questions; read with ``how.observers``.
        how: what is left.
        stage: how a stage is run.

    Returns:
        The context in which every question has a prefix of its own of C tokens, and no suffix.

    Raises:
        ValueError: SnapKV, and the questions were read without observers.
    """
    pairs = zip(context.layers, context.suffixes, strict=True)
    kept = [stage(evict_layer)(*pair, context.lengths, cfg=how) for pair in pairs]
    layers, suffixes = zip(*kept, strict=True)
    nothing = np.zeros(context.logits.shape[:2], np.int32)
    return generation.Context(context.logits, layers, suffixes, nothing)


def evict_layer(
    layer: generation.Layer, suffix: text.KeyValue, lengths: jax.Array, *, cfg: Eviction
) -> tuple[generation.Layer, text.KeyValue]:
    """Leave at most C prompt tokens in one layer.

    Args:
        layer: prefixes, of P tokens each.
        suffix: keys and values float[B, Q, T, K, d].
        lengths: B · Q integers, true length of each suffix.
        cfg: what is left.

    Returns:
        (layer with prefixes float[B · Q, C, K, d], an empty suffix float[B · Q, 1, 0, K, d]).
    """
    b, q, t, heads, width = suffix.keys.shape
    lengths = lengths.reshape(b, q)
    alive = _alive(layer, lengths, t)
    order = jnp.argsort(~alive, axis=-1, stable=True)[:, :, None]  # the prompt without its gaps
    count, budget = alive.sum(-1), min(cfg.budget, alive.shape[-1])
    if cfg.method == "snapkv":
        if layer.votes is None:
            raise ValueError(f"snapkv needs votes: read the questions with observers={cfg.window}")
        votes = jnp.take_along_axis(layer.votes, order, axis=-1)
        ranks = snapkv(votes, count, jnp.minimum(lengths, cfg.window), budget)
    else:
        ranks = jnp.broadcast_to(recent_window(count, budget)[:, :, None], (b, q, heads, budget))
    index = jnp.take_along_axis(order, ranks, axis=-1)
    kept = text.KeyValue(*map(lambda x, y: _gather(x, y, index), layer.prefix, suffix))
    nothing = text.KeyValue(*(x.reshape(b * q, 1, t, heads, width)[:, :, :0] for x in suffix))
    there = jnp.arange(budget).reshape(1, -1) < count.reshape(-1, 1)
    return generation.Layer(kept, layer.next_position.reshape(-1, 1), there), nothing


def _alive(layer: generation.Layer, lengths: jax.Array, num_suffix: int) -> jax.Array:
    """Return which places of prefix and suffix hold a token, bool[B, Q, M]."""
    (b, q), p = lengths.shape, layer.prefix.keys.shape[1]
    known = layer.prefix_visible
    before = jnp.ones((b, p), bool) if known is None else known
    own = jnp.arange(num_suffix).reshape(1, 1, -1) < lengths[..., None]
    return jnp.concatenate([jnp.broadcast_to(before[:, None], (b, q, p)), own], axis=-1)


def _gather(prefix: jax.Array, suffix: jax.Array, index: jax.Array) -> jax.Array:
    """Pick places int[B, Q, K, C] of float[B, P, K, d] and float[B, Q, T, K, d] behind it.

    Returns:
        float[B · Q, C, K, d].
    """
    p, at = prefix.shape[1], jnp.moveaxis(index, 3, 2)[..., None]
    before = jnp.take_along_axis(prefix[:, None], jnp.minimum(at, p - 1), axis=2)
    own = jnp.take_along_axis(suffix, jnp.maximum(at - p, 0), axis=2)
    picked = jnp.where(at < p, before, own)
    return picked.reshape(-1, *picked.shape[2:])
