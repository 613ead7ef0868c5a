"""Steps that several pruners share.

Axes: N visual tokens · D width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

_CHUNK = 256  # products per running sum; the error of a cosine grows with it
_HEIGHT, _PANELS = 192, 8  # least rows of a panel, most panels: each is compiled on its own


def check_budget(budget: int, num_tokens: int) -> None:
    """Raise a ValueError unless 1 ≤ budget ≤ N."""
    if not 1 <= budget <= num_tokens:
        raise ValueError(f"budget must be in 1 … {num_tokens} (all visual tokens), got {budget}")


def round_to(values: jax.Array, dtype: str) -> jax.Array:
    """Round float32 to the nearest number of a narrower format, ties to even.

    A cast there and back is not enough: XLA may leave it out on a GPU.

    Args:
      values: float32[...].
      dtype: "float32", which changes nothing, or "float16".

    Returns:
      float32[...].
    """
    if dtype == "float32":
        return values
    normal = jax.lax.reduce_precision(values, exponent_bits=5, mantissa_bits=10)
    subnormal = jnp.round(values * 2.0**24) * 2.0**-24  # reduce_precision makes them 0
    return jnp.where(jnp.abs(values) < 2.0**-14, subnormal, normal)


def unit_norm(values: jax.Array, axis: int, dtype: str = "float32") -> jax.Array:
    """Divide by the L2 norm along an axis, in float32; what has norm zero stays zero.

    Every vector is first scaled by a power of two to entries of at most 1, so that its norm cannot
    overflow or underflow and nothing is rounded.

    Args:
      values: float[...].
      axis: the one that a vector runs along.
      dtype: inputs, norms and unit vectors are each rounded to it.

    Returns:
      float32[...].
    """
    values = round_to(values.astype(jnp.float32), dtype)
    _, exponent = jnp.frexp(jnp.max(jnp.abs(values), axis=axis, keepdims=True))
    one, half = jnp.ones_like(exponent, jnp.float32), exponent // 2
    values = values * jnp.ldexp(one, -half) * jnp.ldexp(one, half - exponent)
    norm = round_to(jnp.linalg.norm(values, axis=axis, keepdims=True), dtype)
    return round_to(values / jnp.where(norm == 0, 1, norm), dtype)


def cosine_similarity(features: jax.Array, dtype: str = "float32") -> jax.Array:
    """Compare all tokens with each other, sᵢⱼ = xᵢ·xⱼ / (‖xᵢ‖ ‖xⱼ‖), in float32.

    Greedy selection in bfloat16 keeps only about two thirds of the right tokens, hence float32
    whatever the input, `precision=HIGHEST` (a TPU multiplies in bfloat16 otherwise), and sums over
    short chunks of D (one running sum over 1024 products is off by up to 2e-6 on a CPU, enough to
    change picks; in chunks by 5e-7, rarely more).

    Args:
      features: float[N, D].
      dtype: "float32", or "float16": inputs, norms, unit vectors and cosines are each rounded to
        it and sums are not, as in the arithmetic of half-precision models.

    Returns:
      float32[N, N], symmetric; 0 in the row and column of a token of norm zero.
    """
    return gram(unit_norm(features, -1, dtype), dtype)


def gram(vectors: jax.Array, dtype: str = "float32") -> jax.Array:
    """Multiply all vectors with each other, xᵢ·xⱼ, with full-precision products.

    Rows are multiplied from the diagonal on, and what is below it is mirrored.

    Args:
      vectors: float32[N, D].
      dtype: what the sums are rounded to.

    Returns:
      float32[N, N], symmetric bit for bit.
    """
    height = max(_HEIGHT, -(-vectors.shape[0] // _PANELS))
    panels = [
        round_to(_products(vectors[start : start + height], vectors[start:]), dtype)
        for start in range(0, vectors.shape[0], height)
    ]
    rows = []
    for i, panel in enumerate(panels):
        mirrored = [
            above[:, (i - j) * height :][:, : panel.shape[0]].T
            for j, above in enumerate(panels[:i])
        ]
        rows.append(jnp.concatenate([*mirrored, panel], axis=1))
    return jnp.concatenate(rows)


def _products(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return a·bᵀ, a sum over chunks of D."""
    total = jnp.zeros((a.shape[0], b.shape[0]), jnp.float32)
    for start in range(0, a.shape[1], _CHUNK):
        chunk = slice(start, start + _CHUNK)
        total += jnp.einsum(
            "id,jd->ij", a[:, chunk], b[:, chunk], precision=jax.lax.Precision.HIGHEST
        )
    return total
