"""Studies: what their files say, what they refuse, and how they run and resume."""

import dataclasses
import pathlib
import types

import pytest

from experiments import catalogue
from experiments.harness import grid
from experiments.harness.errors import InputError
from experiments.studies import definition, running

MINE = """
[[run]]
benchmarks = ["pope", "mme"]
limit = 3
[[run.grid]]
pruner = ["saliency", "random"]
budget = [4, 8]
seed = [0, 1]
[[run.grid]]
pruner = "scope"
alpha = 0
budget = 2
"""


def write(tmp_path, text):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    return str(file)


def ids(run, config):
    return [setting.id for setting in grid.settings(16, *run.configs(config))]


def test_a_study_is_grids_over_benchmarks(tmp_path, config):
    runs = definition.read(write(tmp_path, MINE))
    assert [run.benchmark for run in runs] == ["pope", "mme"]
    names = ids(runs[0], config)
    assert names[0] == "none"
    assert len(names) == len(set(names)) == 1 + 2 + 4 + 1
    assert names[-1].startswith("scope_k2_alpha0")
    first, *_ = runs[1].configs(dataclasses.replace(config, data="folder", out="runs/x/"))
    assert (first.data, first.out, first.limit) == (
        str(pathlib.Path("folder/mme")),
        "runs/x/mme",
        3,
    )
    first, *_ = runs[1].configs(dataclasses.replace(config, data="hub", limit=5))
    assert (first.data, first.limit) == ("lmms-lab/MME", 5)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a = ", "mine.toml: "),
        ("a = 1", r"consists of \[\[run\]\], this one of \['a'\]"),
        ("[[run]]\n", r"benchmarks = \[\]"),
        ("[[run]]\nbenchmarks = ['pop']\n", r"benchmarks = \['pop'\]; there are pope"),
        ("[[run]]\nbenchmarks = ['pope']\nlimit = 0\n", "limit: 0 is no number, of at least 1"),
        ("[[run]]\nbenchmarks = ['pope']\nroute = 'x'\n", "route = 'x' is none of"),
        ("[[run]]\nbenchmarks = ['pope']\nrout = 'x'\n", "rout is none of"),
        (MINE + MINE, "pope is asked by two runs"),
        (MINE.replace("alpha = 0", "alpah = 0"), "alpah is no flag of a grid"),
        (MINE.replace("alpha = 0", "alpha = 'a'"), "'a' is no float"),
        (MINE.replace('"scope"', '"scop"'), "pruner = 'scop' does not exist"),
        (MINE.replace("budget = 2", "budget = true"), "True is no int"),
    ],
)
def test_what_is_no_study_is_refused_by_place(tmp_path, text, named):
    with pytest.raises(InputError, match=named):
        definition.read(write(tmp_path, text))


def test_a_study_that_is_not_there_names_those_that_are():
    with pytest.raises(InputError, match="included are gamma, quantization, tables, tournament"):
        definition.read("gama")


def test_the_papers_studies_have_the_papers_settings(config):
    pope, scienceqa = definition.read("tables")
    assert len(ids_576(pope, config)) == 1 + 9 + 1 + 2 + 6 + 1
    assert len(ids_576(scienceqa, config)) == 5
    gamma = definition.read("gamma")
    assert {run.benchmark for run in gamma} == set(catalogue.NAMES)
    # 7 budgets of default SCOPE, and of 4 γ at two α each
    assert all(len(ids_576(run, config)) == 1 + 7 + 7 * 8 for run in gamma)
    (tournament,) = definition.read("tournament")
    names = {s.name for s in grid.settings(576, *tournament.configs(config))}
    assert len(names) == 21


def ids_576(run, config):
    return [setting.id for setting in grid.settings(576, *run.configs(config))]


def test_benchmarks_without_data_are_left_out_and_none_at_all_is_refused(tmp_path):
    runs = definition.read(write(tmp_path, MINE))
    with pytest.raises(InputError, match="none of the folders pope, mme"):
        definition.present(runs, str(tmp_path))
    (tmp_path / "mme").mkdir()
    assert [run.benchmark for run in definition.present(runs, str(tmp_path))] == ["mme"]


def test_a_study_runs_resumes_and_does_nothing_twice(tmp_path, config, fixtures_dir):
    own = dataclasses.replace(config, data=str(fixtures_dir / "raw"), out=str(tmp_path / "study"))
    runs = definition.read(write(tmp_path, MINE))
    done = []

    def then(step, outcome):
        done.append((step.benchmark.name, outcome.answered))
        return 0

    pace = running.Pace()
    first = running.answer(running.prepare(runs, own), pace, "", then)
    assert next(first) == 0  # stopped behind the first benchmark
    assert done[0][0] == "pope"
    assert pace.flops["first_token"] > 0
    later = running.prepare(runs, own)
    assert [step.work.missing > 0 for step in later] == [False, True]
    assert [step.work.flops > 0 for step in later] == [False, True]
    assert list(running.answer(later, pace, "", then)) == [0, 0]
    assert [name for name, answered in done if answered] == ["pope", "mme"]
    assert [step.work.missing for step in running.prepare(runs, own)] == [0, 0]


def to_do(route, flops):
    """Return a step as far as the pace looks at it."""
    work = types.SimpleNamespace(flops=flops)
    return types.SimpleNamespace(route=route, work=work)


def test_the_pace_is_kept_and_says_how_long_the_rest_takes(tmp_path):
    pace = running.Pace()
    pace.add("first_token", 4, 40)
    pace.add("first_token", 6, 60)
    assert pace.expect([to_do("first_token", 50)]) == "about 5 s"
    assert pace.expect([to_do("first_token", 50_000)]) == "about 83 min"
    assert pace.expect([to_do("first_token", 600_000)]) == "about 16.7 h"
    assert running.Pace().expect([to_do("first_token", 50)]) == ""
    assert pace.expect([to_do("first_token", 0)]) == ""
    both = [to_do("first_token", 50), to_do("generate", 50)]
    assert pace.expect(both) == "at least about 10 s"  # no text was generated yet
    pace.add("generate", 10, 10)
    assert pace.expect(both) == "about 55 s"
    pace.save(tmp_path)
    assert running.Pace.load(tmp_path) == pace
    (tmp_path / "pace.json").write_text("[]")
    assert running.Pace.load(tmp_path) == running.Pace()
