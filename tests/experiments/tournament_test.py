"""The tournament: error rates and coverage by simulation, and the tables of a made-up run."""

import csv
import itertools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calibration
from experiments import catalogue
from experiments import tournament as entry
from experiments.harness.errors import InputError
from experiments.reporting import comparison, runs, tournament

SPLITS = ("adversarial", "popular", "random")
FAMILIES, PICTURES, ROWS, RESAMPLES = 1200, 60, 6, 300
ALPHA = 0.05
FLOAT32 = 1e-4  # relative: a tail of Student's t, many at once or a few
METRICS = ("accuracy", "ece", "aurc")


def draw(rng, families, rates):
    """Draw correctness bool[families, PICTURES, ROWS, M] of methods with these accuracies.

    Rows of a picture share its difficulty, methods mostly the same luck: all is dependent but the
    expectation of method m is its rate exactly.
    """
    shape = (families, PICTURES, ROWS, len(rates))
    hard = rng.uniform(-0.2, 0.2, (families, PICTURES, 1, 1))
    shared = rng.random(shape[:3])[..., None]
    luck = np.where(rng.random(shape) < 0.7, shared, rng.random(shape))
    return luck < np.asarray(rates) + hard


def resampled(rng, values):
    """Average float[families, PICTURES, ROWS, ...] over resamples: float[1+R, families, ...]."""
    counts = rng.multinomial(PICTURES, np.full(PICTURES, 1 / PICTURES), RESAMPLES)
    counts = np.concatenate([np.ones((1, PICTURES), int), counts])
    return np.einsum("rg,fg...->rf...", counts, values.sum(axis=2), optimize=True) / (
        PICTURES * ROWS
    )


def accuracy(rng, rates, families=FAMILIES):
    """Return resampled accuracies: float[1+R, families, M]."""
    return resampled(rng, draw(rng, families, rates))


def ece(rng, methods, families=FAMILIES):
    """Return resampled ECE of equally overconfident methods: float[1+R, families, M]."""
    correct = draw(rng, families, [0.7] * methods)
    confidence = np.clip(rng.normal(0.8, 0.1, correct.shape), 0, 1)
    bins = np.minimum((confidence * 5).astype(int), 4)[..., None] == np.arange(5)
    gaps = resampled(rng, bins * (confidence - correct)[..., None])
    return np.abs(gaps).sum(axis=-1)


def compared(samples):
    """Compare all pairs of every family in one call: Differences of [families · pairs]."""
    _, families, methods = samples.shape
    pairs = [*itertools.combinations(range(methods), 2)]
    places = [(f * methods + i, f * methods + j) for f in range(families) for i, j in pairs]
    return comparison.compare(samples.reshape(len(samples), -1), places, PICTURES)


@pytest.mark.parametrize(
    ("metric", "rejected", "covered"),
    [
        ("accuracy", (0.03, 0.07), (0.93, 0.97)),
        ("ece", (0.02, 0.07), (0.93, 0.985)),  # careful: |gap| is not smooth where a bin has no gap
    ],
)
def test_equal_methods_are_told_apart_as_seldom_as_is_said(metric, rejected, covered):
    rng = np.random.default_rng(0)
    samples = accuracy(rng, [0.7] * 4) if metric == "accuracy" else ece(rng, 4)
    found = compared(samples)
    p_values = found.p_value.reshape(FAMILIES, 6)
    inside = ((found.low <= 0) & (found.high >= 0)).reshape(FAMILIES, 6)
    assert rejected[0] < np.mean(p_values[:, 0] < ALPHA) < rejected[1]  # one test of each family
    assert covered[0] < np.mean(inside[:, 0]) < covered[1]
    adjusted = np.asarray(jax.vmap(calibration.holm)(jnp.asarray(p_values)))
    assert np.mean(adjusted.min(axis=1) < ALPHA) < 0.06
    assert np.mean(p_values.min(axis=1) < ALPHA) > 0.1  # what Holm is for
    one = comparison.compare(samples[:, 0], [*itertools.combinations(range(4), 2)], PICTURES)
    np.testing.assert_allclose(one.adjusted, adjusted[0], rtol=FLOAT32)


def test_intervals_cover_a_true_difference():
    found = compared(accuracy(np.random.default_rng(1), [0.75, 0.68]))
    covered = np.mean((found.low <= 0.07) & (found.high >= 0.07))
    assert 0.935 < covered < 0.965


