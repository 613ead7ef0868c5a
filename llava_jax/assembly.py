"""Which tokens LLaVA-NeXT's decoder reads of a picture, and in which order: indices only.

    tokens[T · N] of the tiles, counted through;  T · N stands for image_newline
    sequence: tile 0 in raster order, then the map of all other tiles in raster order

A sequence is int32[M] into the tokens and the newline behind them; ``model.project_kept`` and
``Engine.prefill`` take it as ``kept``. Pruned pictures are read in the same order.

The published pruners give each tile budget // T tokens (SCOPE, clip_encoder.py; FasterVLM), chosen
from all N, those in the padding included, and keep no newline: LLaVA's ``mm_patch_merge_type``
``spatial`` (SCOPE, llava_arch.py; FasterVLM hard-codes it; CDPruner takes the unpadding out).
FasterVLM's other branch, ``spatial_unpad``, loses what was chosen in the padding and keeps every
row's newline. By default nothing in the padding is a candidate here, so that a budget is spent on
the picture, and no newline is kept.

Axis letters: T tiles, N visual tokens of a tile, K kept, M tokens of a sequence, H rows of the map
that show the picture.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from llava_jax.anyres import Layout
from llava_jax.stage import Array


def sequence(layout: Layout) -> np.ndarray:
    """Return what an unpruned picture is read as, LLaVA's ``spatial_unpad``.

    Returns:
        int32[M]: tile 0, then every row of the map without the padding, each with its newline.
    """
    tokens = np.flatnonzero(shown(layout))
    keys = np.concatenate([_keys(layout)[tokens], _newline_keys(layout)])
    return _tokens(layout)[np.sort(keys)]


def order(layout: Layout, kept: Array, *, newlines: bool = False) -> jax.Array:
    """Bring the kept tokens of a picture to the order that its sequence has.

    Args:
        layout: static under ``jax.jit``.
        kept: int[..., K], tokens counted through all tiles, in any order.
        newlines: whether every row of the picture ends with its newline, kept tokens or not.

    Returns:
        int32[..., K], or int32[..., K + H] with newlines.
    """
    keys = jnp.asarray(_keys(layout))[kept]
    if newlines:
        ends = _newline_keys(layout)
        ends = jnp.broadcast_to(ends, (*keys.shape[:-1], ends.size))
        keys = jnp.concatenate([keys, ends], axis=-1)
    return jnp.asarray(_tokens(layout))[jnp.sort(keys, axis=-1)]


def candidates(layout: Layout, *, padding: bool = False) -> tuple[np.ndarray, ...]:
    """Return the tokens of each tile that a pruner chooses from, counted through all tiles.

    Args:
        layout: of the picture.
        padding: whether tokens that show only padding are among them, as the official pruners
            have it.

    Returns:
        int32[up to N] for each of the T tiles.
    """
    numbers = np.arange(layout.num_tiles * layout.tile_tokens, dtype=np.int32)
    allowed = np.ones_like(numbers, bool) if padding else shown(layout)
    by_tile = numbers.reshape(layout.num_tiles, -1)
    return tuple(
        tile[free] for tile, free in zip(by_tile, allowed.reshape(by_tile.shape), strict=True)
    )


def tile_budgets(layout: Layout, budget: int, *, padding: bool = False) -> tuple[int, ...]:
    """Divide a picture's budget among its tiles as the official pruners do: budget // T each.

    Args:
        layout: of the picture.
        budget: tokens of the whole picture.
        padding: as in ``candidates``; without it, a tile that shows little keeps what it has.

    Returns:
        Tokens K_t to keep in each of the T tiles.

    Raises:
        ValueError: less than one token a tile.
    """
    tiles = layout.num_tiles
    if budget < tiles:
        raise ValueError(f"a budget of {budget} is less than a token for each of {tiles} tiles")
    return tuple(min(budget // tiles, len(c)) for c in candidates(layout, padding=padding))


def shown(layout: Layout) -> np.ndarray:
    """Return which tokens show the picture, bool[T · N]; of tile 0 all do."""
    (rows, columns), (top, left) = layout.map_shape, layout.padding
    inside = np.zeros((rows, columns), bool)
    inside[top : rows - top, left : columns - left] = True
    return np.concatenate([np.ones(layout.tile_tokens, bool), _by_tile(layout, inside)])


def _keys(layout: Layout) -> np.ndarray:
    """Return each token's place among all tokens and the newlines of all rows, int32[T · N]."""
    (rows, columns), first = layout.map_shape, layout.tile_tokens
    row, column = np.indices((rows, columns), np.int32)
    places = first + row * (columns + 1) + column
    return np.concatenate([np.arange(first, dtype=np.int32), _by_tile(layout, places)])


def _newline_keys(layout: Layout) -> np.ndarray:
    """Return the newlines' places on that scale, int32[H]."""
    (rows, columns), (top, _) = layout.map_shape, layout.padding
    row = np.arange(top, rows - top, dtype=np.int32)
    return layout.tile_tokens + row * (columns + 1) + columns


def _tokens(layout: Layout) -> np.ndarray:
    """Return the token at each of those places, int32; the inverse of the two above."""
    (rows, columns), keys = layout.map_shape, _keys(layout)
    newline = np.int32(keys.size)
    tokens = np.full(layout.tile_tokens + rows * (columns + 1), newline)
    tokens[keys] = np.arange(newline)
    return tokens


def _by_tile(layout: Layout, values: np.ndarray) -> np.ndarray:
    """Flatten what is given for each token of the map, tile after tile."""
    (rows, columns), side = layout.grid, layout.side
    return values.reshape(rows, side, columns, side).swapaxes(1, 2).ravel()
