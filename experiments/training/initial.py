"""Starting points that decide whether a small tower learns within minutes.

Sine–cosine position rows, a patch embedding of whitened principal components, and
attention whose queries equal its keys, so that a token first looks at its like
(Trockman & Kolter 2023, "Mimetic initialization").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from llava_jax.config import TextConfig, VisionConfig

_COARSEST = 40.0  # patches, the longest wave of the position rows over 2π
_RIDGE = 0.1  # variance below which a principal component is noise


def position_rows(grid: int, width: int, amplitude: float = 0.6) -> np.ndarray:
    """Return sine–cosine rows of a square grid and a zero row for CLS.

    Args:
        grid: patches on a side.
        width: divisible by four.
        amplitude: of the waves.

    Returns:
        float32[1 + grid², width].
    """
    frequency = _COARSEST ** -np.linspace(0, 1, width // 4)
    angle = np.arange(grid)[:, None] * frequency
    waves = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    down = np.repeat(waves[:, None], grid, axis=1)
    across = np.repeat(waves[None], grid, axis=0)
    rows = np.concatenate([down, across], axis=2).reshape(grid * grid, width)
    return np.concatenate([np.zeros((1, width)), amplitude * rows]).astype(np.float32)


def whitened_patches(pixels: np.ndarray, patch: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a patch embedding of whitened principal components.

    Args:
        pixels: float32[G, H, W, 3], normalised.
        patch: side of a patch.
        width: components.

    Returns:
        (kernel float32[width, 3, patch, patch], its mean response float32[width]).
    """
    g, side, _, _ = pixels.shape
    n = side // patch
    rows = pixels.reshape(g, n, patch, n, patch, 3).transpose(0, 1, 3, 5, 2, 4)
    rows = rows.reshape(g * n * n, -1).astype(np.float64)
    mean = rows.mean(0)
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    top = np.argsort(values)[::-1][:width]
    kernel = (vectors[:, top] / np.sqrt(values[top] + _RIDGE)).T
    shape = (width, 3, patch, patch)
    return kernel.reshape(shape).astype(np.float32), (kernel @ mean).astype(np.float32)


def _orthonormal_heads(rng: np.random.Generator, width: int, heads: int, gain: float) -> np.ndarray:
    """Stack a random orthonormal [width / heads, width] block per head."""
    blocks = [np.linalg.qr(rng.normal(size=(width, width // heads)))[0].T for _ in range(heads)]
    return (gain * np.concatenate(blocks)).astype(np.float32)


def tower(
    params: dict[str, Any], cfg: VisionConfig, pixels: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """Replace a tower's random weights by the starting point above.

    Args:
        params: the vision tower.
        cfg: shapes.
        pixels: float32[G, H, W, 3], normalised pictures to take the statistics from.
        rng: source of chance.

    Returns:
        A new tower.
    """
    kernel, response = whitened_patches(pixels, cfg.patch_size, cfg.width)
    positions = position_rows(cfg.image_size // cfg.patch_size, cfg.width)
    positions[1:] -= response
    embeddings = dict(params["embeddings"])
    embeddings |= {"patch_embedding": kernel, "position_embedding": positions}
    layers = []
    for layer in params["layers"]:
        alike = _orthonormal_heads(rng, cfg.width, cfg.num_heads, 0.7)
        query, key = ({**layer[name], "weight": jnp.asarray(alike)} for name in "qk")
        out = {**layer["out"], "weight": 0.5 * layer["out"]["weight"]}
        fc2 = {**layer["fc2"], "weight": 0.5 * layer["fc2"]["weight"]}
        layers.append(layer | {"q": query, "k": key, "out": out, "fc2": fc2})
    embeddings = {name: jnp.asarray(value) for name, value in embeddings.items()}
    return params | {"embeddings": embeddings, "layers": layers}


def matching_head(
    cfg: TextConfig, reach: int, rng: np.random.Generator, gain: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return query and key weights of a head that matches content whatever the distance.

    Queries equal keys, and both live in the dimensions that RoPE turns by less than 1.6
    rad over ``reach`` positions.

    Args:
        cfg: shapes.
        reach: positions.
        rng: source of chance.
        gain: of the orthonormal rows.

    Returns:
        Twice float32[d, D].
    """
    half = cfg.head_dim // 2
    slow = np.flatnonzero(_frequencies(cfg) * reach < 1.6)
    slow = np.concatenate([slow, slow + half])
    weight = np.zeros((cfg.head_dim, cfg.width), np.float32)
    weight[slow] = gain * np.linalg.qr(rng.normal(size=(cfg.width, slow.size)))[0].T
    return weight, weight


def neighbour_head(
    cfg: TextConfig, common: np.ndarray, offset: int, gain: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return query and key weights of a head that looks ``offset`` tokens back.

    Both read a direction that all tokens share, in the dimensions that RoPE turns fast: the
    score of a token at distance δ is gain² Σᵢ cos(ωᵢ (δ − offset)), largest where they agree.

    Args:
        cfg: shapes.
        common: float[D], the shared direction, of unit length.
        offset: tokens.
        gain: of the rows.

    Returns:
        Twice float32[d, D].
    """
    frequency = _frequencies(cfg)
    fast = np.flatnonzero(frequency > 0.05)
    half, turn = cfg.head_dim // 2, frequency[fast] * offset
    query, key = np.zeros((2, cfg.head_dim, cfg.width), np.float32)
    key[fast] = gain * common
    query[fast] = gain * np.cos(turn)[:, None] * common
    query[fast + half] = -gain * np.sin(turn)[:, None] * common
    return query, key


def _frequencies(cfg: TextConfig) -> np.ndarray:
    """Return RoPE's angles per position, float64[d / 2]."""
    half = cfg.head_dim // 2
    return cfg.rope_theta ** (-np.arange(half) / half)


def with_heads(
    params: dict[str, Any], heads: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, Any]:
    """Return a decoder block with the query and key weights of its heads replaced."""
    query, key = (jnp.asarray(np.concatenate(part)) for part in zip(*heads, strict=True))
    return params | {"q": {"weight": query}, "k": {"weight": key}}
