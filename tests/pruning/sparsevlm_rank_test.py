"""SparseVLM 1.0: numbers that follow a rank, against a decoder that really drops tokens."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from llava_jax import config, cutting, decoding, engine, testing
from pruning import _density, _recycling, sparsevlm
from pruning import testing as made_up
from pruning.sparsevlm import SparseVLM, rank_rule

PRUNER = SparseVLM(sparsevlm_version="1.0")
KEY = pruning.image_key(0, "image")
CFG = config.from_hf(testing.tiny_config(num_hidden_layers=5))
PROMPT = np.array([1, 7, 8, 9])
N, LENGTHS = 48, np.array([[9, 5, 2], [4, 9, 7]])

rank_budget = jax.jit(sparsevlm.rank_budget, static_argnums=(2, 3))
text_raters = jax.jit(sparsevlm.text_raters)
recycle_some = jax.jit(_recycling.recycle_some)
density_peaks = jax.jit(_density.density_peaks, static_argnums=1)
cluster_means = jax.jit(_density.cluster_means, static_argnums=2)


# A decoder written out, one question at a time ------------------------------------------------


def norm(x, weight):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + CFG.text.eps) * weight


def rotate(x, positions):
    half = x.shape[-1] // 2
    angle = positions[:, None, None] * CFG.text.rope_theta ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    turned = [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)]
    return np.concatenate(turned, axis=-1)


def block(layer, x):
    """Return a layer's output and attention float[H, M, M]; positions are 0, 1, …."""
    cfg, place = CFG.text, np.arange(len(x))
    weight = {name: leaf["weight"] for name, leaf in layer.items()}
    y = norm(x, weight["attention_norm"])
    q, k, v = (
        (y @ weight[name].T).reshape(len(x), -1, cfg.head_dim).astype(np.float64) for name in "qkv"
    )
    share = cfg.num_heads // cfg.num_kv_heads
    k, v = (np.repeat(part, share, axis=1) for part in (rotate(k, place), v))
    scores = np.einsum("qhd,khd->hqk", rotate(q, place), k) / np.sqrt(cfg.head_dim)
    scores = np.where(place[None, :] <= place[:, None], scores, -np.inf)
    attention = np.exp(scores - scores.max(axis=-1, keepdims=True))
    attention /= attention.sum(axis=-1, keepdims=True)
    mixed = np.einsum("hqk,khd->qhd", attention, v).reshape(len(x), -1)
    x = x + mixed @ weight["out"].T
    y = norm(x, weight["mlp_norm"])
    gate = y @ weight["gate"].T
    return x + (gate / (1 + np.exp(-gate)) * (y @ weight["up"].T)) @ weight["down"].T, attention


def clusters(points, count):
    """Return the means of density peaks."""
    apart = np.sqrt(np.mean((points[:, None] - points[None, :]) ** 2, axis=-1))
    density = np.exp(-np.mean(np.sort(apart**2, axis=1)[:, :count], axis=1))
    place = np.arange(len(points))
    denser = density[None, :] > density[:, None]
    denser |= (density[None, :] == density[:, None]) & (place[None, :] < place[:, None])
    rating = density * np.where(denser, apart, apart.max()).min(axis=1)
    centres = np.argsort(-rating, kind="stable")[:count]
    labels = np.argmin(apart[centres], axis=0)
    labels[centres] = np.arange(count)
    joins = labels[None, :] == np.arange(count)[:, None]
    return joins @ points / (joins.sum(axis=1, keepdims=True) + 1e-6)


