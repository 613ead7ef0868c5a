"""inspect reads an exported log: as evaluations, and as a table of samples."""

import json
import subprocess
import sys

import pytest

inspect_log = pytest.importorskip("inspect_ai.log", exc_type=ImportError)
analysis = pytest.importorskip("inspect_ai.analysis", exc_type=ImportError)

ROUTES = {"first_token": "pope", "generate": "gqa"}
FLOAT32 = 1e-6


@pytest.fixture(scope="module", params=ROUTES)
def run(request, tmp_path_factory):
    """Return a log, its setting's entry of results.json, and the route."""
    out, name = tmp_path_factory.mktemp(request.param), ROUTES[request.param]
    shared = ["--limit=1", "--pruner=scope", "--budget=64", f"--cache={out}/cache"]
    python = [sys.executable, "-m"]
    subprocess.run([*python, f"experiments.{name}", f"--out={out}/run", *shared], check=True)
    setting = json.loads((out / "run" / "results.json").read_text())["settings"][1]
    flags = [f"--run={out}/run/{setting['setting']}", f"--to=inspect:{out}/x.eval"]
    subprocess.run([*python, "experiments.export", *flags], check=True)
    return out / "x.eval", setting, request.param


def test_the_log_is_one_of_a_finished_evaluation(run):
    file, setting, _ = run
    log = inspect_log.read_eval_log(str(file))
    assert log.status == "success"
    assert len(log.samples) == setting["n"]
    assert log.eval.metadata["setting"]["pruner"] == "scope"
    accuracy, confidence = log.results.scores
    expected = {name: setting["metrics"][name]["value"] for name in setting["metrics"]}
    value = accuracy.metrics["accuracy"].value
    assert value == pytest.approx(expected["accuracy"], rel=FLOAT32)
    mean = confidence.metrics["mean"].value
    assert mean == pytest.approx(expected["mean_confidence"], rel=FLOAT32)


def test_inspect_lists_the_log_by_its_header(run):
    file, setting, _ = run
    (info,) = inspect_log.list_eval_logs(str(file.parent))
    header = inspect_log.read_eval_log(info, header_only=True)
    assert header.results.completed_samples == setting["n"]
    assert len(inspect_log.read_eval_log_sample_summaries(info)) == setting["n"]


def test_a_sample_has_its_probabilities(run):
    file, _, route = run
    sample = inspect_log.read_eval_log_sample(str(file), id=1)
    said = sample.output.choices[0].logprobs.content
    if route == "first_token":
        (token,) = said
        assert {entry.token for entry in token.top_logprobs} == {"Yes", "No"}
        assert token.token == sample.output.completion
    else:
        assert all(token.logprob <= 0 for token in said)
    assert sample.messages[-1].text == sample.output.completion


@pytest.mark.filterwarnings("default")  # of pandas, about columns of None
def test_the_table_of_samples_has_scores_and_metadata(run):
    file, setting, _ = run
    table = analysis.samples_df(str(file))
    assert len(table) == setting["n"]
    names = ("key", "image", "split", "category", "group", "budget", "kept", "answer_log_mass")
    assert {f"metadata_{name}" for name in names} <= set(table.columns)
    value = setting["metrics"]["accuracy"]["value"]
    assert table.score_accuracy.mean() == pytest.approx(value, rel=FLOAT32)
    value = setting["metrics"]["mean_confidence"]["value"]
    assert table.score_confidence.mean() == pytest.approx(value, rel=FLOAT32)
    assert set(table.metadata_budget) == {64}
