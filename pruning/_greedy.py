"""Greedy maximisation of coverage, in two forms that pick the same tokens, bit for bit.

Both call one `Score`, whose sums have an order that depends on N alone: a compiler may
not reorder additions that are written out, while it sums an axis as suits the shape.

Axes: N visual tokens · K tokens kept · B rows recomputed at a time.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from ._ops import round_to

_BLOCK = 16  # B: 1.1 to 1.8 rounds per pick at N = 576 and 2880; 8 and 32 are slower
_LANES = 64  # numbers added side by side, four registers of the widest CPUs

# Not on CPUs. A dense step reads 4N² bytes: up to here at most 5 MB, which stays in the
# cache and costs less than the launches of a step; from here on it is bound by memory.
_DENSE_UP_TO = 1152


@dataclasses.dataclass(frozen=True)
class Score:
    """Rate a token by what it adds to the coverage, (Σᵢ max(0, sᵢⱼ − mᵢ)^γ) · wⱼ.

    Every step is monotone in floating point, correctly rounded or of monotone factors:
    while the coverage grows, the score of a token never rises by a single bit.

    Attributes:
      gamma: γ > 0.
      combine: "multiply" or "add" (… + wⱼ).
      dtype: every step is rounded to it; sums add up in float32 and are rounded once.
    """

    gamma: float
    combine: str
    dtype: str

    def __call__(self, row: jax.Array, weight: jax.Array, coverage: jax.Array) -> jax.Array:
        """Rate one token.

        Args:
          row: float32[N], the token's similarity to all tokens.
          weight: float32[], ≥ 0.
          coverage: float32[N].

        Returns:
          float32[] ≥ 0; 0 where it would be NaN, so that such a token comes last.
        """
        gap = jnp.maximum(round_to(row - coverage, self.dtype), 0.0)
        # The maximum changes nothing. It keeps a compiler from contracting the last product
        # of the power with an addition of the sum, as it might in one shape and not another.
        gain = jnp.maximum(round_to(power(gap, self.gamma), self.dtype), 0.0)
        total = round_to(_ordered_sum(gain), self.dtype)
        score = total * weight if self.combine == "multiply" else total + weight
        score = round_to(score, self.dtype)
        return jnp.where(score > 0, score, 0.0)


def maximise(
    score: Score, similarity: jax.Array, weight: jax.Array, budget: int, start: float = 0.0
) -> jax.Array:
    """Pick the token of the highest score, again and again; mᵢ ← max(mᵢ, sᵢⱼ*) from `start`.

    The lowest index wins a tie. CPUs are lazy; elsewhere `lazy` takes over where a step
    of `dense` is no longer bound by its launches.

    Args:
      score: how a token is rated.
      similarity: float32[N, N], symmetric.
      weight: float32[N], ≥ 0.
      budget: K, 1 … N.
      start: coverage of every token before the first pick.

    Returns:
      int32[K] in order of selection.
    """

    def run(form):
        return lambda similarity, weight: form(score, similarity, weight, budget, start)

    elsewhere = dense if weight.shape[0] <= _DENSE_UP_TO else lazy
    return jax.lax.platform_dependent(similarity, weight, cpu=run(lazy), default=run(elsewhere))


def dense(
    score: Score, similarity: jax.Array, weight: jax.Array, budget: int, start: float = 0.0
) -> jax.Array:
    """Rate all tokens anew for every pick: the definition. See `maximise`."""
    num_tokens = weight.shape[0]

    def pick(step, state):
        coverage, taken, order = state
        scores = jax.vmap(score, (0, 0, None))(similarity, weight, coverage)
        best = jnp.argmax(jnp.where(taken, -jnp.inf, scores)).astype(jnp.int32)
        coverage = jnp.maximum(coverage, similarity[best])  # row = column
        return coverage, taken.at[best].set(True), order.at[step].set(best)

    coverage = jnp.full(num_tokens, start, jnp.float32)
    taken = jnp.zeros(num_tokens, bool)
    order = jnp.zeros(budget, jnp.int32)
    return jax.lax.fori_loop(0, budget, pick, (coverage, taken, order))[2]


def lazy(
    score: Score, similarity: jax.Array, weight: jax.Array, budget: int, start: float = 0.0
) -> jax.Array:
    """Rate only tokens that may be the best, for the picks of `dense`. See `maximise`.

    A score that was computed once bounds the token's score ever after. Each round
    recomputes the B tokens of the highest bounds. If the first of the highest bounds is
    then one of theirs, it is a score, no other token has a higher one and none of lower
    index an equal one, so it is `dense`'s pick.

    Source: Minoux (1978), "Accelerated greedy algorithms for maximizing submodular set
    functions", a block of tokens at a time.
    """
    num_tokens = weight.shape[0]
    block = min(_BLOCK, num_tokens)

    def rounds_are_left(state):
        return state[0] < budget

    def go_round(state):
        picked, coverage, bound, order = state
        old, rows = jax.lax.top_k(bound, block)
        new = jax.vmap(score, (0, 0, None))(similarity[rows], weight[rows], coverage)
        bound = bound.at[rows].set(jnp.where(old == -jnp.inf, old, new))  # taken ones stay so
        best = jnp.argmax(bound).astype(jnp.int32)
        fresh = jnp.any(rows == best)
        coverage = jnp.where(fresh, jnp.maximum(coverage, similarity[best]), coverage)
        bound = bound.at[best].set(jnp.where(fresh, -jnp.inf, bound[best]))
        order = order.at[picked].set(best)  # overwritten next time unless fresh
        return picked + fresh, coverage, bound, order

    coverage = jnp.full(num_tokens, start, jnp.float32)
    bound = jax.lax.map(
        lambda token: score(token[0], token[1], coverage), (similarity, weight), batch_size=block
    )
    state = jnp.int32(0), coverage, bound, jnp.zeros(budget, jnp.int32)
    return jax.lax.while_loop(rounds_are_left, go_round, state)[3]


def power(base: jax.Array, exponent: float) -> jax.Array:
    """Return base^exponent for base ≥ 0 and exponent > 0, so that 0^exponent = 0.

    Multiples of ¼ up to 8 are products of roots, x^¾ = √x·√√x: within a few units in
    the last place of the power, an order of magnitude faster on a CPU, and monotone,
    because roots and products are correctly rounded. The others call the library, whose
    `pow` rose monotonically over all float32 numbers that were tried.

    Args:
      base: float32[...].
      exponent: static.

    Returns:
      float32[...].
    """
    quarters = 4 * exponent
    if exponent > 8 or quarters != int(quarters):
        return base**exponent
    whole, rest = divmod(int(quarters), 4)
    factors = [jax.lax.integer_pow(base, whole)] if whole else []
    if rest >= 2:
        factors.append(jnp.sqrt(base))
    if rest % 2:
        factors.append(jnp.sqrt(jnp.sqrt(base)))
    product = factors[0]
    for factor in factors[1:]:
        product = product * factor
    return product


def _ordered_sum(terms: jax.Array) -> jax.Array:
    """Add up float32[N] in lanes, in an order that depends on N alone."""
    terms = jnp.pad(terms, (0, -terms.shape[0] % _LANES))
    for parts in (terms.shape[0] // _LANES, 8, _LANES // 8):
        pieces = jnp.split(terms, parts)
        while len(pieces) > 1:
            pairs = [a + b for a, b in zip(pieces[::2], pieces[1::2], strict=False)]
            pieces = pairs + pieces[2 * len(pairs) :]
        terms = pieces[0]
    return terms[0]