def dropped(x, attention, raters, origin, rule):
    """Return what a cut leaves of one sequence, really shortened, and which tokens those are."""
    start, size = len(PROMPT), len(origin)
    end = start + size
    rows = attention.mean(axis=0)[end:][raters, start:end]
    rank = np.linalg.matrix_rank(rows.astype(np.float32))
    if rank == size:
        return x, origin, size
    keep = max(1, min(int(rank * rule[0] + rule[1]), size - 1))
    order, hidden = np.argsort(-rows.mean(axis=0), kind="stable"), x[start:end]
    best = order[keep:][: int(0.3 * (size - keep)) + 1]
    merged, kept = clusters(hidden[best], len(best) // 10 + 1), np.sort(order[:keep])
    x = np.concatenate([x[:start], hidden[kept], merged, x[end:]])
    return x, np.append(origin[kept], np.full(len(merged), -1)), keep


def written_out(params, image, ids, budget):
    """Return logits, tokens left and (tokens, kept of them) at each cut, for one question."""
    decoder = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["text"])
    words = decoder["embed_tokens"][ids]
    x = np.concatenate([decoder["embed_tokens"][PROMPT], image, words])
    inputs = (jnp.asarray(part, jnp.float32) for part in (image, words))
    raters = np.asarray(text_raters(*inputs, jnp.ones(len(ids), bool)))
    cuts = {cut.layer: cut for cut in PRUNER.cuts(budget, N, CFG.text.num_layers)}
    origin, counts = np.arange(N), []
    for index, layer in enumerate(decoder["layers"]):
        x, attention = block(layer, x)
        if index + 1 in cuts:
            before, rule = len(origin), rank_rule(budget, N)
            x, origin, keep = dropped(x, attention, raters, origin, rule)
            counts.append((before, keep))
    logits = norm(x[-1], decoder["norm"]["weight"]) @ decoder["lm_head"].T
    return logits[: CFG.real_vocab_size], origin, counts


# The masked decoder ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def params():
    return testing.random_params(CFG)


def inputs():
    """Return pictures float[2, N, D] and questions int[2, 3, 9]."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, N, CFG.text.width)).astype(np.float32)
    return image, rng.integers(10, 500, (2, 3, LENGTHS.max()))


def masked(params, image, ids, lengths, budget):
    """Return logits, tokens left, and views and choices of all cuts."""
    keys, seen = jnp.broadcast_to(KEY, lengths.shape), []

    def choose(cut, view):
        tokens = pruning.DecoderTokens(**vars(view))
        seen.append((tokens, pruning.select_inside(PRUNER, tokens, cut, keys)))
        return seen[-1][1]

    cuts = PRUNER.cuts(budget, N, CFG.text.num_layers)
    before = decoding.begin(params, PROMPT, cfg=CFG)
    how = {"before": before, "cfg": CFG, "stage": engine.Engine(params, CFG).stage}
    args = (PROMPT, jnp.asarray(image), ids, lengths, cuts, choose, PRUNER.needs)
    context, left = cutting.answer(params, *args, **how)
    return np.asarray(context.logits[..., : CFG.real_vocab_size]), np.asarray(left), seen


@pytest.mark.parametrize("budget", [8, 24])
def test_the_masked_decoder_equals_one_that_drops(params, budget):
    image, ids = inputs()
    logits, left, seen = masked(params, image, ids, LENGTHS, budget)
    every, merged = [], []
    for g, q in np.ndindex(LENGTHS.shape):
        want = written_out(params, image[g], ids[g, q, : LENGTHS[g, q]], budget)
        np.testing.assert_allclose(logits[g, q], want[0], atol=1e-5)
        assert sorted(left[g, q][left[g, q] >= 0]) == sorted(want[1][want[1] >= 0])
        for (before, keep), (tokens, answer) in zip(want[2], seen, strict=True):
            assert tokens.alive is None or tokens.alive[g, q].sum() == before
            assert answer.alive[g, q, : answer.index.shape[-1]].sum() == keep
            merged.append(pruning.recycled(before - keep)[1])
            assert answer.alive[g, q].sum() == keep + merged[-1]
        every.append(want[2])
    assert len({tuple(counts) for counts in every}) > 1  # of tokens, from question to question
    assert max(merged) > 1
    if budget == 8:  # too few to be dropped are left somewhere
        assert any(before == keep > 1 for counts in every for before, keep in counts)


def test_no_place_is_kept_that_no_question_of_this_length_can_fill(params):
    image, ids = inputs()
    _, left, seen = masked(params, image, ids, LENGTHS, 8)
    assert seen[0][1].index.shape[-1] == LENGTHS.max() < N
    assert left.shape[-1] < N


# Steps that count what is alive alone ---------------------------------------------------------


def attention_of_rank(rank, size, seed=0):
    """Return float[2, 9, size], of which the first 6 rows have a rank."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(size=(6, rank)) @ rng.uniform(size=(rank, size))
    block = np.concatenate([low, rng.uniform(size=(3, size))])
    return jnp.asarray(np.stack([block, block]), jnp.float32)


