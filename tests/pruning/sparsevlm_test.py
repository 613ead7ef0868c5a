"""SparseVLM: raters, relation, clusters and schedules against loops and the official code."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pruning
from pruning import _density, sparsevlm
from pruning.sparsevlm import SparseVLM, recycled, schedule

H, N, T, REAL, D = 4, 40, 6, 5, 8
KEY = pruning.image_key(0, "image")
VERSIONS = ("1.5", "plus")

saliency_top_k = jax.jit(pruning.saliency_top_k, static_argnums=1)
density_peaks = jax.jit(_density.density_peaks, static_argnums=1)
cluster_means = jax.jit(_density.cluster_means, static_argnums=2)
text_raters, relation = jax.jit(sparsevlm.text_raters), jax.jit(sparsevlm.relation)
rank_budget = jax.jit(sparsevlm.rank_budget, static_argnums=(2, 3))
recycle = jax.jit(sparsevlm.recycle, static_argnums=2)
without_rotation = jax.jit(sparsevlm.without_rotation, static_argnums=2)
top_heads = jax.jit(sparsevlm.top_heads, static_argnums=2)


def make_tokens(seed, num_visual=N, real=REAL, num_inputs=N):
    """Return one question; the text's last tokens are padding."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return pruning.DecoderTokens(
        hidden=normal(num_visual, D),
        rows=jnp.asarray(rng.uniform(0.01, 1, (H, T, num_visual)), jnp.float32),
        inputs=normal(num_inputs, D),
        text_inputs=normal(T, D),
        positions=jnp.arange(3, 3 + num_visual),
        text_positions=jnp.arange(3 + num_inputs, 3 + num_inputs + T),
        num_text=jnp.int32(real),
        num_before=3,
        head_dim=D,
        rope_theta=100.0,
    )


@functools.partial(jax.jit, static_argnames="cut")
def call(pruner, tokens, cut):
    return pruner(tokens, cut, KEY)


def run(pruner, tokens, cut):
    return jax.tree.map(np.asarray, call(pruner, tokens, cut))


# Written out, in float64 ---------------------------------------------------------------------


def written_out_raters(image, text):
    share = np.zeros(len(text))
    for patch in image.astype(np.float64):
        weight = np.array([np.exp(patch @ word) for word in text.astype(np.float64)])
        share += weight / weight.sum()
    return [t for t in range(len(text)) if share[t] > share.mean()]


def written_out_clusters(points, num_clusters):
    """Return centres, labels and means of density peaks, point by point."""
    points = np.asarray(points, np.float64)
    size = range(len(points))
    apart = [[np.sqrt(np.mean((a - b) ** 2)) for b in points] for a in points]
    density = [np.exp(-np.mean(np.square(sorted(row)[:num_clusters]))) for row in apart]
    rating = []
    for i in size:
        to_denser = [apart[i][j] for j in size if (density[j], -j) > (density[i], -i)]
        rating.append(density[i] * min(to_denser, default=max(map(max, apart))))
    centres = sorted(size, key=lambda i: (-rating[i], i))[:num_clusters]
    labels = [min(range(num_clusters), key=lambda c: (apart[centres[c]][i], c)) for i in size]
    for c, centre in enumerate(centres):
        labels[centre] = c
    groups = [points[[i for i in size if labels[i] == c]] for c in range(num_clusters)]
    return centres, labels, [group.sum(axis=0) / (len(group) + 1e-6) for group in groups]


