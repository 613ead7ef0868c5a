"""Clustering by density peaks.

Axes: N tokens · C clusters · D width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ._ops import gram


def density_peaks(
    features: jax.Array,
    num_clusters: int,
    among: jax.Array | None = None,
    count: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
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
      among: bool[N], tokens that there are; None for all. Others change nothing, and their
        labels mean nothing.
      count: int32[], clusters that there are, at least 1 and no more than C and such tokens;
        None for C. No token that there is joins another.

    Returns:
      centres, int32[C], by falling ρᵢ δᵢ; labels, int32[N], which of them each token joins.
    """
    features = features.astype(jnp.float32)
    num_tokens, width = features.shape
    pairs = None if among is None else among[:, None] & among[None, :]
    used = None if count is None else jnp.arange(num_clusters) < count
    squared = _where(pairs, _squared_distances(features, among) / width, jnp.inf)
    distance = jnp.sqrt(squared)
    nearest = jnp.sort(squared, axis=1)[:, :num_clusters]
    density = jnp.exp(-jnp.mean(nearest, axis=1, where=used))
    index = jnp.arange(num_tokens)
    earlier = index[None, :] < index[:, None]
    tie = density[None, :] == density[:, None]
    denser = (density[None, :] > density[:, None]) | (tie & earlier)
    farthest = jnp.max(_where(pairs, distance, 0.0))
    apart = jnp.min(jnp.where(denser, distance, farthest), axis=1)
    cost = _where(among, -density * apart, jnp.inf)
    centres = jnp.argsort(cost, stable=True)[:num_clusters]
    to_centre = distance[centres]
    if used is not None:
        to_centre = jnp.where(used[:, None], to_centre, jnp.inf)
    labels = jnp.argmin(to_centre, axis=0)
    own = _where(used, centres, num_tokens)  # out of range: no token's
    labels = labels.at[own].set(jnp.arange(num_clusters), mode="drop")
    return centres.astype(jnp.int32), labels.astype(jnp.int32)


def _where(mask: jax.Array | None, values: jax.Array, otherwise: float) -> jax.Array:
    """Replace values where a mask is False; None is True everywhere."""
    return values if mask is None else jnp.where(mask, values, otherwise)


def _squared_distances(features: jax.Array, among: jax.Array | None) -> jax.Array:
    """Return ‖xᵢ − xⱼ‖² = ‖xᵢ‖² + ‖xⱼ‖² − 2 xᵢ·xⱼ, float32[N, N], symmetric, 0 on the diagonal."""
    where = None if among is None else among[:, None]
    centred = features - jnp.mean(features, axis=0, keepdims=True, where=where)
    product = gram(centred)
    norm = jnp.diag(product)
    squared = jnp.maximum(norm[:, None] + norm[None, :] - 2 * product, 0.0)
    return jnp.where(jnp.eye(len(norm), dtype=bool), 0.0, squared)


def cluster_means(
    features: jax.Array, labels: jax.Array, num_clusters: int, among: jax.Array | None = None
) -> jax.Array:
    """Return Σᵢ xᵢ / (count + 10⁻⁶) of every cluster, float32[C, D]; 0 of an empty one.

    Args:
      features: float[N, D].
      labels: int32[N], 0 … C − 1.
      num_clusters: C.
      among: bool[N], tokens that there are; None for all.
    """
    joins = labels[None, :] == jnp.arange(num_clusters)[:, None]
    member = _where(among, joins, False).astype(jnp.float32)
    total = jnp.einsum(
        "cn,nd->cd", member, features.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )
    return total / (jnp.sum(member, axis=1, keepdims=True) + 1e-6)
