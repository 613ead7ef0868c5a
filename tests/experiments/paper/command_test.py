"""`experiments.paper` from end to end on a tiny model, and what it says before."""

import dataclasses
import shutil

import numpy as np
import pytest

from experiments import catalogue, paper
from experiments.harness.errors import UsageError
from experiments.reporting import runs
from experiments.reporting.paper import documents, setup
from experiments.studies import definition
from experiments.studies import flags as study_flags

TINY = """
[[run]]
benchmarks = ["pope", "scienceqa"]
route = "first_token"
[[run.grid]]
pruner = "scope"
alpha = [0.0, 1.0]
gamma = 1.0
budget = [4, 8]
"""


@pytest.fixture
def base(monkeypatch, tmp_path, config, fixtures_dir):
    """What the command line says: a tiny model, made-up files; the study is as small."""
    (tmp_path / "tiny.toml").write_text(TINY)
    small = definition.read(str(tmp_path / "tiny.toml"))
    monkeypatch.setattr(definition, "read", lambda study: small)
    data, out = str(fixtures_dir / "raw"), str(tmp_path / "paper")
    own = dataclasses.replace(config, data=data, out=out, limit=3, cache=str(tmp_path / "cache"))
    monkeypatch.setattr(study_flags, "base", lambda: own)
    return own


def times(out):
    """Return when each file was written; pace and results are small and written anew."""
    return {
        file: file.stat().st_mtime_ns
        for file in out.rglob("*")
        if file.is_file() and file.name not in ("pace.json", "results.json")
    }


def test_the_study_is_run_said_written_and_not_done_twice(base, tmp_path, capsys):
    out = tmp_path / "paper"
    assert paper._main(["tables"], "") == 0
    said = capsys.readouterr()
    assert "tables: " in said.err
    assert "answers to come" in said.err
    assert "pope: accuracy " in said.err  # the set-up is checked before any table
    assert setup.DIFFERS in said.err
    assert "claims ledger: " in said.out
    page = (out / "report.html").read_text("utf-8")
    assert page.count('<section class="run"') == 2
    assert "Claims ledger" in page
    assert "not run" in (out / "ledger.md").read_text("utf-8")
    before = times(out)
    assert paper._main(["tables"], "") == 0
    said = capsys.readouterr()
    assert "tables: complete" in said.err
    assert times(out) == before


def test_a_dry_run_prints_the_plan_and_writes_nothing(base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(study_flags, "base", lambda: dataclasses.replace(base, dry_run=True))
    assert paper._main(["tables"], "") == 0
    said = capsys.readouterr().out
    for word in ("paper/tables/pope", "paper/tables/scienceqa", "memory:", "TFLOP", "answers"):
        assert word in said
    assert not (tmp_path / "paper").exists()


def test_an_unknown_part_is_refused_by_name():
    with pytest.raises(UsageError, match="--part=table is none of tables, gamma, tournament"):
        paper._main(["table"], "")


def test_the_papers_mode_asks_four_options_and_the_default_those_there_are(base):
    lettered = {run.benchmark: run.folder for run in paper._study("tables", base)}
    assert lettered == {"pope": "pope", "scienceqa": "scienceqa"}
    own = dataclasses.replace(base, mode="paper")
    lettered = {run.benchmark: run.folder for run in paper._study("tables", own)}
    assert lettered == {"pope": "pope", "scienceqa": "scienceqa_abcd"}


def test_documents_take_the_options_of_their_mode(study, tmp_path):
    out = tmp_path / "study"
    shutil.copytree(study, out)
    shutil.copytree(out / "tables/scienceqa", out / "tables/scienceqa_abcd")
    for mode, folder in (("default", "scienceqa"), ("paper", "scienceqa_abcd")):
        found = documents.load(out, catalogue.get, mode)
        assert found.runs["scienceqa"].path.name == folder
        assert found.runs["pope"].full.mode == mode


def test_a_set_up_is_compared_with_what_llava_scores(evidence, monkeypatch):
    pope = evidence.runs["pope"]
    found = setup.check(pope)
    accuracy = pope.full.top.correct.mean()
    assert found.value == pytest.approx(accuracy, abs=1e-6)
    far = {("pope", "first_token"): ("accuracy", accuracy - 0.4, accuracy - 0.3)}
    monkeypatch.setattr(setup, "RANGES", far)
    assert not setup.check(pope).matches
    assert setup.DIFFERS in str(setup.check(pope))
    near = {("pope", "first_token"): ("accuracy", accuracy - 0.01, accuracy)}
    monkeypatch.setattr(setup, "RANGES", near)
    assert setup.check(pope).matches
    monkeypatch.setattr(setup, "RANGES", {})
    assert setup.check(pope) is None


def test_the_interval_of_the_set_up_is_that_of_the_tables(evidence):
    found = setup.check(evidence.runs["pope"])
    samples = evidence.runs["pope"].full.samples("accuracy")
    assert (found.low, found.high) == tuple(np.percentile(samples[1:], [2.5, 97.5]))
    assert len(samples) == 1 + runs.NUM_RESAMPLES