def test_a_difference_that_could_be_seen_is_seen_in_four_of_five():
    rng = np.random.default_rng(2)
    size = 0.05
    for _ in range(2):  # the second time as large as the first says
        found = compared(accuracy(rng, [0.7 + size, 0.7]))
        size = float(np.mean(found.detectable))
    assert 0.76 < np.mean(found.p_value < ALPHA) < 0.84


def test_a_planted_winner_and_nobody_else_is_found():
    rng = np.random.default_rng(3)
    samples = accuracy(rng, [0.7, 0.7, 0.7, 0.85], families=200)
    false, true = [], []
    for family in range(200):
        pairs = [*itertools.combinations(range(4), 2)]
        found = comparison.compare(samples[:, family], pairs, PICTURES)
        stands = found.adjusted < ALPHA
        true += [s for s, pair in zip(stands, pairs, strict=True) if 3 in pair]
        false.append(any(s for s, pair in zip(stands, pairs, strict=True) if 3 not in pair))
        assert np.all(found.adjusted >= found.p_value)
    assert np.mean(true) > 0.9
    assert np.mean(false) < ALPHA + 0.03


def test_ranks_are_covered_even_among_near_equals():
    rng = np.random.default_rng(4)
    rates, families = [0.82, 0.702, 0.701, 0.7, 0.699, 0.698], 400
    samples = accuracy(rng, rates, families)
    truth, inside, naive, sure = np.arange(1, 7), [], [], []
    for family in range(families):
        own = samples[:, family]
        found = comparison.rank(own)
        inside.append((found.low <= truth) & (truth <= found.high))
        sure.append(found.high[0] == 1)
        assert np.all((found.low <= found.value) & (found.value <= found.high))
        ranks = 1 + np.sum(own[1:, :, None] < own[1:, None, :], axis=2)
        low, high = np.quantile(ranks, [0.025, 0.975], axis=0)
        naive.append((low <= truth) & (truth <= high))
    assert np.min(np.mean(inside, axis=0)) > 0.94
    assert np.min(np.mean(naive, axis=0)) < 0.93  # why not the quantiles of resampled ranks
    assert np.mean(sure) > 0.5  # and it does tell the winner


def test_equal_and_identical_methods():
    samples = np.random.default_rng(5).normal(size=(101, 2))
    samples = np.stack([samples[:, 0], samples[:, 0], samples[:, 1]], axis=1)
    found = comparison.compare(samples, [(0, 1), (0, 2)], 30)
    assert (found.value[0], found.low[0], found.high[0], found.p_value[0]) == (0, 0, 0, 1)
    ranks = comparison.rank(samples)
    assert ranks.value[0] == ranks.value[1]
    nothing = comparison.compare(np.full((101, 2), np.nan), [(0, 1)], 1)
    assert np.isnan(nothing.p_value).all()


def test_the_standard_error_is_the_clustered_one():
    rng = np.random.default_rng(6)
    correct = draw(rng, 1, [0.7, 0.75])
    found = compared(resampled(rng, correct))
    first, second = (jnp.asarray(correct[0, ..., m].ravel(), jnp.float32) for m in (1, 0))
    group = jnp.arange(PICTURES).repeat(ROWS)
    test = calibration.paired_difference_test(first, second, group)
    np.testing.assert_allclose(found.value, test.difference, atol=1e-6)
    np.testing.assert_allclose(found.p_value, test.p_value, rtol=0.3, atol=0.02)