def written_out_scores(tokens, version):
    """Return the relation of every visual token, head by head and rater by rater."""
    text = np.asarray(tokens.text_inputs)[: int(tokens.num_text)]
    raters = written_out_raters(np.asarray(tokens.inputs), text)
    rows = np.asarray(tokens.rows, np.float64)[:, raters]
    if version == "plus":
        for t, rater in enumerate(raters):
            for v, place in enumerate(np.asarray(tokens.positions)):
                gap = int(tokens.text_positions[rater]) - int(place)
                turns = [gap * 100.0 ** (-2 * m / D) for m in range(D // 2)]
                rows[:, t, v] /= sum(2 * np.cos(turn) for turn in turns) / np.sqrt(D)
    return rows.mean(axis=(0, 1))


# Raters and relation -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_raters_are_those_of_the_loop(seed):
    tokens = make_tokens(seed)
    raters = np.asarray(text_raters(tokens.inputs, tokens.text_inputs, jnp.arange(T) < REAL))
    expected = written_out_raters(np.asarray(tokens.inputs), np.asarray(tokens.text_inputs)[:REAL])
    assert np.flatnonzero(raters).tolist() == expected


def test_a_text_of_which_nothing_stands_out_rates_as_a_whole():
    image = jnp.asarray(np.random.default_rng(0).normal(size=(N, D)), jnp.float32)
    text = jnp.ones((T, D))
    assert text_raters(image, text, jnp.arange(T) < 1).tolist() == [True] + [False] * (T - 1)
    assert text_raters(image, jnp.zeros((T, D)), jnp.arange(T) < 4).sum() == 4
    assert text_raters(image[:1], text[:1], jnp.ones(1, bool)).tolist() == [True]


def test_a_rater_is_above_the_mean():
    # Patches look at one word each, and half of them at the first: ½ > ¼, which the next two are.
    image = jnp.asarray([[200.0, 0, 0], [200, 0, 0], [0, 200, 0], [0, 0, 200]])
    text = jnp.asarray([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    assert text_raters(image, text, jnp.ones(4, bool)).tolist() == [True, False, False, False]


def test_padding_neither_rates_nor_counts():
    tokens = make_tokens(3)
    loud = tokens.text_inputs.at[REAL:].set(50 * tokens.inputs[0])
    is_text = jnp.arange(T) < REAL
    np.testing.assert_array_equal(
        text_raters(tokens.inputs, loud, is_text),
        text_raters(tokens.inputs, tokens.text_inputs, is_text),
    )


def test_relation_is_a_mean_over_heads_and_raters():
    rows, raters = make_tokens(4).rows, jnp.asarray([1, 0, 1, 0, 0, 0], bool)
    expected = np.asarray(rows, np.float64)[:, [0, 2]].mean(axis=(0, 1))
    np.testing.assert_allclose(relation(rows, raters), expected, rtol=1e-6)
    nan = rows.at[:, 1].set(jnp.nan)  # of one that does not rate
    np.testing.assert_array_equal(relation(nan, raters), relation(rows, raters))


def test_the_rank_of_the_attention_decides_in_version_1():
    rng = np.random.default_rng(5)
    block = rng.uniform(size=(T, 2)) @ rng.uniform(size=(2, 30))  # rank 2
    rows = jnp.asarray(np.stack([block] * H), jnp.float32)
    raters = jnp.arange(T) < 4
    assert rank_budget(rows, raters, 9.0, 6.0) == 24
    assert rank_budget(rows, raters, 13.9, 0.0) == 27
    assert rank_budget(rows, raters, 20.0, 0.0) == 29  # not all
    assert rank_budget(rows, jnp.arange(T) < 1, 0.8, 0.0) == 1  # not none
    assert rank_budget(rows[:, :, :1], raters, 9.0, 6.0) == 1


# Recycling -----------------------------------------------------------------------------------


def test_how_many_are_recycled():
    assert recycled(276) == (83, 9)
    assert recycled(109) == (33, 4)
    assert [recycled(d) for d in (0, 1, 3, 4, 30)] == [(0, 0), (1, 1), (1, 1), (2, 1), (10, 2)]


@pytest.mark.parametrize("num_clusters", [1, 2, 4, 20])
@pytest.mark.parametrize("seed", range(3))
def test_clusters_are_those_of_the_loop(num_clusters, seed):
    rng = np.random.default_rng(seed)
    points = (rng.normal(size=(20, D)) + 3 * rng.integers(0, 3, (20, 1))).astype(np.float32)
    centres, labels = density_peaks(jnp.asarray(points), num_clusters)
    means = cluster_means(jnp.asarray(points), labels, num_clusters)
    expected = written_out_clusters(points, num_clusters)
    assert centres.tolist() == expected[0]
    assert labels.tolist() == expected[1]
    np.testing.assert_allclose(means, expected[2], rtol=1e-5, atol=1e-5)


def test_of_equal_densities_the_lower_index_is_the_denser():
    # Two pairs, each as close as the other: 0 is the densest of all, and 2 the farthest from it.
    points = jnp.asarray([[0.0], [1.0], [8.0], [9.0]])
    centres, labels = density_peaks(points, 2)
    assert centres.tolist() == [0, 2]
    assert labels.tolist() == [0, 0, 1, 1]
    means = np.asarray(cluster_means(points, labels, 2))
    np.testing.assert_allclose(means, np.asarray([[1.0], [17.0]]) / (2 + 1e-6), rtol=1e-7)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e-30, 1e30])
def test_duplicates_and_extremes_give_valid_clusters(scale):
    points = scale * jnp.asarray(np.repeat(np.eye(4), 5, axis=0), jnp.float32)
    centres, labels = density_peaks(points, 3)
    assert len(set(centres.tolist())) == 3
    assert labels[centres].tolist() == [0, 1, 2]
    assert np.isfinite(cluster_means(points, labels, 3)).all()
    if scale in (0.0, 1.0):
        expected = written_out_clusters(points, 3)
        assert (centres.tolist(), labels.tolist()) == expected[:2]


def test_the_best_of_the_deleted_are_recycled():
    rng = np.random.default_rng(6)
    hidden, scores = rng.normal(size=(60, D)).astype(np.float32), rng.uniform(size=60)
    order = saliency_top_k(jnp.asarray(scores, jnp.float32), 60)
    merged = recycle(jnp.asarray(hidden), order, 9)
    kept = sorted(np.argsort(-scores)[:9])
    gone = sorted(set(range(60)) - set(kept), key=lambda i: -scores[i])[:16]  # ⌊15.3⌋ + 1
    np.testing.assert_allclose(merged, written_out_clusters(hidden[gone], 2)[2], atol=1e-5)


# SparseVLM+ ----------------------------------------------------------------------------------


def test_attention_is_divided_by_that_of_ones():
    rows = make_tokens(7).rows
    place, text = np.arange(3, 3 + N), np.arange(50, 50 + T)
    half, ones = D // 2, []
    for position in (*place, *text):  # a vector of ones, rotated
        angle = position * 100.0 ** (-np.arange(half) / half)
        turned = (np.cos(angle) - np.sin(angle), np.cos(angle) + np.sin(angle))
        ones.append(np.concatenate(turned))
    product = np.array(ones[N:]) @ np.array(ones[:N]).T / np.sqrt(D)
    distance = jnp.asarray(text[:, None] - place[None, :])
    found = without_rotation(rows, distance, D, 100.0)
    np.testing.assert_allclose(np.asarray(found) * product, rows, rtol=1e-3)


def test_the_heads_that_look_at_the_picture_most_are_kept():
    rows = jnp.stack([jnp.full((T, 3), value) for value in (0.1, 0.3, jnp.inf, 0.2, 0.3)])
    rows = rows.at[0, T - 1].set(100.0)  # of one that does not rate
    kept = top_heads(rows, jnp.arange(T) < T - 1, 4)
    np.testing.assert_allclose(kept[:, 0, 0], [0.3, 0.3, 0.2, 0.1], rtol=1e-6)


def test_what_is_not_finite_comes_last():
    pruner, tokens = SparseVLM(sparsevlm_version="plus"), make_tokens(8, real=1)
    tokens = dataclasses.replace(tokens, rows=tokens.rows.at[:, :, 2:9].set(jnp.inf))
    cut = pruning.Cut(3, look=2, keep=N - 7)
    assert sorted(run(pruner, tokens, cut).index) == [0, 1, *range(9, N)]


# The schedule and the class ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "budget", "counts", "left"),
    [
        ("1.5", 192, (300, 200, 110), (309, 204, 113)),
        ("1.5", 128, (303, 110, 36), (312, 117, 39)),
        ("1.5", 96, (238, 48, 26), (249, 55, 27)),
        ("1.5", 64, (66, 30, 17), (82, 32, 18)),
        ("plus", 192, (300, 200, 118), (300, 200, 118)),
        ("plus", 128, (238, 108, 60), (238, 108, 60)),
        ("plus", 96, (246, 54, 28), (246, 54, 28)),
        ("plus", 64, (66, 34, 20), (66, 34, 20)),
    ],
)
def test_the_published_schedules(version, budget, counts, left):
    assert schedule(version, budget, 576) == counts
    cuts = SparseVLM(sparsevlm_version=version).cuts(budget, 576, 32)
    assert [(cut.layer, cut.look) for cut in cuts] == [(3, 2), (7, 6), (16, 15)]
    assert tuple(cut.keep for cut in cuts) == counts
    assert tuple(cut.keep + cut.merged for cut in cuts) == left
    for cut in cuts:
        assert (cut.renumber, cut.how) == (version == "1.5", "drop")


def test_other_budgets_are_interpolated_and_other_sizes_scaled():
    assert schedule("1.5", 160, 576) == (302, 155, 73)  # half-way from 128 to 192
    assert schedule("1.5", 32, 576) == (33, 15, 9)  # half of 64
    assert schedule("1.5", 384, 576) == (438, 388, 343)  # half-way from 192 to all
    assert schedule("1.5", 576, 576) == (576, 576, 576)
    assert schedule("plus", 1, 576) == (1, 1, 1)
    assert schedule("plus", 32, 288) == (33, 17, 10)  # 64 of 576
    with pytest.raises(ValueError, match=r"1 … 5 .*got 6"):
        schedule("1.5", 6, 5)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("num_tokens", [1, 2, 3, 36, 100])
def test_every_budget_has_cuts_that_can_be_made(version, num_tokens):
    pruner = SparseVLM(sparsevlm_version=version)
    for depth in (2, 3, 4, 32, 40):
        for budget in range(1, num_tokens + 1):
            cuts, left = pruner.cuts(budget, num_tokens, depth), num_tokens
            assert len(cuts) == min(3, depth - 1)
            counts = [cut.keep for cut in cuts]
            assert counts == sorted(counts, reverse=True)
            for cut in cuts:
                assert 1 <= cut.keep <= left
                assert cut.keep < left or left == 1 or budget == num_tokens
                assert cut.merged == (recycled(left - cut.keep)[1] if version == "1.5" else 0)
                left = cut.keep + cut.merged
            if budget == num_tokens:
                assert (counts[0], left) == (num_tokens, num_tokens)
            else:
                assert counts[0] < num_tokens


def test_a_shallow_decoder_makes_the_last_cuts():
    assert [c.keep for c in SparseVLM().cuts(192, 576, 2)] == [110]
    assert [(c.layer, c.keep) for c in SparseVLM().cuts(192, 576, 3)] == [(1, 200), (2, 110)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("budget", [1, 12, N])
def test_picks_are_those_of_the_loop(version, budget):
    pruner, tokens = SparseVLM(sparsevlm_version=version), make_tokens(9)
    cut = pruner.cuts(budget, N, 32)[0]
    answer = run(pruner, tokens, cut)
    order = np.argsort(-written_out_scores(tokens, version), kind="stable")
    assert answer.index.tolist() == order[: cut.keep].tolist()
    if not cut.merged:
        assert answer.merged is None
        return
    again = order[cut.keep :][: recycled(N - cut.keep)[0]]
    means = written_out_clusters(np.asarray(tokens.hidden)[again], cut.merged)[2]
    np.testing.assert_allclose(answer.merged, means, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
def test_later_cuts_run_on_what_is_left(version):
    pruner = SparseVLM(sparsevlm_version=version)
    first, second, third = pruner.cuts(12, N, 32)
    for before, cut in ((first, second), (second, third)):
        tokens = make_tokens(10, num_visual=before.keep + before.merged)
        answer = run(pruner, tokens, cut)
        assert len(set(answer.index.tolist())) == cut.keep
        assert cut.merged == (0 if answer.merged is None else len(answer.merged))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_padding_holds_is_irrelevant(version):
    pruner, tokens = SparseVLM(sparsevlm_version=version), make_tokens(11)
    noisy = dataclasses.replace(
        tokens,
        rows=tokens.rows.at[:, REAL:].set(7.0),
        text_inputs=tokens.text_inputs.at[REAL:].set(7.0),
    )
    cut = pruner.cuts(12, N, 32)[0]
    answers = run(pruner, tokens, cut), run(pruner, noisy, cut)
    jax.tree.map(np.testing.assert_array_equal, *answers)


@pytest.mark.parametrize("version", VERSIONS)
def test_needs_is_all_it_reads(version):
    pruner, tokens = SparseVLM(sparsevlm_version=version), make_tokens(12)
    pruner.check()
    arrays = {need: getattr(tokens, need) for need in pruner.needs}
    fewer = pruning.DecoderTokens(**arrays, num_before=3, head_dim=D, rope_theta=100.0)
    cut = pruner.cuts(12, N, 32)[0]
    jax.tree.map(np.testing.assert_array_equal, run(pruner, fewer, cut), run(pruner, tokens, cut))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_batch_equals_a_loop(version):
    pruner = SparseVLM(sparsevlm_version=version)
    cut = pruner.cuts(12, N, 32)[0]
    questions = [make_tokens(seed, real=2 + seed) for seed in range(4)]
    batch = jax.tree.map(
        lambda *leaves: jnp.asarray(np.stack(leaves)).reshape(2, 2, *np.shape(leaves[0])),
        *questions,
    )
    answer = pruning.select_inside(pruner, batch, cut, jax.random.split(KEY, (2, 2)))
    for i, question in enumerate(questions):
        one = run(pruner, question, cut)
        np.testing.assert_array_equal(answer.index[i // 2, i % 2], one.index)
        if cut.merged:
            np.testing.assert_allclose(answer.merged[i // 2, i % 2], one.merged, atol=1e-6)


@pytest.mark.parametrize("version", ["1", "2.0", ""])
def test_an_unknown_version_is_refused(version):
    with pytest.raises(ValueError, match=f"sparsevlm: sparsevlm_version .*got '{version}'"):
        SparseVLM(sparsevlm_version=version).check()


@pytest.mark.golden
def test_golden_values_are_accepted(golden):
    compared = 0
    for name, case, inputs, stored in golden.cases("sparsevlm"):
        start, end = case["n_sys"], case["n_sys"] + case["n_img"]
        size = case["n_img"]
        embeds = jnp.asarray(inputs["text_rater_embeds"])
        rows = jnp.asarray(inputs["attention"][:, end:, start:end])
        hidden = jnp.asarray(inputs["hidden_for_merge"])
        raters = text_raters(embeds[start:end], embeds[end:], jnp.ones(len(embeds) - end, bool))
        score = relation(rows, raters)
        keep = min(case["budget"], size - 1)
        order = np.asarray(saliency_top_k(score, size))
        num_recycled, num_clusters = recycled(size - keep)
        adaptive = int(rank_budget(rows, raters, case["v1_scale"], case["v1_bias"]))
        given = stored("recycle_idx").astype(int)
        centres, labels = density_peaks(hidden[given], num_clusters)
        arrays = {
            "raters": np.flatnonzero(raters),
            "relation": np.asarray(score),
            "kept_topk": np.sort(order[:keep]),
            "kept_rank_v1": np.sort(order[:adaptive]),
            "recycle_idx": order[keep : keep + num_recycled],
            "centres": np.asarray(centres),
            "labels": np.asarray(labels),
            "merged": np.asarray(recycle(hidden, jnp.asarray(order), keep)),
        }
        golden.assert_accepted(f"sparsevlm/{name}", case, arrays, stored, lambda *_: None)
        golden.check.accept_all(case, arrays, stored, where=name)  # optional ones too
        compared += 1
    assert compared, "sparsevlm: no case in the manifest"
