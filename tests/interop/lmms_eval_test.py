"""lmms-eval asks the model ``llava_jax`` questions of a task of its own kind, without a network."""

import importlib.metadata
import json
import os
import subprocess
import sys

import datasets
import numpy as np
import pytest

from experiments import gqa
from experiments.exports import finished, lmms_eval
from experiments.harness import records
from experiments.harness.benchmark import Request
from experiments.harness.errors import InputError, UsageError

models = pytest.importorskip("lmms_eval.models", exc_type=ImportError)
instance = pytest.importorskip("lmms_eval.api.instance", exc_type=ImportError)

SETTING = {"pruner": "scope", "budget": 64, "alpha": 0.0}
FOLDER = "scope_k64_alpha0_gamma1_multiply"
LOG_PROB = 1e-5  # the questions of a picture stand in another order
TASK = """\
task: tiny
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: answer
generation_kwargs: {how}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
UTILS = """\
def doc_to_visual(doc):
    return [doc["image"].convert("RGB")]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]
"""
NO_NETWORK = """\
import socket


def refuse(self, address, *more):
    if self.family != socket.AF_UNIX:
        raise AssertionError(f"a connection to {address}")


socket.socket.connect = socket.socket.connect_ex = refuse
"""


@pytest.fixture(scope="module")
def examples():
    return gqa.BENCHMARK.scenes(Request("scenes", 2))


@pytest.fixture(scope="module")
def task(tmp_path_factory, examples):
    """Return what writes a task and returns its folder; its data set has the pictures by rows."""
    folder = tmp_path_factory.mktemp("task")
    rows = examples.examples
    order = sorted(range(len(rows)), key=lambda i: (i % 3, i))  # a picture's are not together
    content = {
        "question": [rows[i].user_text for i in order],
        "answer": [rows[i].references[0] for i in order],
        "image": [examples.read_image(rows[i].image) for i in order],
    }
    features = {name: datasets.Value("string") for name in ("question", "answer")}
    features = datasets.Features(features | {"image": datasets.Image()})
    datasets.Dataset.from_dict(content, features).to_parquet(folder / "tiny.parquet")

    def write(name, kind="generate_until", **how):
        place = folder / name
        place.mkdir()
        how = json.dumps({"max_new_tokens": 16} | how)
        (place / "tiny.yaml").write_text(
            TASK.format(file=folder / "tiny.parquet", kind=kind, how=how)
        )
        (place / "utils.py").write_text(UTILS)
        (place / "sitecustomize.py").write_text(NO_NETWORK)
        return place

    return write, [rows[i].key for i in order]


def evaluate(place, **args):
    """Run lmms-eval on a task's folder; return the process, samples and results."""
    args = ",".join(f"{name}={value}" for name, value in args.items())
    command = [sys.executable, "-m", "lmms_eval", "--model=llava_jax", f"--model_args={args}"]
    command += ["--tasks=tiny", f"--include_path={place}", f"--output_path={place}/logs"]
    path = os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [*command, "--log_samples", "--batch_size=1"],
        env=os.environ | offline | {"HF_HOME": f"{place}/home", "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    logs = place / "logs"
    files = [*logs.rglob("*_samples_tiny.jsonl"), *logs.rglob("*_results.json")]
    if len(files) != 2:  # it says 0 though the model raised
        return done, None, None
    rows = [json.loads(line) for line in files[0].read_text().splitlines()]
    return done, sorted(rows, key=lambda row: row["doc_id"]), json.loads(files[1].read_text())


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Return the folder of the same questions, asked by the benchmark's own command."""
    out = tmp_path_factory.mktemp("ours")
    flags = [f"--{name}={value}" for name, value in SETTING.items()]
    flags += ["--limit=2", f"--out={out}/run", f"--cache={out}/cache", "--max_new_tokens=16"]
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    subprocess.run([sys.executable, "-m", "experiments.gqa", *flags], check=True, env=env)
    return out / "run" / FOLDER


@pytest.fixture(scope="module")
def theirs(task, tmp_path_factory):
    """Return samples and results of lmms-eval, and the folder of the model's records."""
    place = task[0]("whole")
    done, samples, results = evaluate(place, records=place / "records", **SETTING)
    assert done.returncode == 0, done.stdout + done.stderr
    assert samples, done.stdout + done.stderr
    return samples, results, place / "records" / "tiny" / FOLDER


def test_the_model_is_found_by_its_entry_point():
    assert "llava_jax" in importlib.metadata.entry_points(group="lmms_eval.models").names
    assert models.get_model("llava_jax").__name__ == "LlavaJax"


def test_answers_are_those_of_the_benchmarks_own_command(task, theirs, ours):
    samples, results, _ = theirs
    rows = records.read_records(ours)
    assert len(samples) == len(rows)
    for key, sample in zip(task[1], samples, strict=True):
        assert sample["filtered_resps"] == rows[key].text
        assert sample["token_counts"] == [{"output_tokens": len(rows[key].text_log_probs)}]
    right = [sample["filtered_resps"] == sample["target"] for sample in samples]
    assert any(right)
    assert results["results"]["tiny"]["exact_match,none"] == pytest.approx(np.mean(right))


def test_the_evidence_is_that_of_the_benchmarks_own_command(task, theirs, ours):
    rows, found = records.read_records(ours), records.read_records(theirs[2])
    assert set(found) == {f"tiny/{number}" for number in range(len(rows))}
    for number, key in enumerate(task[1]):
        one, other = found[f"tiny/{number}"], rows[key]
        assert one.kept == other.kept
        assert (one.budget, one.log_masses, one.label) == (64, (), None)
        assert one.text == other.text
        np.testing.assert_allclose(one.text_log_probs, other.text_log_probs, atol=LOG_PROB)
    assert len({row.image for row in found.values()}) == 2


def test_an_answer_ends_before_the_first_stop_string(task, ours):
    write, keys = task
    done, samples, _ = evaluate(write("until", until=["o", "e"]), **SETTING)
    assert done.returncode == 0, done.stdout + done.stderr
    texts = [records.read_records(ours)[key].text for key in keys]
    cut = [text.partition("e")[0].partition("o")[0] for text in texts]
    assert [sample["filtered_resps"] for sample in samples] == cut
    assert cut != texts


def test_an_export_has_the_fields_that_lmms_eval_writes(theirs, ours, tmp_path):
    samples, results, _ = theirs
    table = json.loads(lmms_eval.write(finished.read(ours), tmp_path).read_text())
    (file,) = tmp_path.glob("*/*_samples_gqa.jsonl")
    exported = json.loads(file.read_text().splitlines()[0])
    assert {name: type(value) for name, value in exported.items()} == {
        name: type(value) for name, value in samples[0].items()
    }
    assert set(table) <= set(results)
    for name in ("results", "versions", "n-shot", "higher_is_better", "n-samples"):
        assert type(table[name]["gqa"]) is type(results[name]["tiny"]), name
    assert set(table["results"]["gqa"]) <= set(results["results"]["tiny"])
    assert set(table["n-samples"]["gqa"]) == set(results["n-samples"]["tiny"])


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ("pruner=os", "pruner=os does not exist"),
        ("pruner=scope,beta=1", "beta is no argument and no hyper-parameter of scope"),
        ("pruner=scope,alpha=x", "hyper-parameter of scope"),
        ("pruner=scope,budget=577", "outside 1..576"),
        ("order=random", "order=random is not one of"),
        ("positions=x", "positions=x is not one of"),
        ("preprocessing=x", "preprocessing=x is not one of"),
    ],
)
def test_an_argument_that_does_not_fit_is_refused(args, reason):
    with pytest.raises(UsageError, match=reason):
        models.get_model("llava_jax").create_from_arg_string(args, {"batch_size": 1})


@pytest.fixture(scope="module")
def model():
    found = models.get_model("llava_jax").create_from_arg_string("", {"batch_size": 1})
    found.task_dict["tiny"] = {"test": [{}]}
    return found


def request(how, picture=None):
    arguments = ("Is there a cat?", how, lambda doc: picture or [], 0, "tiny", "test")
    metadata = {"task": "tiny", "doc_id": 0, "repeats": 1}
    return instance.Instance("generate_until", arguments, 0, metadata)


@pytest.mark.parametrize(
    "how", [{"do_sample": True}, {"temperature": 0.7}, {"num_beams": 3}], ids=str
)
def test_sampling_is_refused(model, how):
    with pytest.raises(UsageError, match="says the likeliest text"):
        model.generate_until([request(how)])


def test_a_document_without_a_picture_is_refused(model):
    with pytest.raises(InputError, match="tiny/0 has no picture"):
        model.generate_until([request({})])


def test_what_the_model_cannot_do_is_said(model):
    with pytest.raises(NotImplementedError, match="does not rate continuations"):
        model.loglikelihood([])
    with pytest.raises(NotImplementedError, match="one question at a time"):
        model.generate_until_multi_round([])