@pytest.fixture(scope="module")
def out(tmp_path_factory, write_setting):
    """Full tokens, scope over alpha at two budgets, saliency at one, random with two seeds."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 240)
    side = np.where(label == 0, 1, -1)
    full = side * (1 + rng.normal(size=40).repeat(6) + rng.normal(size=240))
    write_setting(folder, "none", full, label, budget=16)
    for alpha, budget in itertools.product((0.0, 1.0), (4, 8)):
        moved = full + (1 + alpha) * rng.normal(size=240) / budget
        setting = {"pruner": "scope", "budget": budget, "alpha": alpha}
        write_setting(folder, f"scope_k{budget}_alpha{alpha:g}", moved, label, **setting)
    write_setting(folder, "saliency", full - side, label)
    for seed in (0, 1):
        drawn = full + 3 * rng.normal(size=240)
        write_setting(folder, f"random_{seed}", drawn, label, pruner="random", seed=seed)
    return folder


@pytest.fixture(scope="module")
def run(out):
    return runs.load(out, catalogue.get)


@pytest.fixture(scope="module")
def found(run):
    return {table.name: table for table in tournament.tables(run)}


def test_the_tables_and_their_families(found):
    kinds = [f"full_{m}" for m in METRICS], ["flips"], [f"pairs_{m}" for m in METRICS]
    assert [*found] == [f"tournament_{n}" for n in ("standing", *itertools.chain(*kinds))]
    assert len(found["tournament_full_ece"].rows) == 6
    assert "are the 6 differences" in found["tournament_full_ece"].note
    between = [labels for labels, _ in found["tournament_pairs_ece"].rows]
    assert between[0] == ("4", "scope alpha=0", "scope alpha=1")
    assert len(between) == 1 + 6  # two methods at 4, four at 8


@pytest.mark.parametrize("metric", METRICS)
def test_differences_are_paired_and_seeds_averaged(run, found, metric):
    rows = dict(found[f"tournament_full_{metric}"].rows)
    full, one, two = (
        s.samples(metric) for name in ("none", "random") for s in run.find(pruner=name)
    )
    drawn = (one + two) / 2 - full
    change, p_value, adjusted, seen = rows["8", "random"]
    ends = np.quantile(drawn[1:], [0.025, 0.975])
    np.testing.assert_allclose(
        [change.value, change.low, change.high], [drawn[0], *ends], atol=1e-6
    )
    assert (change.n, change.images) == (240, 40)
    assert p_value.value <= adjusted.value <= 1
    error = np.std(drawn[1:], ddof=1) * np.sqrt(40 / 39)
    assert seen.value == pytest.approx(2.8016 * error, rel=1e-3)
    smallest = [min(cells[i].value for cells in rows.values()) for i in (1, 2)]
    assert smallest[1] == pytest.approx(min(6 * smallest[0], 1), rel=1e-5)


def test_standing_is_by_budget_and_says_who_leads(run, found):
    table = found["tournament_standing"]
    assert [labels[0] for labels, _ in table.rows] == ["16", "4", "4", *["8"] * 4]
    assert table.rows[0][0][1] == "full tokens"
    assert table.rows[0][1][1].value is None  # it is no entrant
    for place, metric in enumerate(METRICS):
        sign = -1 if metric == "accuracy" else 1
        at_8 = {labels[1]: cells for labels, cells in table.rows if labels[0] == "8"}
        values = {name: sign * cells[2 * place].value for name, cells in at_8.items()}
        order = sorted(values, key=values.get)
        assert at_8[order[0]][2 * place + 1].value == 1
        assert at_8[order[-1]][2 * place + 1].value == 4
    at_8 = [cells[1].value for labels, cells in table.rows if labels[0] == "8"]
    assert at_8 == sorted(at_8)


def test_flips_are_counted_setting_by_setting(run, found):
    rows = dict(found["tournament_flips"].rows)
    assert ("8", "random seed=1") in rows
    before = run.full.top.correct
    after = run.find(pruner="saliency")[0].top.correct
    lost, won, mcnemar, clustered = (cell.value for cell in rows["8", "saliency"])
    assert lost == np.sum(before & ~after) > 0
    assert won == np.sum(~before & after)
    assert mcnemar == pytest.approx(2 * 0.5**lost, rel=1e-4) if won == 0 else mcnemar < 1
    group = jnp.asarray(run.full.rows.image)
    want = calibration.paired_difference_test(before, after, group).p_value
    assert clustered == pytest.approx(float(want))


def test_the_entry_prints_the_tables_and_writes_them(out, found, tmp_path, capsys):
    entry.report(out, tmp_path / "new" / "tables")
    said = capsys.readouterr().out
    assert "Standing per budget. pope: model pocket, data scenes; 240 rows on 40 pictures" in said
    assert "Δ AURC, method − other: " in said
    assert "of 7 stand after Holm" in said
    files = sorted(file.name for file in (tmp_path / "new" / "tables").iterdir())
    assert files == sorted(f"{name}.{end}" for name in found for end in ("md", "tex", "csv"))
    with (tmp_path / "new" / "tables" / "tournament_pairs_aurc.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 7 * 4
    assert (rows[0]["other"], rows[0]["quantity"]) == ("scope alpha=1", "aurc_difference")


def test_full_tokens_alone_are_refused(tmp_path, write_setting):
    write_setting(tmp_path, "none", np.ones(12), np.zeros(12))
    with pytest.raises(InputError, match="full tokens only"):
        tournament.tables(runs.load(tmp_path, catalogue.get))


def test_a_wrong_call_ends_in_one_line(tmp_path):
    call = [sys.executable, "-m", "experiments.tournament", "--run=nowhere"]
    ended = subprocess.run(call, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("refused: nowhere")
    assert ended.stderr.count("\n") == 1
