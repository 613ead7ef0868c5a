"""Finished settings as logs of inspect and lmms-eval: the same answers, numbers and bytes."""

import dataclasses
import json
import subprocess
import sys
import zipfile

import datasets
import numpy as np
import pytest

from experiments import calibrate, exports, gqa, logs, mmbench, mme, pope, scienceqa, seed, textvqa
from experiments.exports import archive, finished
from experiments.exports.tasks import TASKS
from experiments.harness import folder, questions, records, shards
from experiments.harness.benchmark import Request
from experiments.harness.errors import InputError, UsageError
from experiments.reporting import aggregate

BENCHMARKS = {m.BENCHMARK.name: m.BENCHMARK for m in (gqa, mmbench, mme, pope, seed, textvqa)}
BENCHMARKS["scienceqa"] = scienceqa.BENCHMARK
FLOAT32 = 1e-6  # relative: a value rounded once or twice to float32
SAME = ("accuracy", "ece", "nll", "brier", "mean_confidence", "aurc", "smooth_ece")
"""Metrics that do not depend on what is resampled together."""
DATA = "5" * 64


def record(example, route, rng, run):
    """Return made-up evidence; three of four answers are right."""
    right = rng.random() < 0.75
    masses = np.log(rng.dirichlet(np.ones(max(len(example.choices), 1)))) - 0.01
    if right and example.choices:
        masses[[example.label, masses.argmax()]] = masses[[masses.argmax(), example.label]]
    kept = records.pack_mask(rng.permutation(576)[:64], 576)
    own = {"run": run, "token": 7, "budget": 64, "kept": kept, "label": example.label}
    own |= {"key": example.key, "image": example.image, "split": example.split}
    choices = {
        "log_masses": tuple(masses.tolist()) if example.choices else (),
        "answer_log_mass": -0.01 if example.choices else None,
    }
    if route == "first_token":
        return records.Record(**own, **choices, text=None)
    answer = example.right or example.references[0]
    text = answer if right else "zzz"
    log_probs = tuple((-rng.exponential(size=2) / 4).tolist())
    return records.Record(**own, **choices, text=text, text_log_probs=log_probs)


def write(out, benchmark, route, name="scope_k64", limit=3, drop=0, change=lambda run: run):
    """Write a setting's folder as a run leaves it and return it."""
    examples = benchmark.scenes(Request("scenes", limit)).examples
    place = out / name
    place.mkdir(parents=True)
    setting = {"pruner": "scope", "budget": 64, "seed": None, "name": name}
    identity = {
        "benchmark": benchmark.name,
        "confidence": {"route": route},
        "data": {"sha256": DATA, "rows": len(examples)},
        "weights": "ab" * 32,
        "dtype": "float32",
        "setting": setting,
    }
    fingerprint = folder.fingerprint(identity)
    run = {"fingerprint": fingerprint, "identity": identity, "setting": setting, "plan": {}}
    run |= {"expected": {"rows": len(examples)}, "versions": {"jax": "0"}}
    (place / "run.json").write_text(json.dumps(change(run)))
    questions.write(out, DATA, (example.question for example in examples))
    rng = np.random.default_rng(len(examples))
    rows = [record(example, route, rng, fingerprint[:16]) for example in examples]
    writer = shards.Shard(place)
    writer.append([rows[i] for i in rng.permutation(len(rows))][drop:])  # of any order
    writer.close()
    return place


def to_inspect(place, file):
    return exports.writer(f"inspect:{file}")(finished.read(place))


def samples(file):
    with zipfile.ZipFile(file) as log:
        names = [name for name in log.namelist() if name.startswith("samples/")]
        return [json.loads(log.read(name)) for name in names]


# inspect


def test_the_log_is_a_deflated_archive_with_the_header_last(tmp_path):
    file = to_inspect(write(tmp_path, pope.BENCHMARK, "first_token"), tmp_path / "x.eval")
    with zipfile.ZipFile(file) as log:
        assert {info.compress_type for info in log.infolist()} == {zipfile.ZIP_DEFLATED}
        names = log.namelist()
        found = {name: json.loads(log.read(name)) for name in names}
    count = found["header.json"]["eval"]["dataset"]["samples"]
    assert names == [
        "_journal/start.json",
        *(f"samples/{i}_epoch_1.json" for i in range(1, count + 1)),
        "_journal/summaries/1.json",
        "summaries.json",
        "header.json",
    ]
    assert found["header.json"]["version"] == 2
    assert found["header.json"]["results"]["completed_samples"] == count
    assert found["header.json"]["eval"]["metadata"]["setting"]["pruner"] == "scope"
    assert [row["id"] for row in found["summaries.json"]] == list(range(1, count + 1))


