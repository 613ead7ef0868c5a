"""Starting points that decide whether a small tower learns within minutes.

Sine–cosine position rows, a patch embedding of whitened principal components, and
attention whose queries equal its keys, so that a token first looks at its like
(Trockman & Kolter 2023, "Mimetic initialization").
"""

from __future__ import annotations

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


def matching_heads(
    params: dict[str, Any], cfg: TextConfig, reach: int, rng: np.random.Generator, gain: float
) -> dict[str, Any]:
    """Let a decoder block start by matching content whatever the distance.

    Queries equal keys, and both live in the dimensions that RoPE turns by less than 1.6
    rad over ``reach`` positions.

    Args:
        params: the block.
        cfg: shapes; as many key heads as query heads.
        reach: positions.
        rng: source of chance.
        gain: of the orthonormal rows.

    Returns:
        A new block.
    """
    half = cfg.head_dim // 2
    slow = np.flatnonzero(cfg.rope_theta ** (-np.arange(half) / half) * reach < 1.6)
    slow = np.concatenate([slow, slow + half])
    weight = np.zeros((cfg.num_heads, cfg.head_dim, cfg.width), np.float32)
    for head in weight:
        head[slow] = gain * np.linalg.qr(rng.normal(size=(cfg.width, slow.size)))[0].T
    alike = {"weight": jnp.asarray(weight.reshape(-1, cfg.width))}
    return params | {"q": alike, "k": dict(alike)}