RATERS = jnp.arange(9) < 6


@pytest.mark.parametrize("rank", range(1, 7))
def test_the_number_kept_follows_the_rank_of_numpy(rank):
    rows = attention_of_rank(rank, 30)
    assert np.linalg.matrix_rank(np.asarray(rows[0, :6])) == rank
    for scale, bias in ((13.5, 0.0), (9.0, 6.0), (0.8, 0.0)):
        want = max(1, min(int(rank * scale + bias), 29))
        assert rank_budget(rows, RATERS, scale, bias) == want


@pytest.mark.parametrize("num_alive", [1, 3, 4, 12])
def test_the_dead_count_for_nothing(num_alive):
    rng = np.random.default_rng(num_alive)
    alive = np.zeros(30, bool)
    alive[rng.permutation(30)[:num_alive]] = True
    rows = attention_of_rank(3, 30)
    short = rows[:, :, alive]
    for rule in ((13.5, 0.0), (9.0, 6.0), (0.8, 0.0)):
        want = rank_budget(short, RATERS, *rule)
        assert rank_budget(rows, RATERS, *rule, jnp.asarray(alive)) == want
    assert (want == num_alive) == (num_alive in (1, 3))  # a full rank: nothing is dropped


def test_the_rank_is_that_of_the_shorter_matrix():
    # σ₂ / σ₁ is between the tolerances of 20 and of 400 tokens, ε max(raters, V).
    pair = np.array([[1.0, 0.0], [0.0, 100 * np.finfo(np.float32).eps]])
    rows = jnp.asarray(np.pad(pair, ((0, 0), (0, 398)))[None], jnp.float32)
    alive = jnp.arange(400) < 20
    assert rank_budget(rows, jnp.ones(2, bool), 5.0, 0.0) == 5
    assert rank_budget(rows, jnp.ones(2, bool), 5.0, 0.0, alive) == 10


@pytest.mark.parametrize(("size", "keep"), [(40, 1), (40, 6), (40, 38), (40, 39), (13, 2), (3, 3)])
def test_recycling_some_is_recycling_what_is_alive(size, keep):
    rng = np.random.default_rng(size + keep)
    hidden = jnp.asarray(rng.normal(size=(40, 8)), jnp.float32)
    order = rng.permutation(40)
    merged, count = recycle_some(hidden, jnp.asarray(order), jnp.int32(keep), jnp.int32(size))
    assert merged.shape == (pruning.recycled(39)[1], 8)
    assert count == pruning.recycled(size - keep)[1]
    if count:
        want = _recycling.recycle(hidden[order[:size]], jnp.arange(size), keep)
        np.testing.assert_allclose(merged[: int(count)], want, atol=1e-6)
    assert not np.asarray(merged[int(count) :]).any()


@pytest.mark.parametrize("scale", [1.0, 0.0, 1e-20])
def test_some_clusters_are_those_of_the_shorter_list(scale):
    rng = np.random.default_rng(1)
    points = scale * jnp.asarray(rng.normal(size=(30, 8)), jnp.float32)
    among = np.zeros(30, bool)
    among[rng.permutation(30)[:17]] = True
    centres, labels = density_peaks(points, 6, jnp.asarray(among), jnp.int32(3))
    short, joins = density_peaks(points[among], 3)
    assert centres[:3].tolist() == np.flatnonzero(among)[np.asarray(short)].tolist()
    assert labels[among].tolist() == joins.tolist()
    means = cluster_means(points, labels, 6, jnp.asarray(among))
    want = cluster_means(points[among], joins, 3)
    np.testing.assert_allclose(means[:3], want, atol=1e-6 * scale)
    assert not np.asarray(means[3:]).any()


