"""Greedy maximum a posteriori of a determinantal point process.

Axes: N visual tokens · K tokens kept.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Of a token's variance: what is left below it is rounding, and counts as nothing.
_EXHAUSTED = 1e-6


def maximise(kernel: jax.Array, budget: int) -> jax.Array:
    """Pick, again and again, the token that multiplies det L_S most.

        j* = argmax vⱼ,   c = (Lⱼ* − Σ_t c_t c_tⱼ*) / √vⱼ*,   v ← v − c²

    where v, at first the diagonal of L, is the variance of each token given the kept ones
    and the rows c are those of a Cholesky factor: O(K N) a pick. The lowest index wins a
    tie. Once the rank of L is exhausted no token has a variance left: the others, and those
    with a NaN, follow in raster order.

    Source: Chen, Zhang & Zhou (2018), "Fast greedy MAP inference for determinantal point
    process to improve recommendation diversity".

    Args:
      kernel: float32[N, N], L, symmetric and positive semidefinite.
      budget: K, 1 … N.

    Returns:
      int32[K] in order of selection: `order[:k]` is the answer for every k < K.
    """
    num_tokens = kernel.shape[0]
    diagonal = jnp.diagonal(kernel)
    diagonal = jnp.where(diagonal > 0, diagonal, 0.0)

    def pick(step, state):
        variance, taken, rows, order = state
        best = jnp.argmax(jnp.where(taken, -jnp.inf, variance)).astype(jnp.int32)
        explained = jnp.einsum("tn,t->n", rows, rows[:, best], precision=jax.lax.Precision.HIGHEST)
        left = variance[best]
        row = (kernel[best] - explained) / jnp.sqrt(jnp.where(left > 0, left, 1.0))
        row = jnp.where(left > 0, row, 0.0)
        variance = variance - row**2
        variance = jnp.where(variance > _EXHAUSTED * diagonal, variance, 0.0)
        return variance, taken.at[best].set(True), rows.at[step].set(row), order.at[step].set(best)

    rows = jnp.zeros((budget, num_tokens), jnp.float32)
    state = diagonal, jnp.zeros(num_tokens, bool), rows, jnp.zeros(budget, jnp.int32)
    return jax.lax.fori_loop(0, budget, pick, state)[3]
