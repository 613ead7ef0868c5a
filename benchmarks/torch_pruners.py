"""The pruners of `pruning` in plain torch, from the same formulas, as one would write them there.

Every function takes one image, as the official codes do, a mapping of float32 tensors named like
the fields of `pruning.Tokens` or `pruning.DecoderTokens` (without padding of the text), and the
number of tokens to keep; for a method inside the decoder that is the number after one cut. It
returns int64[K], or (float32[K, D], int64[K]) where tokens are merged. The formulas are in the
docstrings of `pruning`; none of this is taken from official code. Greedy coverage rates all tokens
anew for every pick, as the definition has it; everything else that is known to be faster is done.
Nothing waits for the device where the formula does not ask for it.

Axes: N visual tokens · K tokens kept · D width · H heads · T text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from pruning.sparsevlm import recycled
from pruning.visionzip import published_contextual

Tensors = Mapping[str, Any]
Picks = torch.Tensor
Merged = tuple[torch.Tensor, torch.Tensor]


def random(t: Tensors, budget: int) -> Picks:
    """Pick by chance; torch's generator, so other tokens than ours."""
    return torch.randperm(len(t["saliency"]), device=t["saliency"].device)[:budget]


def saliency(t: Tensors, budget: int) -> Picks:
    """Pick the tokens of the largest saliency."""
    return t["saliency"].topk(budget).indices


def scope(t: Tensors, budget: int) -> Picks:
    """Pick by coverage times saliency, α = γ = 1."""
    return _cover(_cosine(t["features"]), t["saliency"], budget, 0.0)


def floc(t: Tensors, budget: int) -> Picks:
    """Pick by coverage from −1 on, one block."""
    similarity = _cosine(t["features"])
    return _cover(similarity, torch.ones_like(similarity[0]), budget, -1.0)


def divprune(t: Tensors, budget: int) -> Picks:
    """Pick what is farthest from its nearest kept one; a running minimum."""
    distance = 1 - _cosine(t["embeddings"])
    others = distance.clone().fill_diagonal_(torch.inf)
    best = others.amin(dim=1).argmax(dim=0, keepdim=True)
    nearest, picks = distance[best][0], [best]
    for _ in range(budget - 1):
        nearest[best] = -torch.inf
        best = nearest.argmax(dim=0, keepdim=True)
        nearest = torch.minimum(nearest, distance[best][0])
        picks.append(best)
    return torch.cat(picks)


def otprune(t: Tensors, budget: int) -> Picks:
    """Maximise log det (I + γ G Gᵀ)_S with channels normalised over tokens, γ = 0.01."""
    unit = normalize(t["embeddings"], dim=0)
    similarity = unit @ unit.T
    kernel = 0.01 * similarity @ similarity
    kernel.diagonal().add_(1)
    return _determinant(kernel, budget)


def cdpruner(t: Tensors, budget: int) -> Picks:
    """Maximise log det (diag(r) S diag(r))_S for a given relevance."""
    relevance = t["relevance"]
    kernel = relevance[:, None] * _cosine(t["embeddings"]) * relevance
    return _determinant(kernel, budget)


def agilepruner(t: Tensors, budget: int) -> Picks:
    """Pick by saliency, ruling out what is nearer than min(0.01 rank erank / 90, ¼)."""
    embeddings = t["embeddings"]
    order = t["saliency"].argsort(descending=True, stable=True)
    centred = embeddings - embeddings.mean(dim=0)
    wide = centred.shape[0] <= centred.shape[1]
    squares = centred @ centred.T if wide else centred.T @ centred
    singular = torch.linalg.eigvalsh(squares).clamp(min=0).sqrt()
    share = singular / singular.sum()
    rank = torch.exp(torch.special.entr(share).sum())
    steps = torch.arange(1, len(order) + 1, device=order.device)
    threshold = (0.01 * steps * rank / 90).clamp(max=0.25)
    near = 1 - _cosine(embeddings[order]) < threshold[:, None]
    picked, rest = _visit(near, budget)
    return order[torch.from_numpy(np.append(picked, rest)[:budget]).to(order.device)]


