"""The cascade: against brute force, its ends and bounds, and a guarantee kept in simulation."""

import csv
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import calibration
from experiments import cascade as entry
from experiments import catalogue
from experiments.harness.errors import InputError, UsageError
from experiments.reporting import runs
from experiments.reporting.cascade import curve, guarantee, stages, tables

SPLITS = ("adversarial", "popular", "random")


def made_up(rng, pictures=7, rows=40, number=4):
    """Return stages whose later ones are surer and more often right; pictures differ in rows."""
    image = np.concatenate([np.arange(pictures), rng.integers(0, pictures, rows - pictures)])
    margin = rng.normal(size=(rows, number)) + np.arange(number)
    return stages.Stages(
        heading="made up",
        method="pruner=scope",
        names=tuple(f"K = {2**k}" for k in range(number)),
        tokens=2.0 ** np.arange(number),
        margin=margin,
        correct=rng.random((rows, number)) < 1 / (1 + np.exp(-margin)),
        image=image,
    )


def counts(rng, pictures=7, number=20):
    """Return resamples, the pictures themselves first."""
    drawn = rng.multinomial(pictures, np.full(pictures, 1 / pictures), number)
    return np.concatenate([np.ones((1, pictures), int), drawn])


def stop_of(margins, threshold):
    """Return where one question stops, in plain words."""
    for stage, margin in enumerate(margins[:-1]):
        if margin > threshold:
            return stage
    return len(margins) - 1


def test_questions_stop_where_plain_python_says():
    rng = np.random.default_rng(0)
    margin = rng.integers(-3, 4, (50, 5)).astype(float)  # with ties at the thresholds
    thresholds = np.array([np.inf, 2, 0.5, 0, -1, -np.inf])
    found = stages.stops(margin, thresholds)
    want = [[stop_of(row, t) for row in margin] for t in thresholds]
    assert found.tolist() == want


