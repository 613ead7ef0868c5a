"""Clustering by density peaks.

Axes: N tokens · C clusters · D width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ._ops import gram


def density_peaks(features: jax.Array, num_clusters: int) -> tuple[jax.Array, jax.Array]:
    """Group tokens around those that are dense and far from anything denser.

        dᵢⱼ = ‖xᵢ − xⱼ‖ / √D,   ρᵢ = exp(−mean of the C smallest d²ᵢⱼ, j = i among them)
        δᵢ = min dᵢⱼ over all denser j, or the largest distance of all for the densest

    Centres are the C tokens of the largest ρᵢ δᵢ, and each token joins its nearest. Of two
    equal densities that of the lower index counts as the denser one: with C = 2 the two
    closest tokens always tie. The lowest index, and the earliest centre, win all other ties.

    Distances come from the products xᵢ·xⱼ of centred tokens, which are symmetric bit for bit.

    Source: Rodriguez & Laio (2014), "Clustering by fast search and find of density peaks", with
    the density of Du, Ding & Jia (2016). They add noise to densities to break ties.

    Args:
      features: float[N, D] of any precision; all is computed in float32.
      num_clusters: C, 1 … N.

    Returns:
      centres, int32[C], by falling ρᵢ δᵢ; labels, int32[N], which of them each token joins.
    """
    features = features.astype(jnp.float32)
    num_tokens, width = features.shape
    squared = _squared_distances(features) / width
    distance = jnp.sqrt(squared)
    density = jnp.exp(-jnp.mean(jnp.sort(squared, axis=1)[:, :num_clusters], axis=1))
    index = jnp.arange(num_tokens)
    earlier = index[None, :] < index[:, None]
    tie = density[None, :] == density[:, None]
    denser = (density[None, :] > density[:, None]) | (tie & earlier)
    apart = jnp.min(jnp.where(denser, distance, jnp.max(distance)), axis=1)
    centres = jnp.argsort(-density * apart, stable=True)[:num_clusters]
    labels = jnp.argmin(distance[centres], axis=0)
    labels = labels.at[centres].set(jnp.arange(num_clusters))
    return centres.astype(jnp.int32), labels.astype(jnp.int32)


def _squared_distances(features: jax.Array) -> jax.Array:
    """Return ‖xᵢ − xⱼ‖² = ‖xᵢ‖² + ‖xⱼ‖² − 2 xᵢ·xⱼ, float32[N, N], symmetric, 0 on the diagonal."""
    centred = features - jnp.mean(features, axis=0, keepdims=True)
    product = gram(centred)
    norm = jnp.diag(product)
    squared = jnp.maximum(norm[:, None] + norm[None, :] - 2 * product, 0.0)
    return jnp.where(jnp.eye(len(norm), dtype=bool), 0.0, squared)


def cluster_means(features: jax.Array, labels: jax.Array, num_clusters: int) -> jax.Array:
    """Return Σᵢ xᵢ / (count + 10⁻⁶) of every cluster, float32[C, D].

    Args:
      features: float[N, D].
      labels: int32[N], 0 … C − 1.
      num_clusters: C.
    """
    member = (labels[None, :] == jnp.arange(num_clusters)[:, None]).astype(jnp.float32)
    total = jnp.einsum(
        "cn,nd->cd", member, features.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )
    return total / (jnp.sum(member, axis=1, keepdims=True) + 1e-6)