def test_samples_are_the_questions_in_the_benchmarks_order(tmp_path):
    examples = pope.BENCHMARK.scenes(Request("scenes", 3)).examples
    place = write(tmp_path, pope.BENCHMARK, "first_token")
    found = samples(to_inspect(place, tmp_path / "x.eval"))
    rows = records.read_records(place)
    for number, (example, sample) in enumerate(zip(examples, found, strict=True), 1):
        row = rows[example.key]
        assert type(sample["id"]) is int
        assert sample["id"] == number
        assert sample["input"] == example.user_text
        assert sample["target"] == example.choices[example.label][0]
        assert sample["metadata"]["key"] == example.key
        assert sample["metadata"]["kept"] == row.kept
        (token,) = sample["output"]["choices"][0]["logprobs"]["content"]
        listed = {entry["token"]: entry["logprob"] for entry in token["top_logprobs"]}
        assert listed == dict(zip(("Yes", "No"), row.log_masses, strict=True))
        assert token["logprob"] == max(row.log_masses)
        assert sample["output"]["completion"] == token["token"]
        right = row.log_masses[example.label] == max(row.log_masses)
        assert sample["scores"]["accuracy"]["value"] == right


def test_generated_text_keeps_its_tokens_probabilities(tmp_path):
    place = write(tmp_path, textvqa.BENCHMARK, "generate")
    rows = records.read_records(place)
    for sample in samples(to_inspect(place, tmp_path / "x.eval")):
        row = rows[sample["metadata"]["key"]]
        said = sample["output"]["choices"][0]["logprobs"]["content"]
        assert [token["logprob"] for token in said] == list(row.text_log_probs)
        assert sample["output"]["completion"] == row.text
        assert len(sample["target"]) == textvqa.REFERENCES
        confidence = np.exp(np.sum(row.text_log_probs))
        assert sample["scores"]["confidence"]["value"] == pytest.approx(confidence, rel=FLOAT32)


@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("pope", "first_token"),
        ("mmbench", "first_token"),
        ("pope", "generate"),
        ("gqa", "generate"),
    ],
)
def test_the_log_measures_as_the_run_does(tmp_path, name, route):
    benchmark = BENCHMARKS[name]
    place = write(tmp_path, benchmark, route, limit=12)
    (ours,) = aggregate.results(tmp_path, [place], benchmark, "default")["settings"]
    rows = logs.read(f"inspect:{to_inspect(place, tmp_path / 'x.eval')}")
    theirs = calibrate.evaluate(rows, "default")
    assert (theirs["n"], theirs["images"]) == (ours["n"], ours["images"])
    for bound in ("low", "high"):  # pictures are resampled, here as there
        bounds = [entry["metrics"]["accuracy"][bound] for entry in (theirs, ours)]
        assert bounds[0] == pytest.approx(bounds[1], rel=1e-5)
    for metric in SAME:
        value = ours["metrics"][metric]["value"]
        assert theirs["metrics"][metric]["value"] == pytest.approx(value, rel=1e-5), metric
    if benchmark.lettered and route == "first_token":
        assert theirs["metrics"]["answer_mass"]["value"] is not None


def test_the_probability_of_every_letter_comes_back(tmp_path):
    place = write(tmp_path, mmbench.BENCHMARK, "first_token")
    found = records.read_records(place)
    rows = logs.read(f"inspect:{to_inspect(place, tmp_path / 'x.eval')}")
    examples = mmbench.BENCHMARK.scenes(Request("scenes", 3)).examples
    for example, masses, label in zip(examples, rows.log_masses, rows.label, strict=True):
        expected = np.float32(found[example.key].log_masses)
        np.testing.assert_array_equal(masses[: len(expected)], expected)
        assert label == example.label