def test_the_curve_is_that_of_brute_force():
    rng = np.random.default_rng(1)
    asked, weights = made_up(rng), counts(rng)
    found = curve.of(asked, weights)
    assert 10 < len(found.thresholds) < len(stages.THRESHOLDS)
    for place in (0, 3, len(found.thresholds) // 2, len(found.thresholds) - 1):
        stop = [stop_of(row, found.thresholds[place]) for row in asked.margin]
        for resample in (0, 1, 20):
            weight = weights[resample][asked.image]
            shares = np.bincount(stop, weight, 4) / weight.sum()
            alone = weight @ ~asked.correct / weight.sum()
            wrong = [not row[s] for row, s in zip(asked.correct, stop, strict=True)]
            got = [x[resample, place] for x in vars(found.cascade).values()]
            spent = [sum(asked.tokens[: s + 1]) for s in stop]
            want = [np.average(x, weights=weight) for x in (spent, asked.tokens[stop], wrong)]
            np.testing.assert_allclose(got, want)
            np.testing.assert_allclose(found.chance.wrong[resample, place], shares @ alone)
            np.testing.assert_allclose(found.fixed.wrong[resample], alone)
    np.testing.assert_array_equal(found.chance.asked, found.cascade.asked)
    np.testing.assert_array_equal(found.fixed.asked[0], asked.tokens)


def test_its_ends_are_full_tokens_and_the_cheapest_budget():
    rng = np.random.default_rng(2)
    asked = made_up(rng)
    asked.margin[0] = np.inf  # a certain answer too is asked again under no threshold
    found = curve.of(asked, counts(rng))
    assert (found.thresholds[0], found.thresholds[-1]) == (np.inf, -np.inf) or (
        found.thresholds[-1] < asked.margin[:, 0].min()
    )
    for end, stage in ((0, -1), (-1, 0)):
        np.testing.assert_array_equal(found.cascade.wrong[:, end], found.fixed.wrong[:, stage])
        np.testing.assert_array_equal(found.cascade.answered[:, end], asked.tokens[stage])
        np.testing.assert_allclose(found.cascade.asked[:, end], asked.tokens.cumsum()[stage])
    for spent in (found.cascade.asked, found.cascade.answered):
        assert np.all(np.diff(spent, axis=1) <= 1e-12)


def test_nothing_is_wrong_less_often_than_the_oracle():
    rng = np.random.default_rng(3)
    for _ in range(20):
        found = curve.of(made_up(rng), counts(rng))
        for points in (found.cascade, found.chance, found.fixed):
            assert np.all(found.oracle.wrong <= points.wrong + 1e-12)
    correct = np.array([[0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]], bool)
    assert stages.oracle(correct).tolist() == [2, 0, 0, 1]  # never right: no token is wasted


def test_a_margin_that_knows_beats_chance_at_the_same_tokens():
    found = curve.of(made_up(np.random.default_rng(4), 200, 4000), np.ones((1, 200), int))
    middle = slice(len(found.thresholds) // 4, -len(found.thresholds) // 4)
    assert np.all(found.cascade.wrong[0, middle] < found.chance.wrong[0, middle])


def test_cost_is_not_exceeded_and_no_dearer_threshold_would_do():
    found = curve.of(made_up(np.random.default_rng(5), 20, 400), np.ones((1, 20), int))
    place = curve.at_cost(found, 4.0)
    assert found.cascade.asked[0, place] <= 4 < found.cascade.asked[0, place - 1]
    assert curve.at_cost(found, found.cascade.asked[0, place]) == place
    assert curve.at_cost(found, 0.5) is None
    names = [name.strip() for name, *_ in curve.rules(found)]
    assert names[:3] == ["K = 1 alone", "K = 2 alone", names[2]]
    assert names[2].startswith("cascade, threshold ")
    assert names[-1] == "oracle"


def clustered(rng, sets, pictures, rates, alike):
    """Draw wrong rows of pictures float[sets, T, pictures] and their rows int[pictures].

    Rows of a picture fail together, thresholds of a picture too; the share of wrong rows is the
    rate of the threshold exactly, in pictures of any size.
    """
    rows = rng.integers(1, 12, pictures)
    shape = (sets, len(rates), pictures)
    together = rng.random((sets, 1, pictures)) < np.asarray(rates)[:, None]
    alone = rng.binomial(rows, np.broadcast_to(np.asarray(rates)[:, None], shape))
    return np.where(rng.random((sets, 1, pictures)) < alike, together * rows, alone), rows


def test_the_p_value_is_that_of_plain_python():
    errors, rows = clustered(np.random.default_rng(8), 1, 30, [0.05], 0.5)
    risk, delta, seen, squares, capital, best = 0.1, 0.2, 0.5, 0.25, 1.0, 1.0
    for number, (wrong, size) in enumerate(zip(errors[0, 0], rows, strict=True), 1):
        value = risk + (wrong - risk * size) / max(rows)
        bet = min(1, np.sqrt(2 * np.log(1 / delta) / (30 * squares / number)))
        capital *= 1 + bet * (risk - value)
        best = max(best, capital)
        seen += value
        squares += (value - seen / (number + 1)) ** 2
    found = guarantee.betting_p_value(errors[0, 0], rows, risk=risk, delta=delta)
    assert found == pytest.approx(1 / best)
    assert found < 0.9


def test_rows_count_not_pictures():
    rows = np.tile([1, 1, 1, 10], 100)
    errors = np.where(rows == 10, 2, 0)  # 15 % of the rows, 5 % of the mean picture
    assert guarantee.betting_p_value(errors, rows, risk=0.1) > 0.5
    assert guarantee.betting_p_value(errors, rows, risk=0.2) < 0.05


@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
def test_p_values_are_valid_at_the_edge_of_the_hypothesis(alike):
    errors, rows = clustered(np.random.default_rng(6), 3000, 150, [0.1], alike)
    found = guarantee.betting_p_value(errors[:, 0], rows, risk=0.1)
    for level in (0.01, 0.05, 0.1, 0.2):
        noise = 2 * np.sqrt(level * (1 - level) / len(found))
        assert np.mean(found <= level) <= level + noise
    powerful = guarantee.betting_p_value(errors[:, 0], rows, risk=0.2)
    assert np.mean(powerful <= 0.05) > 0.5


@pytest.mark.parametrize("alike", [0.0, 1.0])
def test_the_true_risk_is_seldom_above_the_target(alike):
    rng, sets, delta, risk = np.random.default_rng(7), 500, 0.1, 0.1
    rates = np.linspace(0.04, 0.16, 25)
    errors, rows = clustered(rng, sets, 200, rates, alike)
    chosen = [guarantee.last_certain(own, rows, risk=risk, delta=delta) for own in errors]
    missed = np.mean([c is not None and rates[c] > risk for c in chosen])
    assert missed <= delta + 2 * np.sqrt(delta * (1 - delta) / sets)
    useful = [rates[c] for c in chosen if c is not None]
    assert len(useful) > 0.8 * sets
    assert np.mean(useful) > 0.06  # not by choosing the safest only
    if alike:  # what counting rows as independent would do
        naive = [_last_by_rows(own, rows.sum(), risk, delta) for own in errors]
        assert np.mean([c is not None and rates[c] > risk for c in naive]) > 2 * delta


def _last_by_rows(errors, total, risk, delta):
    """Choose as if all rows were independent, by a normal bound."""
    rate = errors.sum(axis=1) / total
    passed = rate + 1.2816 * np.sqrt(risk * (1 - risk) / total) <= risk
    assert delta == 0.1
    count = len(passed) if passed.all() else int(np.argmin(passed))
    return count - 1 if count else None


def test_the_sequence_ends_at_its_first_failure():
    rows = np.full(300, 6)
    rates = np.array([0.0, 0.01, 0.5, 0.0])
    errors = np.round(rates[:, None] * rows) * np.ones((4, 300))
    assert guarantee.last_certain(errors[:2], rows, risk=0.1) == 1
    assert guarantee.last_certain(errors, rows, risk=0.1) == 1
    assert guarantee.last_certain(errors[2:], rows, risk=0.1) is None
    fold = np.arange(300) % 5
    errors[1, fold != 2] = 6  # only without the other folds would it pass
    chosen = guarantee.cross_validated(errors, rows, fold, risk=0.1)
    assert (chosen.index, chosen.folds) == (0, (0,) * 5)


def test_a_fold_is_no_part_of_its_own_choice():
    rows, fold = np.full(200, 4), np.arange(200) % 5
    errors = np.zeros((2, 200))
    errors[1, fold == 3] = 4  # bad in one fold alone
    chosen = guarantee.cross_validated(errors, rows, fold, risk=0.1)
    assert chosen.folds == (0, 0, 0, 1, 0)


@pytest.fixture(scope="module")
def out(tmp_path_factory, write_setting):
    """Full tokens, scope over alpha at three budgets, random with two seeds."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 600)
    side = np.where(label == 0, 1, -1)
    full = side * (3 + rng.normal(size=100).repeat(6) + rng.normal(size=600))
    write_setting(folder, "none", full, label, budget=64)
    for budget in (4, 8, 16):
        for alpha in (0.0, 0.5):
            moved = full + 8 * rng.normal(size=600) / np.sqrt(budget)
            setting = {"pruner": "scope", "budget": budget, "alpha": alpha}
            write_setting(folder, f"scope_k{budget}_alpha{alpha:g}", moved, label, **setting)
    for seed in (0, 1):
        drawn = full + 4 * rng.normal(size=600)
        write_setting(folder, f"random_{seed}", drawn, label, pruner="random", seed=seed)
    return folder


@pytest.fixture(scope="module")
def run(out):
    return runs.load(out, catalogue.get)


@pytest.fixture(scope="module")
def found(run):
    asked = stages.of(run, pruner="scope", alpha=0.5)
    return curve.of(asked, runs.draws(asked.num_pictures))


def test_stages_are_one_methods_budgets_and_full_tokens(run, found):
    asked = found.stages
    assert asked.names == ("K = 4", "K = 8", "K = 16", "full tokens")
    assert asked.tokens.tolist() == [4, 8, 16, 64]
    assert asked.method == "pruner=scope alpha=0.5"
    scope = run.find(pruner="scope", alpha=0.5, budget=8)[0]
    np.testing.assert_array_equal(asked.margin[:, 1], scope.top.margin)
    few = stages.of(run, (16, 4), pruner="scope", alpha=0.5)
    assert few.names == ("K = 4", "K = 16", "full tokens")


def test_one_budget_alone_has_the_errors_and_intervals_of_its_report(run, found):
    scope = run.find(pruner="scope", alpha=0.5, budget=8)[0]
    want = 1 - scope.samples("accuracy")
    np.testing.assert_allclose(found.fixed.wrong[:, 1], want, atol=1e-6)


def test_tokens_are_those_that_decoder_layers_saw(run):
    setting = run.find(pruner="random", seed=0)[0]
    setting.run["plan"] = {"visual_tokens_per_layer": [64, 64, 8, 8]}
    asked = stages.of(run, pruner="random", seed=0)
    del setting.run["plan"]
    assert asked.tokens.tolist() == [36, 64]


@pytest.mark.parametrize(
    ("about", "budgets", "named"),
    [
        ({"pruner": "floc"}, None, "no pruned setting with pruner=floc"),
        ({"pruner": "none"}, None, "no pruned setting with pruner=none"),
        ({"pruner": "scope"}, None, r"which --alpha of 0\.0, 0\.5"),
        ({"pruner": "random"}, None, "which --seed of 0, 1"),
        ({"pruner": "scope", "alpha": 0.0}, (4, 5), r"--budget=5; there are 4, 8, 16"),
    ],
)
def test_settings_that_are_no_stages_are_refused_by_name(run, about, budgets, named):
    with pytest.raises(UsageError, match=named):
        stages.of(run, budgets, **about)


def test_the_tables_have_rules_at_equal_cost_and_thresholds_out_of_fold(found):
    rules, guaranteed, points = tables.of(found, (0.001, 0.2))
    names = [labels[0] for labels, _ in rules.rows]
    place = names.index("full tokens alone")
    assert names[place + 1].startswith("cascade, threshold ")
    full, own = rules.rows[place][1], rules.rows[place + 1][1]
    assert full[3].value == full[3].low == full[3].high == 0
    assert own[0].value <= full[0].value == 64
    assert (own[0].n, own[0].images) == (600, 100)
    (_, never), (_, kept) = guaranteed.rows
    assert (never[0].value, never[1].value, never[4].value) == (None, 0, None)
    assert (kept[1].value, kept[1].n) == (5, 100)
    assert kept[4].low < kept[4].value < kept[4].high < 0.2
    assert kept[0].value < 16
    assert kept[2].value < found.cascade.asked[0, 0]
    assert len(points.rows) == 4 + 1 + 2 * len(found.thresholds)


def test_a_picture_is_no_part_of_the_choice_of_its_own_threshold():
    key, _ = jax.random.split(jax.random.key(0))
    fold = np.asarray(calibration.kfold(key, 100, tables.NUM_FOLDS)).repeat(6)
    asked = stages.Stages(
        *("made up", "pruner=scope", ("K = 1", "full tokens")),
        tokens=np.array([1.0, 10.0]),
        margin=np.zeros((600, 2)),
        correct=np.stack([fold != 3, fold >= 0], axis=1),  # one fold needs full tokens
        image=np.arange(100).repeat(6),
    )
    _, guaranteed, _ = tables.of(curve.of(asked, np.ones((3, 100), int)), (0.1,))
    threshold, folds, *others = (cell.value for cell in guaranteed.rows[0][1])
    assert (threshold, folds) == (0, 5)
    want = [0.2 * 1 + 0.8 * 11, 0.2 * 1 + 0.8 * 10, 0.2]  # the others show the fold nothing
    np.testing.assert_allclose(others, want)


def test_the_entry_prints_and_writes_all_and_the_same_every_time(out, tmp_path, capsys):
    for name in ("one", "two"):
        about = {"pruner": "scope", "alpha": 0.5}
        entry.report(out, tmp_path / name, about, budgets=(4, 16), risks=(0.2,), delta=0.1)
    said = capsys.readouterr().out
    assert "Cheapest cascade with a guaranteed error rate, pruner=scope alpha=0.5. pope:" in said
    assert "With probability 0.9" in said
    one, two = ({f.name: f.read_bytes() for f in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert one == two
    tabulated = [f"cascade_{n}.{e}" for n in ("guarantee", "rules") for e in ("csv", "md", "tex")]
    drawn = [f"cascade_curve.{e}" for e in ("csv", "pdf", "png", "svg")]
    assert sorted(one) == sorted(tabulated + drawn)
    assert one["cascade_curve.png"].startswith(b"\x89PNG")
    with (tmp_path / "one" / "cascade_curve.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    errors = [row for row in rows if row["quantity"] == "error_rate" and row["rule"] == "cascade"]
    assert float(errors[0]["low"]) <= float(errors[0]["value"]) <= float(errors[0]["high"])
    assert errors[0]["threshold"] == "inf"


def test_without_matplotlib_one_line_says_what_to_install(out, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    about = {"pruner": "scope", "alpha": 0.5}
    with pytest.raises(InputError, match=r"pip install -e '\.\[figures\]'"):
        entry.report(out, tmp_path, about, budgets=None, risks=(0.2,), delta=0.05)


@pytest.mark.parametrize(
    ("flags", "code", "named"),
    [
        (["--pruner=scope", "--run=nowhere"], 2, "refused: nowhere"),
        (["--pruner=scope", "--risk=0.1,2"], 1, "usage: --risk=2 is no share"),
        (["--pruner=scope", "--budget=4,x"], 1, "usage: --budget=4,x is no"),
    ],
)
def test_wrong_calls_end_in_one_line(tmp_path, flags, code, named):
    call = [sys.executable, "-m", "experiments.cascade", *flags]
    ended = subprocess.run(call, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert ended.stderr.startswith(named)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert ended.stderr.count("\n") == 1


def test_the_command_line_names_a_method(out, tmp_path):
    flags = [f"--run={out}", "--pruner=random", "--seed=1", f"--out={tmp_path}", "--risk=0.3"]
    call = [sys.executable, "-m", "experiments.cascade", *flags]
    ended = subprocess.run(call, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "pruner=random seed=1" in ended.stdout
