"""Steps that several pruners share.

Axes: N visual tokens · D width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

_CHUNK = 128  # products per running sum; the error of a cosine grows with it


def check_budget(budget: int, num_tokens: int) -> None:
    """Raise a ValueError unless 1 ≤ budget ≤ N."""
    if not 1 <= budget <= num_tokens:
        raise ValueError(f"budget must be in 1 … {num_tokens} (all visual tokens), got {budget}")


def cosine_similarity(features: jax.Array) -> jax.Array:
    """Compare all tokens with each other, sᵢⱼ = xᵢ·xⱼ / (‖xᵢ‖ ‖xⱼ‖), in float32.

    Greedy selection in bfloat16 keeps only about two thirds of the right tokens, hence float32
    whatever the input, `precision=HIGHEST` (a TPU multiplies in bfloat16 otherwise), and sums over
    short chunks of D (one running sum over 1024 products is off by up to 2e-6 on a CPU, enough to
    change picks; in chunks 2e-7). Every token is first scaled by a power of two to entries of at
    most 1, so that its norm cannot overflow or underflow and nothing is rounded.

    Args:
      features: float[N, D].

    Returns:
      float32[N, N], symmetric; 0 in the row and column of a token of norm zero.
    """
    features = features.astype(jnp.float32)
    _, exponent = jnp.frexp(jnp.max(jnp.abs(features), axis=-1, keepdims=True))
    features = jnp.ldexp(features, -exponent)
    norm = jnp.linalg.norm(features, axis=-1, keepdims=True)
    unit = features / jnp.where(norm == 0, 1, norm)
    similarity = jnp.zeros((unit.shape[0], unit.shape[0]), jnp.float32)
    for start in range(0, unit.shape[1], _CHUNK):
        chunk = unit[:, start : start + _CHUNK]
        similarity += jnp.einsum("id,jd->ij", chunk, chunk, precision=jax.lax.Precision.HIGHEST)
    return similarity