def test_a_right_answer_beyond_the_letters_is_the_target_still(tmp_path):
    place = write(tmp_path, scienceqa.BENCHMARK, "first_token")
    file = questions.path(tmp_path, DATA)
    asked = [json.loads(line) for line in file.read_text().splitlines()]
    changed = asked[0] | {"options": list("vwxyz"), "choices": list("ABCD"), "right": "E"}
    file.write_text("\n".join(map(json.dumps, [changed, *asked[1:]])))
    (shard,) = place.glob("records-*.jsonl")
    rows = list(records.read_records(place).values())
    shard.unlink()
    (run,) = {row.run for row in rows}
    own = {"label": 4, "log_masses": (-1.0, -2.0, -3.0, -4.0), "run": run, "text": None}
    rest = [row for row in rows if row.key != changed["key"]]
    first = next(row for row in rows if row.key == changed["key"])
    writer = shards.Shard(place)
    writer.append([dataclasses.replace(first, **own), *rest])
    writer.close()
    sample = samples(to_inspect(place, tmp_path / "x.eval"))[0]
    assert sample["target"] == "E"
    assert sample["choices"] == list("vwxyz")
    assert logs.read(f"inspect:{tmp_path / 'x.eval'}").label[0] == 4


@pytest.mark.parametrize(("name", "route"), [("mmbench", "first_token"), ("gqa", "generate")])
def test_datasets_reads_the_log(tmp_path, name, route):
    file = to_inspect(write(tmp_path, BENCHMARKS[name], route), tmp_path / "x.eval")
    cache = str(tmp_path / "cache")
    found = datasets.load_dataset("eval", data_files=str(file), split="train", cache_dir=cache)
    keys = [json.loads(row["metadata"])["key"] for row in found]
    examples = BENCHMARKS[name].scenes(Request("scenes", 3)).examples
    assert keys == [example.key for example in examples]


def test_a_log_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "x.eval"
    file.write_bytes(b"old")

    def members():
        yield "a.json", b"1"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        archive.write(file, members())
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
    archive.write(file, [("a.json", b"1")])
    assert zipfile.ZipFile(file).namelist() == ["a.json"]
    assert list(tmp_path.iterdir()) == [file]


# lmms-eval


def to_lmms(place, out):
    """Return samples and results."""
    file = exports.writer(f"lmms:{out}")(finished.read(place))
    task = TASKS[finished.read(place).benchmark.name].name
    lines = file.with_name(file.name.replace("results.json", f"samples_{task}.jsonl"))
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    return rows, json.loads(file.read_text())


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_every_benchmark_is_a_task_of_lmms_eval(tmp_path, name):
    benchmark = BENCHMARKS[name]
    examples = benchmark.scenes(Request("scenes", 3)).examples
    place = write(tmp_path, benchmark, "generate")
    rows, results = to_lmms(place, tmp_path / "out")
    assert [row["doc_id"] for row in rows] == list(range(len(examples)))
    assert [row["input"] for row in rows] == [example.user_text for example in examples]
    said = records.read_records(place)
    assert [row["filtered_resps"] for row in rows] == [said[e.key].text for e in examples]
    if examples[0].right:
        assert [row["target"] for row in rows] == [example.right for example in examples]
    task = TASKS[name]
    table = results["results"][task.name]
    scores = benchmark.score([e.question.answered(said[e.key].text) for e in examples])
    assert table["alias"] == task.name
    assert {metric for metric in task.metrics if f"{metric},none" in table}
    for metric, value in task.results(scores).items():
        assert table[f"{metric},none"] == value
        assert any(metric in row for row in rows)


def test_what_is_logged_makes_the_table_again(tmp_path):
    rows, results = to_lmms(write(tmp_path / "1", textvqa.BENCHMARK, "generate"), tmp_path)
    mean = np.mean([row["exact_match"] for row in rows])
    assert results["results"]["textvqa_val"]["exact_match,none"] == pytest.approx(mean)
    rows, results = to_lmms(write(tmp_path / "2", pope.BENCHMARK, "first_token"), tmp_path)
    mean = np.mean([row["pope_accuracy"]["score"] for row in rows])
    assert results["results"]["pope"]["pope_accuracy,none"] == pytest.approx(mean)
    assert {row["pope_f1_score"]["prediction"] for row in rows} == {"yes", "no"}
    rows, results = to_lmms(write(tmp_path / "3", seed.BENCHMARK, "generate"), tmp_path)
    mean = np.mean([row["seed_all"]["pred"] == row["seed_all"]["answer"] for row in rows])
    assert results["results"]["seedbench"]["seed_all,none"] == pytest.approx(mean)


def test_settings_of_a_run_stand_beside_each_other(tmp_path):
    for name in ("scope_k64", "none"):
        to_lmms(write(tmp_path / name, gqa.BENCHMARK, "generate", name), tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "llava_jax-abababab__none",
        "llava_jax-abababab__scope_k64",
    ]