def vispruner(t: Tensors, budget: int) -> Picks:
    """Pick half by saliency; of the rest drop the evens most like an odd, 8 a round."""
    order = t["saliency"].argsort(descending=True, stable=True)
    similarity = _cosine(t["features"])
    important, listed = order[: budget // 2], order[budget // 2 :]
    keep = budget - len(important)
    while len(listed) > keep:
        even, odd = listed[::2], listed[1::2]
        likeness = similarity[even][:, odd].amax(dim=1)
        dropped = min(8, len(listed) - keep, len(even))
        even = even[likeness.argsort(descending=True, stable=True)[dropped:]]
        listed = torch.cat([even, odd])
    return torch.cat([important, listed])


def prunesid(t: Tensors, budget: int) -> Merged:
    """Group by exact principal components, suppress in groups, share K out; CLS is kept."""
    hidden, device = t["hidden"], t["hidden"].device
    order = t["saliency"].argsort(descending=True, stable=True)
    squashed = hidden[1:].sigmoid().T
    components = torch.linalg.svd(squashed - squashed.mean(dim=0), full_matrices=False).Vh
    num_groups = max(budget // 4, 1)
    group = components[:num_groups].abs().argmax(dim=0)[order]
    similarity = _cosine(hidden[1:][order])
    count = len(order) * (len(order) - 1) / 2
    threshold = budget / 32 * similarity.triu(1).sum() / count
    like = (similarity > threshold) & (group[:, None] == group)
    alive, rest = _visit(like, len(order))
    groups = group.cpu().numpy()
    first = [alive[groups[alive] == g] for g in range(num_groups)]
    then = [rest[groups[rest] == g] for g in range(num_groups)]
    shares = _group_shares([len(a) for a in first], [len(b) for b in then], budget)
    parts = [np.append(a, b)[:n] for a, b, n in zip(first, then, shares, strict=True)]
    kept = order[torch.from_numpy(np.concatenate(parts)[: budget - 1]).to(device)]
    rows = torch.cat([kept.new_zeros(1), 1 + kept])
    return hidden[rows], rows - 1


def visionzip(t: Tensors, budget: int) -> Merged:
    """Keep CLS and the salient; add to evenly spaced others the mean of what is like them."""
    hidden, contextual = t["hidden"], published_contextual(budget)
    dominant = torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)
    dominant[1 + t["saliency"].topk(budget - contextual - 1).indices] = True
    dominant[0] = True
    kept, others = dominant.nonzero()[:, 0], (~dominant).nonzero()[:, 0]
    step = len(others) // contextual
    is_target = torch.zeros(len(others), dtype=torch.bool, device=hidden.device)
    is_target[: step * contextual : step] = True
    targets, joining = others[is_target], others[~is_target]
    unit = normalize(t["keys"], dim=-1)
    nearest = (unit[joining] @ unit[targets].T).argmax(dim=1)
    total = torch.zeros_like(hidden[targets]).index_add_(0, nearest, hidden[joining])
    count = nearest.bincount(minlength=contextual).clamp(min=1)[:, None]
    features = torch.cat([hidden[kept], hidden[targets] + total / count])
    return features, torch.cat([kept, targets]) - 1


def prumerge(t: Tensors, budget: int) -> Merged:
    """Keep the salient, add 32 neighbours to each; the weighted sum of the others."""
    return _sum_up(t, t["last_saliency"].topk(budget - 1).indices)


def prumerge_plus(t: Tensors, budget: int) -> Merged:
    """Keep a quarter salient and the rest evenly spaced, then as `prumerge`."""
    order, salient = t["last_saliency"].argsort(descending=True, stable=True), (budget + 2) // 4
    others, missing = order[salient:].sort().values, budget - 1 - salient
    spaced = torch.arange(missing, device=order.device) * len(others) // max(missing, 1)
    return _sum_up(t, torch.cat([order[:salient], others[spaced]]))


def holov(t: Tensors, budget: int) -> Picks:
    """Share K out to 16 crops by saliency and variance; N must be a multiple of 16."""
    attention = t["saliency"].view(16, -1)
    size = attention.shape[1]
    unit = normalize(t["embeddings"], dim=-1).view(16, size, -1)
    similarity = unit @ unit.transpose(1, 2)
    similarity.diagonal(dim1=1, dim2=2).zero_()
    mean = similarity.sum(dim=2, keepdim=True) / (size - 1)
    variance = (similarity - mean).square().sum(dim=2) / (size - 1)
    level = attention.mean(dim=1, keepdim=True)
    scaled = variance * level / (variance.mean(dim=1, keepdim=True) + 1e-6)
    weight = (attention + 0.09 * scaled).mean(dim=1)
    take = _crop_shares((weight / weight.sum()).cpu().numpy(), size, budget)
    ranked = attention.argsort(dim=1, descending=True, stable=True)
    return torch.cat([ranked[crop, :n] + crop * size for crop, n in enumerate(take)])


def tome(t: Tensors, budget: int) -> Merged:
    """Merge tokens at even places into the most similar odd ones, round by round."""
    features, keys = t["features"], t["keys"][1:]
    sizes, index = torch.ones_like(keys[:, :1]), torch.arange(len(keys), device=keys.device)
    while len(index) > budget:
        unit, pairs = normalize(keys, dim=-1), min(len(index) // 2, len(index) - budget)
        likeness, nearest = (unit[::2] @ unit[1::2].T).max(dim=1)
        leaving = likeness.argsort(descending=True, stable=True)[:pairs]
        joined, stays = 2 * nearest[leaving] + 1, torch.ones_like(index, dtype=torch.bool)
        stays[2 * leaving] = False
        features, keys, sizes = (
            x.index_add(0, joined, x[2 * leaving])[stays] for x in (features, keys, sizes)
        )
        index = index[stays]
    return features / sizes, index


def trim(t: Tensors, budget: int) -> Merged:
    """Keep the most relevant; the mean of all others is the last token."""
    order = t["relevance"].argsort(descending=True, stable=True)
    kept, others = order[: budget - 1], order[budget - 1 :]
    mean = t["features"][others].mean(dim=0, keepdim=True)
    return torch.cat([t["features"][kept], mean]), torch.cat([kept, others.min()[None]])


def fastv(t: Tensors, budget: int) -> Picks:
    """Pick what the prompt's last token looks at, mean over heads."""
    return t["row"].mean(dim=0).topk(budget).indices


def sparsevlm(t: Tensors, budget: int) -> Merged:
    """Pick what the raters look at, and merge a part of the others (version 1.5).

    Returns the merged tokens, behind the index of the kept ones: (float32[C, D], int64[K]).
    """
    share = (t["inputs"] @ t["text_inputs"].T).softmax(dim=1).mean(dim=0)
    relation = t["rows"][:, share > share.mean()].mean(dim=(0, 1))
    order = relation.argsort(descending=True, stable=True)
    count, clusters = recycled(len(order) - budget)
    merged = _density_peaks(t["hidden"][order[budget : budget + count]], clusters)
    return merged, order[:budget]


def dart(t: Tensors, budget: int) -> Picks:
    """Keep four pivots; these and four of the text take turns at what is least like them."""
    states = normalize(t["hidden"] * t["final_norm"], dim=-1)
    text = normalize(t["text_hidden"] * t["final_norm"], dim=-1)
    pivots = t["keys"].abs().sum(dim=-1).topk(4).indices
    text_pivots = t["text_keys"].abs().sum(dim=-1).topk(4).indices
    cosine = torch.cat([states[pivots], text[text_pivots]]) @ states.T
    cosine[:, pivots] = torch.inf
    picks, (share, more) = [pivots], divmod(budget - 4, 8)
    for turn in range(8):
        taken = cosine[turn].topk(share + (turn < more), largest=False).indices
        cosine[:, taken] = torch.inf
        picks.append(taken)
    return torch.cat(picks)


def _cosine(x: torch.Tensor) -> torch.Tensor:
    unit = normalize(x, dim=-1)
    return unit @ unit.T


def _cover(
    similarity: torch.Tensor, weight: torch.Tensor, budget: int, start: float
) -> torch.Tensor:
    """Maximise Σᵢ max(0, sᵢⱼ − mᵢ) · wⱼ greedily."""
    coverage, picks = torch.full_like(weight, start), []
    taken = torch.zeros_like(weight, dtype=torch.bool)
    for _ in range(budget):
        gain = (similarity - coverage).clamp_(min=0).sum(dim=1)
        best = (gain * weight).masked_fill_(taken, -torch.inf).argmax(dim=0, keepdim=True)
        taken[best] = True
        coverage = torch.maximum(coverage, similarity[best][0])
        picks.append(best)
    return torch.cat(picks)


def _determinant(kernel: torch.Tensor, budget: int) -> torch.Tensor:
    """Maximise log det L_S greedily, with the rows of a growing Cholesky factor."""
    variance, picks = kernel.diagonal().clone(), []
    rows = kernel.new_zeros(budget, len(kernel))
    for step in range(budget):
        best = variance.argmax(dim=0, keepdim=True)
        explained = rows[:step, best].T @ rows[:step]
        rows[step] = ((kernel[best] - explained) / variance[best].sqrt())[0]
        variance -= rows[step].square()
        variance[best] = -torch.inf
        picks.append(best)
    return torch.cat(picks)


def _visit(rules_out: torch.Tensor, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Go through tokens in order on the host; who is left rules others out.

    Returns the first `most` who were left, and all who were not, or came later.
    """
    matrix, alive = rules_out.cpu().numpy(), np.ones(len(rules_out), bool)
    picked = []
    for token in range(len(alive)):
        if alive[token]:
            picked.append(token)
            alive &= ~matrix[token]
            if len(picked) == most:
                break
    return np.array(picked), np.delete(np.arange(len(alive)), picked)


def _group_shares(alive: list[int], dead: list[int], budget: int) -> list[int]:
    """Return how many tokens each of PruneSID's groups keeps."""
    sizes = [a + b for a, b in zip(alive, dead, strict=True)]
    most = [min(5 * -(-budget // 64), n) for n in alive]
    while sum(most) < min(budget, sum(sizes)):
        most = [min(m + 1, n) for m, n in zip(most, sizes, strict=True)]
    least = [min(1, n) for n in sizes]
    extra = max(0, budget - 1 - sum(least))
    share = np.diff(np.round(np.cumsum(alive) / sum(alive) * extra), prepend=0).astype(int)
    take = [min(low + s, m) for low, s, m in zip(least, share, most, strict=True)]
    missing = sum(least) + extra - sum(take)
    for g in sorted(range(len(sizes)), key=lambda g: -alive[g]):
        more = min(most[g] - take[g], missing)
        take[g], missing = take[g] + more, missing - more
    return take


def _crop_shares(weight: np.ndarray, size: int, budget: int) -> list[int]:
    """Return how many tokens each of HoloV's crops keeps."""
    ranked = np.argsort(-weight, kind="stable")
    share = np.floor(weight * np.float32(budget)).astype(int)
    share[ranked[: budget - share.sum()]] += 1
    take = np.minimum(share, size)
    missing = budget - take.sum()
    for crop in ranked:
        more = min(size - take[crop], missing)
        take[crop], missing = take[crop] + more, missing - more
    return take.tolist()


def _sum_up(t: Tensors, kept: torch.Tensor) -> Merged:
    """Add to each kept token its neighbours by key, and append the sum of the others."""
    features, weight = t["features"], t["last_saliency"]
    unit = normalize(t["last_keys"][1:], dim=-1)
    likeness = unit[kept] @ unit.T
    likeness[torch.arange(len(kept), device=kept.device), kept] = -torch.inf
    nearest = likeness.topk(min(32, len(features) - 1), dim=1).indices
    weighted = weight[:, None] * features
    merged = features[kept] + weighted[nearest].sum(dim=1)
    others = torch.ones_like(weight, dtype=torch.bool)
    others[kept] = False
    first = others.to(torch.uint8).argmax(dim=0, keepdim=True)
    return torch.cat([merged, weighted[others].sum(dim=0)[None]]), torch.cat([kept, first])


def _density_peaks(x: torch.Tensor, clusters: int) -> torch.Tensor:
    """Return the means of clusters around tokens that are dense and far from denser ones."""
    distance = torch.cdist(x, x) / x.shape[1] ** 0.5
    nearest = distance.topk(clusters, dim=1, largest=False).values
    density = torch.exp(-nearest.square().mean(dim=1))
    ties = (density[:, None] == density).tril(-1)
    denser = (density > density[:, None]) | ties
    apart = torch.where(denser, distance, distance.max()).amin(dim=1)
    centres = (density * apart).argsort(descending=True, stable=True)[:clusters]
    labels = distance[centres].argmin(dim=0)
    labels[centres] = torch.arange(clusters, device=x.device)
    total = x.new_zeros(clusters, x.shape[1]).index_add_(0, labels, x)
    return total / (labels.bincount(minlength=clusters)[:, None] + 1e-6)


_FUNCTIONS = (
    *(random, saliency, scope, divprune, floc, otprune, cdpruner, agilepruner, vispruner, prunesid),
    *(visionzip, prumerge, prumerge_plus, holov, tome, trim, fastv, sparsevlm, dart),
)

METHODS: Mapping[str, Callable[[Tensors, int], Any]] = {
    **{function.__name__: function for function in _FUNCTIONS},
    "pyramiddrop": fastv,  # at each of its cuts
}
"""Registered name → function."""