def test_the_number_alive_is_that_of_the_rank_at_every_cut(params):
    image, ids = inputs()
    _, _, seen = masked(params, image, ids, LENGTHS, 24)
    rule = rank_rule(24, N)

    def count(inputs, text_inputs, num_text, rows, alive):
        raters = sparsevlm.text_raters(inputs, text_inputs, jnp.arange(9) < num_text)
        return sparsevlm.rank_budget(rows, raters, *rule, alive)

    for tokens, answer in seen:
        alive = jnp.ones((2, 3, N), bool) if tokens.alive is None else tokens.alive
        image = jnp.broadcast_to(tokens.inputs, (2, 3, *tokens.inputs.shape[2:]))
        args = (image, tokens.text_inputs, tokens.num_text, tokens.rows, alive)
        found = jnp.sum(answer.alive[..., : answer.index.shape[-1]], axis=-1)
        np.testing.assert_array_equal(found, jax.jit(jax.vmap(jax.vmap(count)))(*args))


# The class ------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="cut")
def choose(pruner, tokens, cut):
    return pruner(tokens, cut, KEY)


def test_the_dead_are_never_kept_and_never_matter():
    cut = PRUNER.cuts(20, 25, 32)[0]
    tokens = made_up.made_up_decoder_tokens(3)
    alive = np.zeros(25, bool)
    alive[[2, 3, 5, 8, 13, 14, 20, 21, 22]] = True
    tokens = dataclasses.replace(tokens, alive=jnp.asarray(alive))
    loud = dataclasses.replace(
        tokens,
        rows=jnp.where(alive, tokens.rows, 1.0),
        hidden=jnp.where(alive[:, None], tokens.hidden, 9.0),
    )
    answers = [choose(PRUNER, given, cut) for given in (tokens, loud)]
    kept = [np.asarray(one.index)[np.asarray(one.alive[: len(one.index)])] for one in answers]
    np.testing.assert_array_equal(*kept)
    assert 1 <= len(kept[0]) < alive.sum()
    assert alive[kept[0]].all()
    short = dataclasses.replace(
        tokens, rows=tokens.rows[:, :, alive], hidden=tokens.hidden[alive], alive=None
    )
    want = choose(PRUNER, short, cut)
    count = int(want.alive[len(want.index) :].sum())
    names = np.flatnonzero(alive)[np.asarray(want.index)[np.asarray(want.alive[: len(want.index)])]]
    np.testing.assert_array_equal(kept[0], names)
    for one in answers:
        assert one.alive[len(one.index) :].sum() == count
        np.testing.assert_allclose(one.merged[:count], want.merged[:count], atol=1e-6)


def test_the_published_rules_and_layers():
    assert [rank_rule(k, 576) for k in (64, 128, 192)] == [(0.8, 0.0), (9.0, 6.0), (13.5, 0.0)]
    assert rank_rule(160, 576) == (11.25, 3.0)
    assert rank_rule(32, 576) == (0.4, 0.0)
    assert rank_rule(64, 288) == (4.5, 3.0)  # half of 128
    cuts = PRUNER.cuts(192, 576, 32)
    assert [(cut.layer, cut.look) for cut in cuts] == [(3, 2), (7, 6), (16, 15), (20, 19)]
    assert {(cut.scale, cut.bias, cut.renumber, cut.at_most) for cut in cuts} == {
        (13.5, 0.0, True, True)
    }
    assert pruning.tokens_per_layer(cuts, 576, 32) == (576,) * 32
    assert PRUNER.cuts(576, 576, 32) == ()
    with pytest.raises(ValueError, match=r"1 … 5 .*got 6"):
        PRUNER.cuts(6, 5, 32)


@pytest.mark.parametrize("promise", made_up.promises(PRUNER), ids=lambda one: one.name)
def test_it_keeps_its_promises(promise):
    promise(PRUNER)