# both


def export(*flags):
    command = [sys.executable, "-m", "experiments.export", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_exporting_twice_gives_the_same_bytes(tmp_path):
    place = write(tmp_path, pope.BENCHMARK, "first_token")
    for out in ("a", "b"):
        (tmp_path / out).mkdir()
        for to in (f"inspect:{tmp_path / out}/x.eval", f"lmms:{tmp_path / out}/lmms"):
            done = export(f"--run={place}", f"--to={to}", "--model_name=m")
            assert (done.returncode, done.stderr) == (0, "")
    first, second = (
        {f.relative_to(tmp_path / out): f.read_bytes() for f in (tmp_path / out).rglob("*.*")}
        for out in ("a", "b")
    )
    assert first == second
    assert len(first) == 3


def test_the_date_can_be_given(tmp_path):
    place = write(tmp_path, gqa.BENCHMARK, "generate")
    date = "2026-01-31T12:00:00+02:00"
    for to in (f"inspect:{tmp_path}/x.eval", f"lmms:{tmp_path}/lmms"):
        assert export(f"--run={place}", f"--to={to}", f"--date={date}").returncode == 0
    with zipfile.ZipFile(tmp_path / "x.eval") as log:
        assert json.loads(log.read("header.json"))["eval"]["created"] == date
    assert list((tmp_path / "lmms").glob("*/20260131_120000_results.json"))


@pytest.mark.parametrize(
    ("flags", "code", "reason"),
    [
        (["--run={out}/missing", "--to=inspect:{out}/x.eval"], 2, "is no setting's folder"),
        (["--run={out}", "--to=inspect:{out}/x.eval"], 2, "is no setting's folder"),
        (["--run={run}", "--to=vlm:{out}/x"], 1, "is not one of inspect:PATH, lmms:PATH"),
        (["--run={run}", "--to=inspect:{out}/x.json"], 1, "must end with .eval"),
        (["--run={run}", "--to=inspect:{out}/no/x.eval"], 2, "there is no folder"),
        (["--run={run}", "--to=lmms:{run}/run.json"], 2, "Not a directory"),
        (["--run={run}", "--to=lmms:{out}/x", "--date=soon"], 1, "is no time"),
        (["--run={run}", "--to=lmms:{out}/x", "more"], 1, "unexpected argument"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(tmp_path, flags, code, reason):
    run = write(tmp_path, gqa.BENCHMARK, "generate")
    done = export(*(flag.format(out=tmp_path, run=run) for flag in flags))
    assert done.returncode == code
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "x.eval").exists()


@pytest.mark.parametrize("spec", ["inspect:", "inspect", ":x", "", "Inspect:x.eval"])
def test_a_format_and_a_path_are_needed(spec):
    with pytest.raises(UsageError, match="inspect:PATH, lmms:PATH"):
        exports.writer(spec)


def test_missing_answers_are_refused_unless_allowed(tmp_path):
    place = write(tmp_path, gqa.BENCHMARK, "generate", drop=2)
    with pytest.raises(InputError, match="2 answers are missing"):
        finished.read(place)
    found = finished.read(place, allow_failed=True)
    assert len(found.rows) == found.run["expected"]["rows"] - 2
    ids = [row.number for row in found.rows]
    assert ids == sorted(ids)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"identity": {"benchmark": "os"}}, "does not describe a run"),
        ({"fingerprint": "0" * 64}, "records of another run"),
        ({"expected": {}}, "does not describe a run"),
        ({"setting": []}, "does not describe a run"),
    ],
)
def test_a_strange_run_is_refused(tmp_path, change, reason):
    place = write(tmp_path, gqa.BENCHMARK, "generate", change=lambda run: run | change)
    with pytest.raises(InputError, match=reason):
        finished.read(place)


def test_only_benchmarks_are_imported(tmp_path):
    def change(run):
        run["identity"]["benchmark"] = "train_pocket"
        return run

    with pytest.raises(InputError, match="no benchmark is called 'train_pocket'"):
        finished.read(write(tmp_path, gqa.BENCHMARK, "generate", change=change))


def test_answers_to_other_questions_are_refused(tmp_path):
    place = write(tmp_path, gqa.BENCHMARK, "generate")
    file = questions.path(tmp_path, DATA)
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(InputError, match="which is no question of it"):
        finished.read(place)
