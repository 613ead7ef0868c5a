"""Curves of a made-up run: the calibration library's numbers, paired, and their figure."""

import csv
import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calibration
from experiments import catalogue
from experiments import curves as entry
from experiments.harness import records
from experiments.harness.errors import InputError
from experiments.reporting import curves, figures, predictions, runs

SPLITS = ("adversarial", "popular", "random")
PICTURES, ROWS_PER_PICTURE = 40, 6
FLOAT32 = 2e-6  # sums over 240 rows in another order, in float32
ENDS = ("png", "svg", "pdf", "csv")
METRICS = ("accuracy", "ece", "nll", "overconfidence")


@pytest.fixture(scope="module")
def run(tmp_path_factory, write_setting):
    """Full tokens, the same again, a correlated method over alpha, one with two seeds."""
    out = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, PICTURES * ROWS_PER_PICTURE)
    of_picture = rng.normal(size=PICTURES).repeat(ROWS_PER_PICTURE)
    full = np.where(label == 0, 1, -1) * (1 + of_picture + rng.normal(size=label.size))
    write_setting(out, "none", full, label, budget=16)
    write_setting(out, "same", full, label)
    for alpha in (0.0, 0.5, 10.0):
        for budget in (4, 8):
            moved = full * (1 + alpha) + rng.normal(size=label.size) / budget
            name = f"scope_k{budget}_alpha{alpha:g}"
            write_setting(
                out, name, moved, label, pruner="scope", budget=budget, alpha=alpha, gamma=1.0
            )
    for seed in (0, 1):
        drawn = full + 2 * rng.normal(size=label.size)
        write_setting(out, f"random_{seed}", drawn, label, pruner="random", seed=seed)
    return out


@pytest.fixture(scope="module")
def found(run):
    return load(run)


def load(folder):
    return curves.of(runs.load(folder, catalogue.get))


def place(found, method, budget):
    """Return a point's index."""
    return [(p.method, p.budget) for p in found.points].index((method, budget))


def bootstrapped(folder, counts):
    """Return metric → float[R] of a setting by the calibration library alone."""
    rows = predictions.load(folder, SPLITS)
    log_masses, label = jnp.asarray(rows.log_masses), jnp.asarray(rows.label)
    top = calibration.top_label(log_masses, label)

    def statistic(weights):
        return {
            "accuracy": calibration.accuracy(top.confidence, top.correct, weights),
            "ece": calibration.expected_calibration_error(top.confidence, top.correct, weights),
            "nll": calibration.negative_log_likelihood(log_masses, label, weights),
            "overconfidence": calibration.overconfidence(top.confidence, top.correct, weights),
        }

    return calibration.bootstrap(statistic, counts[:, rows.image])


def test_points_are_ordered_and_named_by_what_differs(found):
    assert found.heading == "pope: model pocket, data scenes; 240 rows on 40 pictures"
    assert [(p.method, p.budget, p.seeds) for p in found.points] == [
        ("none", 16, (None,)),
        ("random", 8, (0, 1)),
        ("same", 8, (None,)),
        *((f"scope alpha={a}", k, (None,)) for a in ("0", "0.5", "10") for k in (4, 8)),
    ]
    assert found.methods()["scope alpha=10"] == [7, 8]


@pytest.mark.parametrize("metric", METRICS)
def test_resamples_are_those_of_the_calibration_functions(run, found, metric):
    _, key = jax.random.split(jax.random.key(0))  # the first deals the folds
    counts = calibration.resample_counts(key, PICTURES, runs.NUM_RESAMPLES)
    counts = jnp.concatenate([jnp.ones_like(counts[:1]), counts])
    full, scope = (bootstrapped(run / f, counts)[metric] for f in ("none", "scope_k4_alpha0.5"))
    seeds = sum(bootstrapped(run / f"random_{seed}", counts)[metric] for seed in (0, 1)) / 2
    for want, method, budget in ((scope, "scope alpha=0.5", 4), (seeds, "random", 8)):
        index = place(found, method, budget)
        for interval, sample in (
            (found.values(metric), want),
            (found.changes(metric), want - full),
        ):
            got = [float(end[index]) for end in (interval.value, interval.low, interval.high)]
            ends = calibration.percentile_interval(sample[1:])
            np.testing.assert_allclose(got, [sample[0], *ends], atol=FLOAT32)
        again = found.difference(metric, index, 0)
        np.testing.assert_allclose(again.low, found.changes(metric).low[index], atol=FLOAT32)


def test_a_setting_differs_from_itself_by_exactly_nothing(found):
    index = place(found, "same", 8)
    for metric in METRICS:
        change = found.changes(metric)
        assert [float(x[index]) for x in (change.value, change.low, change.high)] == [0, 0, 0]


