"""PruneSID: groups of tokens by principal component, and the salient of each group.

Axes: N visual tokens · K tokens kept · Dv width of the vision tower · G groups of tokens.

Source: Fang et al. (2026), "Prune redundancy, preserve essence: vision token compression in
VLMs via synergistic importance-diversity", and its code, ZhengyaoFang/PruneSID.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from ._ops import cosine_similarity
from .base import Merged, Stage, Tokens, register
from .saliency import saliency_top_k


def prunesid(
    hidden: jax.Array,
    saliency: jax.Array,
    budget: int,
    *,
    assignment: jax.Array | None = None,
) -> jax.Array:
    """Group the tokens, suppress those like a more salient one of their group, share out K.

        A = centred σ(H)ᵀ = U Σ Vᵀ,   group(i) = argmax_g |V_ig|, g < G = ⌊K / 4⌋
        j suppresses i of its group if c_j > c_i and cos(h_j, h_i) > τ = (K / 32) · mean cos

    CLS is kept, one token of every group, and K − 1 less the groups in proportion to their
    n_g unsuppressed tokens: differences of ⌊ · ⌉ of the running sum. A group keeps at most
    u_g = min(5⌈K / 64⌉, n_g), raised by 1 for all at a time, as far as they have tokens, until
    Σ u_g ≥ K; what is too much for a group goes to those of the largest n_g. In a group, the
    unsuppressed come first, each kind by saliency. The lowest index wins a tie.

    Differs from the official code in the groups: its principal components are randomised, and
    between two of its seeds only half to four fifths of the kept tokens are the same. These
    are exact; `randomized_groups` gives an assignment like those. Shares that are halves,
    which its floats round either way, go to the even number. The paper's budgets that depend
    on the image are left out.

    Args:
      hidden: float[1+N, Dv] of any precision, CLS first; all is computed in float32.
      saliency: float[N]; its scale is irrelevant, a NaN comes last.
      budget: K, 1 … 1+N, CLS included; anything else is a ValueError.
      assignment: int[N], the group 0 … G−1 of every token, in place of the components.

    Returns:
      int32[K], 0 for CLS first and 1 … N for tokens, group by group.
    """
    chex.assert_rank(hidden, 2)
    num_tokens = hidden.shape[0] - 1
    chex.assert_shape(saliency, (num_tokens,))
    if not 1 <= budget <= 1 + num_tokens:
        raise ValueError(f"budget must be in 1 … {1 + num_tokens} (with CLS), got {budget}")
    num_groups = max(budget // 4, 1)
    if assignment is None:
        assignment = principal_groups(hidden[1:], num_groups)
    chex.assert_shape(assignment, (num_tokens,))
    by_saliency = saliency_top_k(saliency, num_tokens)
    group = assignment[by_saliency]
    similarity = cosine_similarity(hidden[1:])[by_saliency][:, by_saliency]
    survives = _survivors(similarity, group, _threshold(similarity, budget))
    queue = jnp.lexsort((~survives, group))  # stable: by saliency where both are equal
    sizes = jnp.zeros(num_groups, jnp.int32).at[group].add(1)
    take = _shares(sizes, jnp.zeros(num_groups, jnp.int32).at[group].add(survives), budget)
    place = jnp.arange(num_tokens) - (jnp.cumsum(sizes) - sizes)[group[queue]]
    kept = jnp.argsort(place >= take[group[queue]], stable=True)[: budget - 1]
    return jnp.concatenate([jnp.zeros(1, jnp.int32), 1 + by_saliency[queue[kept]]])


@register("prunesid")
class PruneSID:
    """Apply `prunesid`, CLS included.

    Attributes:
      prunesid_pca: "exact", or "randomized" components as in the official code.
    """

    stage: ClassVar = Stage.VISION
    needs: ClassVar = ("hidden", "saliency")
    nested: ClassVar = False

    prunesid_pca: str = dataclasses.field(default="exact", metadata={"static": True})

    @property
    def stochastic(self) -> bool:
        """Whether the components are randomised."""
        return self.prunesid_pca == "randomized"

    def check(self) -> None:
        """Refuse hyper-parameters without a meaning."""
        if self.prunesid_pca not in ("exact", "randomized"):
            raise ValueError(
                f'prunesid: prunesid_pca must be "exact" or "randomized", got {self.prunesid_pca!r}'
            )

    def __call__(self, tokens: Tokens, budget: int, key: jax.Array) -> Merged:
        """Return `budget` tokens, CLS (index −1) first."""
        assert tokens.hidden is not None
        assert tokens.saliency is not None
        groups = None
        if self.stochastic:
            groups = randomized_groups(key, tokens.hidden[1:], max(budget // 4, 1))
        rows = prunesid(tokens.hidden, tokens.saliency, budget, assignment=groups)
        return Merged(tokens.hidden[rows], rows - 1)


def principal_groups(features: jax.Array, num_groups: int) -> jax.Array:
    """Assign every token to the principal component it is largest in.

    Args:
      features: float[N, Dv].
      num_groups: G.

    Returns:
      int32[N] in 0 … G−1.
    """
    _, _, components = jnp.linalg.svd(_centred(features), full_matrices=False)
    return jnp.argmax(jnp.abs(components[:num_groups]), axis=0).astype(jnp.int32)


def randomized_groups(
    key: jax.Array, features: jax.Array, num_groups: int, *, iterations: int = 2
) -> jax.Array:
    """Assign every token to the largest of approximate principal components.

        Q = range of A Ω, Ω ~ N(0, 1);  Q ← range of A (range of Aᵀ Q), again and again
        Qᵀ A = U Σ Vᵀ

    The official code does the same with `torch.pca_lowrank`, of which a seed draws other Ω.

    Args:
      key: decides Ω.
      features: float[N, Dv].
      num_groups: G, columns of Ω, at most N.
      iterations: how often the range is refined.

    Returns:
      int32[N] in 0 … G−1.

    Source: Halko, Martinsson & Tropp (2011), "Finding structure with randomness", algorithm 5.1.
    """
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    centred = _centred(features)
    num_groups = min(num_groups, *centred.shape)
    spread = jax.random.normal(key, (centred.shape[1], num_groups))
    basis = jnp.linalg.qr(product(centred, spread))[0]
    for _ in range(iterations):
        basis = jnp.linalg.qr(product(centred.T, basis))[0]
        basis = jnp.linalg.qr(product(centred, basis))[0]
    _, _, components = jnp.linalg.svd(product(basis.T, centred), full_matrices=False)
    return jnp.argmax(jnp.abs(components), axis=0).astype(jnp.int32)


def _centred(features: jax.Array) -> jax.Array:
    """Return A, float32[Dv, N]: σ of the features, less its mean over channels."""
    squashed = jax.nn.sigmoid(features.astype(jnp.float32)).T
    return squashed - jnp.mean(squashed, axis=0, keepdims=True)


def _threshold(similarity: jax.Array, budget: int) -> jax.Array:
    """Return τ from the mean similarity of two tokens."""
    num_tokens = similarity.shape[0]
    upper = jnp.sum(jnp.triu(similarity, 1), axis=1)
    return budget / 32 * jnp.sum(upper) / max(num_tokens * (num_tokens - 1) / 2, 1)


def _survivors(similarity: jax.Array, group: jax.Array, threshold: jax.Array) -> jax.Array:
    """Return which tokens are not suppressed, bool[N]; tokens by falling saliency."""

    def visit(token, survives):
        same = (group == group[token]) & (similarity[token] > threshold)
        later = jnp.arange(group.shape[0]) > token
        return survives & ~(survives[token] & same & later)

    return jax.lax.fori_loop(0, group.shape[0], visit, jnp.ones(group.shape[0], bool))


def _shares(sizes: jax.Array, survivors: jax.Array, budget: int) -> jax.Array:
    """Return how many tokens each group keeps, int32[G], K − 1 in all or one of each if more."""
    least = jnp.minimum(1, sizes)
    enough = jnp.minimum(budget, jnp.sum(sizes))
    most = jax.lax.while_loop(
        lambda most: jnp.sum(most) < enough,
        lambda most: jnp.minimum(most + 1, sizes),
        jnp.minimum(5 * -(-budget // 64), survivors),
    )
    extra = jnp.maximum(0, budget - 1 - jnp.sum(least))
    whole, rest = jnp.divmod(jnp.cumsum(survivors) * extra, jnp.sum(survivors))
    up = 2 * rest + whole % 2 > jnp.sum(survivors)  # halves to even
    share = jnp.diff(whole + up, prepend=0)
    take = jnp.minimum(least + share, most)
    by_survivors = jnp.argsort(-survivors, stable=True)
    room = (most - take)[by_survivors]
    missing = jnp.sum(least) + extra - jnp.sum(take)
    given = jnp.clip(missing - (jnp.cumsum(room) - room), 0, room)
    return take.at[by_survivors].add(given)
