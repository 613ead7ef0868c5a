"""What pruners are shown of a picture in tiles: each tile as a picture, or all of it as one.

    seen[G, T, …] ─ tokens ─► [B, …] ─ pruner ─► index[B, K] ─ number ─► tokens of the picture

``each`` is what the published pruners do: every tile is a picture of its own, B = G · T, keeps
budget // T of its N tokens, and those in the padding are among them (SCOPE, clip_encoder.py).
``all`` spends one budget on the whole, B = G: a pruner chooses from every token that shows the
picture, as if they were of one picture whose CLS is tile 0's. The tokens of a picture are counted
through, tile after tile; CLS of tile t is −1 − t.

Axis letters: G pictures, T tiles, B pictures as a pruner sees them, N visual tokens of a tile, K
kept of each.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import pruning
from llava_jax import assembly
from llava_jax.anyres import Layout

EACH, ALL = "each", "all"
_LAST = ("saliency", "saliency_by_layer", "last_saliency")
"""Fields whose last axis is the tokens'; of the others the last but one is."""
_WITH_CLS = ("hidden", "keys", "last_keys")
"""Fields whose first token is CLS."""


@dataclasses.dataclass(frozen=True)
class Division:
    """How pruners are shown the tiles of a picture.

    Attributes:
        layout: of the picture.
        how: ``each`` or ``all``.
    """

    layout: Layout
    how: str

    @property
    def parts(self) -> int:
        """Pictures that one is for a pruner, B / G."""
        return self.layout.num_tiles if self.how == EACH else 1

    def budget(self, budget: int) -> int:
        """Return K of each part, from the budget of the whole picture."""
        return budget // self.parts

    @property
    def most(self) -> int:
        """The largest budget of the whole picture."""
        if self.how == EACH:
            return self.parts * self.layout.tile_tokens
        return len(self._shown)

    def keys(self, keys: jax.Array) -> jax.Array:
        """Return key[B] of key[G]: no two tiles of a picture have the same."""
        if self.how == ALL:
            return keys
        fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
        return fold(keys, jnp.arange(self.parts)).reshape(-1)

    def tokens(self, seen: pruning.Tokens) -> pruning.Tokens:
        """Return what a pruner may look at.

        Args:
            seen: fields with leading axes [G, T].

        Returns:
            The same fields with a leading axis B.
        """
        view = {name: value for name, value in vars(seen).items() if value is not None}
        if self.how == EACH:
            return pruning.Tokens(**{k: x.reshape(-1, *x.shape[2:]) for k, x in view.items()})
        return pruning.Tokens(**{k: self._as_one(k, x) for k, x in view.items()})

    def number(self, index: np.ndarray) -> np.ndarray:
        """Count a pruner's choice through the tiles.

        Args:
            index: int[B, K], tokens as the pruner saw them, −1 for CLS.

        Returns:
            int32[G, B / G · K], tile after tile.
        """
        index = index.reshape(-1, self.parts, index.shape[-1])
        part = np.arange(self.parts)[:, None]
        each = index + self.layout.tile_tokens * part
        patches = each if self.how == EACH else self._shown[index]
        found = np.where(index < 0, -1 - part, patches)
        return found.reshape(len(index), -1).astype(np.int32)

    @property
    def _shown(self) -> np.ndarray:
        """The tokens that show the picture."""
        return np.flatnonzero(assembly.shown(self.layout))

    def _as_one(self, name: str, x: jax.Array) -> jax.Array:
        """Put the tokens of all tiles behind each other, those of the padding left out."""
        axis, special = (-1 if name in _LAST else -2), int(name in _WITH_CLS)
        x = jnp.moveaxis(x, axis, 2)
        patches = x[:, :, special:].reshape(len(x), -1, *x.shape[3:])[:, self._shown]
        return jnp.moveaxis(jnp.concatenate([x[:, 0, :special], patches], axis=1), 1, axis)
