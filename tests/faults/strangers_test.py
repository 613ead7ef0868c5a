"""Folders and logs from strangers: nothing in them is run, asked about, or written elsewhere."""

import builtins
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from experiments import catalogue, exports, logs, pope
from experiments.exports import finished
from experiments.harness import questions, records, shards, source
from experiments.harness.benchmark import Request
from experiments.harness.errors import InputError
from experiments.reporting import runs
from llava_jax import atomic, checkpoint, prompts

NAMES = ("evil", "configuration_evil", "modeling_evil", "tokenization_evil")
MAPPED = {
    "AutoConfig": "configuration_evil.Evil",
    "AutoModel": "modeling_evil.Evil",
    "AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"],
}


@pytest.fixture
def hostile(tiny, tmp_path, sentinel):
    """A model whose every file asks for the code beside it."""
    folder = pathlib.Path(shutil.copytree(tiny, tmp_path / "model"))
    for place in (folder, folder / "clip"):
        for name in NAMES:
            (place / f"{name}.py").write_text(
                f"import pathlib\npathlib.Path({str(sentinel)!r}).touch()\nclass Evil: pass\n"
            )
        file = place / "config.json"
        content = json.loads(file.read_text()) | {"auto_map": MAPPED, "trust_remote_code": True}
        file.write_text(json.dumps(content))
        about = {"tokenizer_class": "Evil", "auto_map": MAPPED, "trust_remote_code": True}
        (place / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


READ = """
import pathlib, sys
from experiments.harness import source
from experiments.harness.errors import InputError
from llava_jax import prompts
assert sys.stdin.isatty()
readers = (
    lambda folder: source.find(str(folder), None, offline=True),
    prompts.Tokenizer.from_folder,
    lambda folder: prompts.ClipTokenizer.from_folder(folder / "clip"),
)
for folder in map(pathlib.Path, sys.argv[1:]):
    for read in readers:
        try:
            read(folder)
            print("end: read")
        except (InputError, ValueError) as error:
            print("end: refused:", str(error)[:300])
"""


def test_no_code_of_a_model_is_asked_about_or_run(
    hostile, tmp_path, sentinel, sentencepiece_model, passed
):
    """On a terminal where somebody would say yes to everything."""
    converted = pathlib.Path(shutil.copytree(hostile, tmp_path / "converted"))
    (converted / "tokenizer.json").unlink()
    (converted / "tokenizer.model").write_bytes(sentencepiece_model)
    renamed = pathlib.Path(shutil.copytree(converted, tmp_path / "renamed"))
    config = json.loads((renamed / "config.json").read_text())
    config["text_config"]["auto_map"] = config["vision_config"]["auto_map"] = MAPPED
    (renamed / "config.json").write_text(json.dumps(config))
    (renamed / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "auto_map": MAPPED})
    )
    unknown = pathlib.Path(shutil.copytree(converted, tmp_path / "unknown"))
    (unknown / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": MAPPED}))
    master, terminal = os.openpty()
    os.write(master, b"y\n" * 50)
    folders = [hostile, converted, renamed, unknown]
    process = subprocess.Popen(
        [sys.executable, "-c", READ, *map(str, folders)],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    said, _ = process.communicate(timeout=120)
    os.close(master)
    os.close(terminal)
    assert process.returncode == 0, said
    ends = [line for line in said.splitlines() if line.startswith("end: ")]
    assert len(ends) == 3 * len(folders), said
    refused = [end.startswith("end: refused") for end in ends]
    assert refused == [False] * 9 + [True, False, False], said  # the unknown model
    assert "y/N" not in said
    assert not sentinel.exists()
    subprocess.run([sys.executable, "evil.py"], cwd=hostile, check=True)
    assert sentinel.exists(), "the code is hostile"
    passed("S1", f"{len(folders)} of {len(folders)} models on a terminal: none asked, none ran")


def test_nobody_is_asked(hostile, sentinel, monkeypatch):
    """In this process, and with the code of the folder to be found by import."""
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("asked"))
    monkeypatch.syspath_prepend(str(hostile))
    monkeypatch.chdir(hostile)
    source.find(str(hostile), None, offline=True).load()
    prompts.ClipTokenizer.from_folder(hostile / "clip")
    checkpoint.load_clip(hostile / "clip", "float32")
    assert not sentinel.exists()


@pytest.fixture
def run(tmp_path):
    """A finished run as the harness leaves it: full tokens and a pruner."""
    out, data = tmp_path / "run", "5" * 64
    out.mkdir()
    examples = pope.BENCHMARK.scenes(Request("scenes", 2)).examples
    questions.write(out, data, (example.question for example in examples))
    for name, budget in (("none", 576), ("saliency_k64", 64)):
        folder = out / name
        folder.mkdir()
        setting = {"pruner": name.split("_")[0], "budget": budget, "seed": None, "name": name}
        identity = {
            "benchmark": "pope",
            "confidence": {"route": "first_token"},
            "data": {"sha256": data, "rows": len(examples)},
            "weights": "ab" * 32,
            "dtype": "float32",
            "setting": setting,
        }
        content = {"fingerprint": "7" * 64, "identity": identity, "setting": setting}
        content |= {"expected": {"rows": len(examples)}, "versions": {"jax": "0"}, "plan": {}}
        atomic.write(folder / records.RUN, content)
        (folder / "flags.txt").write_text("--model=pocket\n--data=scenes\n")
        (folder / records.SEALED).write_text("{}")
        writer = shards.Shard(folder)
        writer.append([record(example, budget) for example in examples])
        writer.close()
    return out


def record(example, budget):
    return records.Record(
        key=example.key,
        image=example.image,
        split=example.split,
        label=example.label,
        log_masses=(-0.25, -1.5),
        answer_log_mass=-0.01,
        token=7,
        text=None,
        budget=budget,
        kept="AA==",
        run="7" * 16,
    )


def listing(folder, *besides):
    """Return path → content of all files below a folder, but those that may be written."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(path.is_relative_to(b) for b in besides):
            found[path] = path.read_bytes()
    return found


def changed(file, *way, to):
    content = json.loads(file.read_text())
    place = content
    for name in way[:-1]:
        place = place[name]
    place[way[-1]] = to
    file.write_text(json.dumps(content))


def resealed(file, **fields):
    """Write other fields into every record; anybody can make checksums."""
    rows = records.read_records(file.parent).values()
    file.write_bytes(b"".join(records.to_line(dataclasses.replace(r, **fields)) for r in rows))


def hostile_runs(setting, sentinel, pickled):
    """Return name → what a stranger did to a setting's folder."""
    run, (rows,) = setting / records.RUN, setting.glob("records-*.jsonl")
    far = "../" * 8 + str(sentinel).lstrip("/")
    return {
        "weights that are a path": lambda: changed(run, "identity", "weights", to=far),
        "data that is a path": lambda: changed(run, "identity", "data", "sha256", to=far),
        "a benchmark that is a path": lambda: changed(run, "identity", "benchmark", to=far),
        "a benchmark that is a module": lambda: changed(run, "identity", "benchmark", to="os"),
        "a pruner that is a path": lambda: changed(run, "setting", "pruner", to=far),
        "a name that is a path": lambda: changed(run, "setting", "name", to=far),
        "versions that are paths": lambda: changed(run, "versions", to={far: far}),
        "pictures that are paths": lambda: resealed(rows, image=far),
        "splits that are paths": lambda: resealed(rows, split=far),
        "keys that are paths": lambda: resealed(rows, key=far),
        "a pickle among the records": lambda: [
            rows.write_bytes(pickled + b"\n" + rows.read_bytes() + pickled),
            rows.with_name("records-00001-of-00002.jsonl").write_bytes(pickled),
        ],
        "a run.json that is a pickle": lambda: run.write_bytes(pickled),
        "questions that are a pickle": lambda: [
            file.write_bytes(pickled) for file in setting.parent.glob("questions-*.jsonl")
        ],
        "Parquet that is a pickle": lambda: (setting / "records.parquet").write_bytes(pickled),
        "a run.json of YAML": lambda: run.write_text(f"!!python/object/apply:os.mkdir [{far}]\n"),
    }


def actions(setting, out):
    """Return what people do with a run folder; each writes to ``out`` at most."""

    def export(to):
        found = finished.read(setting)
        return exports.writer(to)(found)

    return {
        "inspect": lambda: export(f"inspect:{out}/log.eval"),
        "lmms": lambda: export(f"lmms:{out}"),
        "curves": lambda: runs.load(setting.parent, catalogue.get),
    }


def test_a_strangers_run_folder(run, tmp_path, sentinel, pickled, passed):
    """Whatever is in it, nothing is run, and nothing written but what was named."""
    place, out = tmp_path / "a" / "b" / "run", tmp_path / "out"
    out.mkdir()
    names, refusals, cases = ("none", "saliency_k64"), [], 0
    for what in hostile_runs(run / "none", sentinel, pickled()):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(run, place)
        for name in names:
            hostile_runs(place / name, sentinel, pickled())[what]()
        before = listing(tmp_path, out)
        for act in actions(place / "none", out).values():
            try:
                act()
            except InputError as error:
                refusals.append(str(error))
            assert listing(tmp_path, out) == before, what
            assert not sentinel.exists(), what
            cases += 1
    assert not any("\n" in reason for reason in refusals)
    assert (out / "log.eval").is_file()
    assert any(out.rglob("*_results.json"))
    passed("S5 run folders", f"{cases} of {cases}: nothing run or written, {len(refusals)} refused")


def hostile_logs(folder, sentinel, pickled):
    """Yield ``--from`` of logs that are not what they say."""
    far = "../" * 8 + str(sentinel).lstrip("/")
    header = {"version": 2, "status": "success", "eval": {"task": far, "model": far}}
    members = {
        "climbs": {"header.json": header, f"samples/{far}": {}, f"samples/../../{far}": {}},
        "absolute": {"header.json": header, str(sentinel): {}, f"samples/{sentinel}": {}},
        "pickles": {"header.json": pickled, "samples/1_epoch_1.json": pickled},
    }
    for name, content in members.items():
        file = folder / f"{name}.eval"
        with zipfile.ZipFile(file, "w") as archive:
            for member, value in content.items():
                whole = value if isinstance(value, bytes) else json.dumps(value).encode()
                archive.writestr(member, whole)
        yield f"inspect:{file}"
    for form, name in {
        "inspect": "pickle.eval",
        "lmeval": "samples_pickle_2026-01-01T00-00-00.jsonl",
        "csv": "pickle.csv",
    }.items():
        (folder / name).write_bytes(pickled)
        yield f"{form}:{folder / name}"
    (folder / "per_instance_stats.json").write_bytes(pickled)
    yield f"helm:{folder}"
    linked = folder / "linked.jsonl"
    linked.symlink_to(f"{folder}/pickle.csv")
    yield f"csv:{linked}"
    (folder / "formulas.csv").write_text(
        f"confidence,correct,group,split\n0.5,1,\"=cmd|'/C touch {sentinel}'!A1\",{far}\n"
        f"0.6,0,__import__('os').mkdir('{sentinel}'),{far}\n"
    )
    yield f"csv:{folder / 'formulas.csv'}"


def test_a_strangers_log(tmp_path, sentinel, pickled, passed):
    folder = tmp_path / "logs"
    folder.mkdir()
    specs, refusals = list(hostile_logs(folder, sentinel, pickled())), []
    before = listing(tmp_path)
    for spec in specs:
        try:
            logs.read(spec)
        except InputError as error:
            refusals.append(str(error))
        assert listing(tmp_path) == before, spec
        assert not sentinel.exists(), spec
    assert len(refusals) == len(specs) - 1, "rows of a CSV file may hold any text"
    assert not any("\n" in reason for reason in refusals)
    said = f"{len(specs)} of {len(specs)}: nothing run or written, {len(refusals)} refused"
    passed("S5 logs", said)


def test_the_programs_say_it_in_one_line(tmp_path, sentinel, pickled, command, passed):
    file = tmp_path / "pickle.eval"
    file.write_bytes(pickled())
    code, out, err = command(tmp_path, f"--from=inspect:{file}", program="calibrate")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("refused: ")
    assert not sentinel.exists()
    passed("S5 exit", "exit 2 in one line")
