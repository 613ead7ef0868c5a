"""What SparseVLM makes of the tokens that it does not keep: means of clusters of the best.

Axes: V visual tokens that are left · C merged tokens · D width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ._density import cluster_means, density_peaks


def recycle(hidden: jax.Array, order: jax.Array, keep: int) -> jax.Array:
    """Merge the best of the tokens that are not kept into means of clusters (`density_peaks`).

    Of d deleted tokens the first ⌊0.3 d⌋ + 1 are recycled, and every ten of them and the rest
    make a cluster. The official code adds noise of 10⁻⁶ to densities; there is none here.

    Args:
      hidden: float[V, D].
      order: int32[V], all tokens by falling relation.
      keep: of them are kept.

    Returns:
      float32[C, D]; C = `recycled(V − keep)[1]`.
    """
    num_recycled, num_clusters = recycled(hidden.shape[0] - keep)
    chosen = hidden[order[keep : keep + num_recycled]]
    _, labels = density_peaks(chosen, num_clusters)
    return cluster_means(chosen, labels, num_clusters)


def recycled(num_deleted: int) -> tuple[int, int]:
    """Return how many deleted tokens are recycled, and into how many; none of none."""
    if not num_deleted:
        return 0, 0
    count = int(0.3 * num_deleted) + 1
    return count, count // 10 + 1


def recycle_some(
    hidden: jax.Array, order: jax.Array, keep: jax.Array, num_alive: jax.Array
) -> tuple[jax.Array | None, jax.Array]:
    """Do as `recycle` where the numbers of tokens and of those kept are known at run time alone.

    Args:
      hidden: float[V, D].
      order: int32[V], all tokens by falling relation, the dead behind those alive.
      keep: int32[], of them are kept, 1 … num_alive.
      num_alive: int32[], 1 … V.

    Returns:
      float32[C, D], C = `recycled(V − 1)[1]`, the most there can be, or None for none; int32[],
      how many of these there are.
    """
    num_tokens = hidden.shape[0]
    table = jnp.asarray([recycled(count) for count in range(num_tokens)], jnp.int32)
    num_recycled, num_clusters = table[num_alive - keep]
    most, most_clusters = recycled(num_tokens - 1)
    if not most:
        return None, num_clusters
    place = jnp.arange(most)
    chosen = hidden[order[jnp.minimum(keep + place, num_tokens - 1)]]
    among = place < num_recycled
    _, labels = density_peaks(chosen, most_clusters, among, num_clusters)
    return cluster_means(chosen, labels, most_clusters, among), num_clusters