def test_pairs_are_narrower_than_independent_settings(found):
    index = place(found, "scope alpha=0", 8)
    for metric in ("accuracy", "nll", "overconfidence"):
        value, change = found.values(metric), found.changes(metric)
        alone = np.hypot(*(float(value.high[i] - value.low[i]) for i in (0, index)))
        assert float(change.high[index] - change.low[index]) < alone / 2


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("fewer", {"keys": range(11)}, r"fewer and .*none .*different questions, 1 .*random/0011"),
        ("others", {"keys": range(6, 18)}, "others and .*none .*different questions, 12 "),
        ("half", {"dtype": "float16"}, "half is another run than .*none: dtype differ"),
    ],
)
def test_settings_that_cannot_be_paired_are_refused_by_name(
    tmp_path, name, change, named, write_setting
):
    margin, label = np.linspace(-1, 2, 12), np.arange(12) % 2
    write_setting(tmp_path, "none", margin, label, budget=16)
    size = len(change.get("keys", label))
    write_setting(tmp_path, name, margin[:size], label[:size], **change)
    with pytest.raises(InputError, match=named):
        load(tmp_path)


def test_folders_without_a_curve_are_refused(tmp_path, write_setting):
    margin, label = np.ones(6), np.zeros(6)
    with pytest.raises(InputError, match="no finished setting"):
        load(tmp_path)
    write_setting(tmp_path, "none", margin, label)
    with pytest.raises(InputError, match="full tokens only"):
        load(tmp_path)
    write_setting(tmp_path, "scope", margin, label)
    (tmp_path / "none" / records.SEALED).unlink()
    with pytest.raises(InputError, match="none is not finished"):
        load(tmp_path)
    (tmp_path / "none" / records.SEALED).touch()
    (tmp_path / "scope" / records.RUN).write_text("{")
    with pytest.raises(InputError, match=r"scope/run\.json does not describe"):
        load(tmp_path)


def test_the_figure_is_written_and_the_same_every_time(found, tmp_path):
    first = figures.budget_curves(found, tmp_path / "new" / "pocket_v1.5")
    assert [file.name for file in first] == [f"pocket_v1.5.{end}" for end in ENDS]
    png, svg, pdf, table = (file.read_bytes() for file in first)
    assert png.startswith(b"\x89PNG")
    assert b"<svg" in svg
    again = figures.budget_curves(found, tmp_path / "again")
    assert [file.read_bytes() for file in again] == [png, svg, pdf, table]


def test_the_numbers_stand_beside_the_figure(found, tmp_path):
    *_, table = figures.budget_curves(found, tmp_path / "curves")
    with table.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == len(found.points) * len(METRICS)
    (row,) = (r for r in rows if r["method"] == "random" and r["metric"] == "ece")
    assert (row["budget"], row["seeds"], row["hyperparameters"]) == ("8", "0 1", "order=raster")
    index = place(found, "random", 8)
    for prefix, interval in (("", found.values("ece")), ("change_", found.changes("ece"))):
        for end in ("value", "low", "high"):
            want = float(getattr(interval, end)[index])
            assert float(row[prefix + end]) == pytest.approx(want, abs=1e-6)


def test_without_matplotlib_one_line_says_what_to_install(found, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[figures\]'"):
        figures.budget_curves(found, tmp_path / "curves")
    assert not list(tmp_path.iterdir())


def test_the_summary_names_extremes_and_the_trend_over_alpha(run, found, tmp_path, capsys):
    entry.report(run, tmp_path / "curves")
    out = capsys.readouterr().out
    assert out.count("\nscope alpha=10 ") == 2
    loss = 100 * float(found.changes("accuracy").value[place(found, "random", 8)])
    assert f"K=8: worst is random, {loss:+.1f} [" in out
    ends = [place(found, f"scope alpha={alpha}", 4) for alpha in ("0", "10")]
    change = found.difference("ece", *ends)
    (line,) = (line for line in out.splitlines() if line.startswith("  K=4, scope:"))
    assert line.index("(alpha=10)") < line.index("(alpha=0)")
    assert f"{float(change.value):+.3f} [{float(change.low):+.3f}, " in line
    assert line.endswith("it falls") == (float(change.high) < 0)


@pytest.mark.parametrize(
    ("flags", "code", "named"),
    [(["--run=nowhere"], 2, "refused: nowhere"), (["extra"], 1, "usage: unexpected")],
)
def test_wrong_calls_end_in_one_line(tmp_path, flags, code, named):
    call = [sys.executable, "-m", "experiments.curves", *flags]
    ended = subprocess.run(call, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert ended.returncode == code
    assert ended.stderr.startswith(named)
    assert ended.stderr.count("\n") == 1
    assert not ended.stdout
