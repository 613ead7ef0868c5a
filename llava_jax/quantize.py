"""Weight-only quantisation: a matrix as small integers and scales, multiplied as it is read.

    W[o, i] ≈ s[o, i // g] · q[o, i],   q = round(W / s),   s = max|W| / (2ᵇ⁻¹ − 1)

int8 has one scale per output channel (g = I), as in LLM.int8()'s weights (Dettmers et al. 2022,
§2); int4 one per 32 neighbours of a channel, as llama.cpp's Q4_0. The decoder's blocks are
quantised, nearly all of a LLaVA's weights; embedding, head, norms, projector and vision tower keep
the model's dtype. Axis letters: O outputs, I inputs, g inputs of a group.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

BITS = {"int8": 8, "int4": 4}
"""Formats by name."""
GROUP = 32
"""Neighbouring inputs that share a scale in int4."""
_MATRICES = re.compile(r"text/layers/\d+/(q|k|v|out|gate|up|down)/weight")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantized:
    """A quantised matrix; a leaf of the parameter tree where a weight would be.

    Attributes:
        values: int8[O, I] or int4[O, I]; first, because linen compares its shape with the weight's.
        scale: float32[O, I / g].
    """

    values: Any
    scale: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape [O, I] of the matrix."""
        return self.values.shape

    def factors(self, dtype: Any) -> tuple[jax.Array, jax.Array | None]:
        """Return the matrix in a dtype, and what its product's columns are multiplied by.

        One scale per channel is left for the product, where it costs nothing and rounds nothing:
        a dtype of half precision holds every int8 exactly.

        Args:
            dtype: of the product's other factor.

        Returns:
            (dtype[O, I], float32[O] or None for nothing left).
        """
        if self.scale.shape[1] == 1:
            return self.values.astype(dtype), self.scale[:, 0]
        return self.dequantize().astype(dtype), None

    def dequantize(self) -> jax.Array:
        """Return the matrix that the integers stand for, float32[O, I]."""
        (o, i), groups = self.values.shape, self.scale.shape[1]
        values = self.values.astype(jnp.float32).reshape(o, groups, i // groups)
        scale = jnp.broadcast_to(self.scale[..., None], values.shape)
        return (values * scale).reshape(o, i)


def of(path: str, how: str | None) -> str | None:
    """Return how one parameter of a model is quantised, None for not at all.

    Args:
        path: of the parameter in the tree.
        how: the model is; name out of ``BITS``, or None.
    """
    return how if _MATRICES.fullmatch(path) else None


def quantize(weight: np.ndarray, how: str) -> Quantized:
    """Quantise a matrix on the host, to nearest, symmetrically.

    Args:
        weight: float[O, I].
        how: name out of ``BITS``.

    Raises:
        ValueError: int4, and I is no multiple of its group.
    """
    o, i = weight.shape
    group = _group(i, how)
    x = weight.astype(np.float32).reshape(o, i // group, group)
    largest = np.abs(x).max(axis=-1)
    scale = np.where(largest > 0, largest, 1) / np.float32(2 ** (BITS[how] - 1) - 1)
    np.divide(x, scale[..., None], out=x)
    values = np.rint(x, out=x).astype(_dtype(how)).reshape(o, i)
    return Quantized(values, scale)


def abstract(weight: Any, how: str) -> Quantized:
    """Return the shapes and dtypes of a quantised matrix, float[O, I] before."""
    o, i = weight.shape
    scale = jax.ShapeDtypeStruct((o, i // _group(i, how)), np.float32)
    return Quantized(jax.ShapeDtypeStruct((o, i), _dtype(how)), scale)


def num_bytes(shape: tuple[int, ...], how: str) -> int:
    """Return the bytes of a quantised matrix on a device that packs its integers."""
    o, i = shape
    return o * i * BITS[how] // 8 + 4 * o * (i // _group(i, how))


def _group(num_inputs: int, how: str) -> int:
    if how == "int8":
        return num_inputs
    if num_inputs % GROUP:
        raise ValueError(f"{how} shares a scale among {GROUP} inputs; {num_inputs} do not divide")
    return GROUP


def _dtype(how: str) -> np.dtype:
    return np.dtype(np.int8 if how == "int8" else ml_dtypes.int4)
