"""Several processes, several machines, and other runs in one folder: never mixed, never lost."""

import dataclasses
import json
import os
import random
import shutil
import time

import pytest

from experiments import application, pope
from experiments.harness import command, records, shards
from experiments.harness.errors import InputError
from experiments.harness.stopwatch import Stopwatch
from llava_jax import testing


@pytest.fixture
def small(config):
    return dataclasses.replace(config, pruners=("saliency",), hyperparameters={}, seeds=(0,))


def run(config):
    work = command.prepare(pope.BENCHMARK, config, Stopwatch(exact=False))
    return command.answer(work)


def seals(config):
    return {
        file.parent.name: json.loads(file.read_text())["sha256"]
        for file in config.folder.glob("*/SEALED")
    }


@pytest.mark.times(1, 50)
def test_a_second_process_is_refused_at_once(tmp_path, command, tiny, times, passed):
    """While this process holds a setting's records, a whole command that wants them ends."""
    folder = tmp_path / "runs" / "pope" / "none"
    folder.mkdir(parents=True)
    shard = shards.Shard(folder)
    slowest = 0.0
    for _ in range(times):
        before = {f: f.read_bytes() for f in folder.iterdir()}
        begun = time.monotonic()
        code, out, err = command(tmp_path, f"--model={tiny}", "--limit=1")
        slowest = max(slowest, time.monotonic() - begun)
        assert (code, out) == (2, "")
        assert f"{os.uname().nodename}, process {os.getpid()}" in err
        assert len(err.splitlines()) == 1
        assert {f: f.read_bytes() for f in folder.iterdir()} == before
    begun = time.monotonic()
    with pytest.raises(InputError, match=f"process {os.getpid()}"):
        shards.refuse_busy(shard.file)
    refused = time.monotonic() - begun
    shard.close()
    passed("C1", f"{times} of {times} exit 2, file untouched; {slowest:.1f} s of start-up in all")
    assert refused < 1


@pytest.mark.times(1, 20)
def test_processes_that_share_a_run(small, times, passed):
    """Four processes in any order, and two more that find all done: the records of one."""
    want = run(small)
    for number in range(times):
        here = dataclasses.replace(small, out=f"{small.out}-{number}", num_processes=4)
        order = random.Random(number).sample(range(4), 4)
        for process in order:
            part = run(dataclasses.replace(here, process_id=process))
        assert part.missing == 0
        assert seals(here) == seals(small)
        for ours, theirs in zip(part.folders, want.folders, strict=True):
            assert records.read_records(ours) == records.read_records(theirs)
        again = run(dataclasses.replace(here, num_processes=2, process_id=1))
        assert again.answered == 0
    passed("C3", f"{times} of {times}: the union of four shards is the run of one process")


def test_another_number_of_processes_finishes_a_run(small):
    """What two of three have done is not done again; a batch is answered by one process."""
    whole = run(dataclasses.replace(small, out=small.out + "-whole"))
    for process in (0, 2):
        part = run(dataclasses.replace(small, num_processes=3, process_id=process))
    assert part.processes == (1,)
    assert 0 < part.missing < part.expected
    assert not list(small.folder.glob("*/SEALED"))
    rest = run(small)
    assert rest.answered == part.missing
    assert rest.missing == 0
    for ours, theirs in zip(rest.folders, whole.folders, strict=True):
        assert records.read_records(ours) == records.read_records(theirs)
        assert len(records.files(ours)) == 3


def test_a_missing_process_is_named(small, capsys, passed):
    config = dataclasses.replace(small, num_processes=3, process_id=1)
    assert application.report(pope.BENCHMARK, config, run(config)) == 0
    out = capsys.readouterr().out
    assert "--process_id=0, 2" in out
    assert "ECE" not in out
    assert not list(small.folder.glob("*/SEALED"))
    passed("C6", "an incomplete set is neither sealed nor reported, the missing are named")


@pytest.mark.parametrize("name", ["records.parquet", "records-00000-of-00001.jsonl"])
def test_a_changed_file_breaks_the_seal(small, name, caplog):
    """What is still whole is not asked again, and the setting is sealed anew as it was."""
    folder = run(small).folders[0]
    before = {f: f.read_bytes() for f in folder.iterdir()}
    content = bytearray(before[folder / name])
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with caplog.at_level("WARNING", logger="absl"):
        again = run(small)
    assert "changed after it was sealed" in caplog.text
    assert again.answered == (0 if name.endswith("parquet") else 1)
    assert (folder / "records.parquet").read_bytes() == before[folder / "records.parquet"]
    assert seals(small)["none"] == json.loads(before[folder / "SEALED"])["sha256"]


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def changed(value):
    return "other" if isinstance(value, str | None) else [value, 1]


def test_any_other_setting_in_the_folder_is_refused(small, passed):
    """Every field of the identity, changed one at a time, is named with both values."""
    folder = run(small).folders[0]
    file = folder / records.RUN
    content = json.loads(file.read_text())
    fields = [
        *leaves(content["identity"], ("identity",)),
        *leaves(content["expected"], ("expected",)),
    ]
    for path, value in fields:
        other = json.loads(json.dumps(content))
        place = other
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = changed(value)
        file.write_text(json.dumps(other))
        with pytest.raises(InputError) as refused:
            run(small)
        assert f"{'.'.join(path)}: " in str(refused.value)
        assert "→" in str(refused.value)
        assert "--fork" in str(refused.value)
    file.write_text(json.dumps(content))
    assert run(small).answered == 0
    passed("C4", f"{len(fields)} of {len(fields)} fields of the fingerprint refused by name")


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ("picture", "data.sha256"),
        ("question", "data.sha256"),
        ("weights", "weights"),
        ("tokenizer", "tokenizer"),
        ("config", "model.text"),
    ],
)
def test_files_changed_under_the_same_name_are_refused(small, tmp_path, tiny, part, named):
    data, model = tmp_path / "data", tmp_path / "model"
    shutil.copytree(small.data, data)
    shutil.copytree(tiny, model)
    here = dataclasses.replace(small, data=str(data), model=str(model))
    before = {f: f.read_bytes() for f in sorted(run(here).folders[0].iterdir())}
    if part == "picture":
        pictures = sorted((data / "val2014").iterdir())
        shutil.copyfile(pictures[1], pictures[0])
    elif part == "question":
        file = data / "coco" / "coco_pope_random.json"
        file.write_text(file.read_text().replace("Is there", "Are there", 1))
    elif part == "weights":
        testing.write_checkpoint(tmp_path / "other", seed=1)
        shutil.copyfile(tmp_path / "other" / "model.safetensors", model / "model.safetensors")
    elif part == "tokenizer":
        file = model / "tokenizer.json"
        file.write_text(file.read_text() + "\n")
    else:
        content = json.loads((model / "config.json").read_text())
        content["text_config"]["rms_norm_eps"] = 2e-5
        (model / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=named):
        run(here)
    assert {f: f.read_bytes() for f in before} == before


def test_the_questions_of_a_run_are_named_by_their_content(small):
    run(small)
    (file,) = small.folder.glob("questions-*.jsonl")
    content = json.loads((small.folder / "none" / records.RUN).read_text())
    assert file.stem.endswith(content["identity"]["data"]["sha256"][:16])
