"""The hub's layout with POPE: its two forms, the local cache of the hub, the traps of datasets."""

import itertools
import json
import os
import shutil
import subprocess
import sys

import datasets
import numpy as np
import pytest

from experiments import gqa, mmbench, mme, pope, scienceqa, seed, textvqa
from experiments.harness.benchmark import Request
from experiments.harness.errors import InputError
from experiments.pope import BENCHMARK
from experiments.reading import opening

NEWEST, OLDER = "a1" * 20, "b2" * 20

# Prints what each id in argv is: keys and source, or why it is refused. Whoever looks for a server
# or connects to one is noted.
SCRIPT = """
import json, socket, sys

attempts = []

def refuse(*args, **kwargs):
    attempts.append(repr(args))
    raise OSError("no network here")

socket.socket.connect = socket.socket.connect_ex = refuse
socket.create_connection = socket.getaddrinfo = refuse

from experiments.harness.benchmark import Request
from experiments.harness.errors import InputError
from experiments.pope import BENCHMARK
from experiments.reading import opening

found = {}
for name in sys.argv[1:]:
    try:
        dataset = opening.load(BENCHMARK, Request(data=name, offline=True))
        dataset.digest()
        keys = [example.key for example in dataset.examples]
        found[name] = {"keys": keys, "source": dataset.source}
    except InputError as error:
        found[name] = {"error": str(error)}
print(json.dumps({"found": found, "attempts": attempts}))
"""


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path, monkeypatch):
    """A folder of this test alone for the copies that datasets makes."""
    folder = tmp_path / "datasets"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder))
    return folder


def load(data):
    return opening.load(BENCHMARK, Request(data=str(data)))


def keys(dataset):
    return [example.key for example in dataset.examples]


def rewrite(file, change):
    """Change a parquet file's rows in place."""
    rows = datasets.Dataset.from_parquet(str(file), keep_in_memory=True)
    change(rows).to_parquet(str(file))


@pytest.fixture
def test_only(fixtures_dir, tmp_path):
    """The hub's POPE with the config of one table, in a folder of the usual name."""
    folder = shutil.copytree(fixtures_dir / "hf" / "POPE", tmp_path / "one" / "POPE")
    shutil.rmtree(folder / "Full")
    return folder


@pytest.mark.golden
@pytest.mark.parametrize("left_out", ["data", "Full", None])
def test_both_configs_equal_the_raw_files(fixtures_dir, tmp_path, left_out):
    folder = shutil.copytree(fixtures_dir / "hf" / "POPE", tmp_path / "POPE")
    if left_out:
        shutil.rmtree(folder / left_out)
    hub, raw = load(folder), load(fixtures_dir / "raw" / "pope")
    want = {example.key: example for example in raw.examples}
    labels = {}
    for file in (fixtures_dir / "raw" / "pope" / "coco").iterdir():
        for row in map(json.loads, file.read_text().splitlines()):
            split = file.stem.removeprefix("coco_pope_")
            labels[f"{split}/{row['question_id']}"] = row["label"]
    assert {example.key: example.right for example in hub.examples} == labels
    assert len(hub.examples) == len(raw.examples)
    assert len(hub.images) == len(raw.images)
    pixels = {image: np.asarray(raw.read_image(image)) for image in raw.images}
    for example in hub.examples:
        wanted = want.pop(example.key)
        for name in ("user_text", "choices", "label", "split"):
            assert getattr(example, name) == getattr(wanted, name)
        got = np.asarray(hub.read_image(example.image))
        np.testing.assert_array_equal(got, pixels[wanted.image])
    assert not want
    assert hub.source == str(folder)


def cached(cache, name, snapshots):
    """Lay out the hub's local cache by hand: revision → folder; the first is main."""
    place = cache / f"datasets--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(next(iter(snapshots)))
    for revision, folder in snapshots.items():
        shutil.copytree(folder, place / "snapshots" / revision)


def ask(cache, *names):
    """Load ids in another process that can reach the local cache only."""
    env = os.environ | {"HF_HOME": str(cache.parent / "home"), "HF_HUB_CACHE": str(cache)}
    env.pop("HF_DATASETS_CACHE", None)
    command = [sys.executable, "-c", SCRIPT, *names]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["attempts"] == []
    return said["found"]


@pytest.mark.golden
def test_ids_of_the_hub_are_found_in_its_cache(fixtures_dir, test_only, tmp_path):
    full = fixtures_dir / "hf" / "POPE"
    rewrite(next(test_only.glob("data/*.parquet")), lambda rows: rows.select(range(6)))
    cached(tmp_path / "hub", "lmms-lab/POPE", {NEWEST: full, OLDER: test_only})
    newest, older, nowhere = "lmms-lab/POPE", f"lmms-lab/POPE@{OLDER}", "lmms-lab/NoSuch"
    unknown = f"lmms-lab/POPE@{'c3' * 20}"
    found = ask(tmp_path / "hub", newest, older, nowhere, unknown)
    assert found[newest]["keys"] == keys(load(full))
    assert found[older]["keys"] == keys(load(test_only))
    assert len(found[older]["keys"]) == 6
    assert found[newest]["source"] == f"lmms-lab/POPE@{NEWEST[:12]}"
    assert found[older]["source"] == f"lmms-lab/POPE@{OLDER[:12]}"
    for absent in (nowhere, unknown):
        assert absent.partition("@")[0].partition("/")[2] in found[absent]["error"]
        assert "\n" not in found[absent]["error"]


@pytest.mark.golden
def test_an_old_id_is_found_where_it_moved(fixtures_dir, tmp_path):
    full = fixtures_dir / "hf" / "POPE"
    cached(tmp_path / "hub", "lmms-lab-encoder/POPE", {NEWEST: full})
    name, exact = "lmms-lab/POPE", f"lmms-lab/POPE@{NEWEST}"
    found = ask(tmp_path / "hub", name, exact)
    for asked in (name, exact):
        assert found[asked]["keys"] == keys(load(full))
        assert found[asked]["source"] == f"lmms-lab-encoder/POPE@{NEWEST[:12]}"


@pytest.mark.parametrize("data", ["nowhere", "a/b/c", "/no/such/folder", "lmms-lab/POPE@"])
def test_names_that_are_no_folder_and_no_id(data):
    with pytest.raises(InputError, match="no folder, no hub id such as lmms-lab/POPE"):
        load(data)


@pytest.mark.golden
def test_folders_of_one_name_are_not_confused(test_only, tmp_path):
    other = shutil.copytree(test_only, tmp_path / "other" / "POPE")
    rewrite(next(other.glob("data/*.parquet")), lambda rows: rows.select(range(len(rows) - 1)))
    all_keys = keys(load(test_only))
    assert keys(load(other)) == all_keys[:-1]
    assert keys(load(test_only)) == all_keys


@pytest.mark.golden
def test_a_file_that_was_edited_is_read_anew(test_only):
    before = load(test_only)

    def flip(row):
        return {"answer": {"yes": "no", "no": "yes"}[row["answer"]]}

    file = next(test_only.glob("data/*.parquet"))
    rewrite(file, lambda rows: rows.map(flip, keep_in_memory=True))
    after = load(test_only)
    assert keys(after) == keys(before)
    assert [e.label for e in after.examples] == [1 - e.label for e in before.examples]
    assert after.digest() != before.digest()


@pytest.mark.golden
def test_a_file_with_other_rows_and_the_old_time_is_read_anew(test_only):
    """As archives leave it, which set the time of every file they write."""
    before, file = load(test_only), next(test_only.glob("data/*.parquet"))
    time = file.stat().st_mtime_ns
    rewrite(file, lambda rows: rows.select(range(len(rows) - 1)))
    os.utime(file, ns=(time, time))
    assert keys(load(test_only)) == keys(before)[:-1]


@pytest.mark.golden
def test_a_table_in_several_files_keeps_its_order(test_only):
    before = load(test_only)
    file = next(test_only.glob("data/*.parquet"))
    rows = datasets.Dataset.from_parquet(str(file), keep_in_memory=True)
    cuts = (0, 1, 1, 20, 21, len(rows))  # one of the files is empty
    for number, (start, stop) in enumerate(itertools.pairwise(cuts)):
        part = file.with_name(f"test-{number:05d}-of-00005.parquet")
        rows.select(range(start, stop)).to_parquet(str(part))
    file.unlink()
    after = load(test_only)
    assert after.examples == before.examples
    assert after.digest() == before.digest()


@pytest.mark.golden
def test_tables_that_cannot_be_asked(test_only):
    file = next(test_only.glob("data/*.parquet"))
    content = file.read_bytes()
    name = keys(load(test_only))[0].partition("/")[2]

    def refused(match):
        with pytest.raises(InputError, match=match) as caught:
            load(test_only)
        assert "\n" not in str(caught.value)

    rewrite(file, lambda rows: rows.select([0, 1, 0]))
    refused(f"question adversarial/{name} occurs 2 times")
    file.write_bytes(content)
    rewrite(file, lambda rows: rows.map(lambda row: {"answer": "maybe"}, keep_in_memory=True))
    refused(f"row 0, question_id {name}: label 'maybe'")
    file.write_bytes(content)
    rewrite(file, lambda rows: rows.map(lambda row: {"category": "easy"}, keep_in_memory=True))
    refused("row 0: category 'easy'")
    file.write_bytes(content)
    rewrite(file, lambda rows: rows.remove_columns("category"))
    refused("test-00000.*lacks the column category; it has id, ")
    file.write_bytes(content[: len(content) // 2])
    refused("test-00000.*cannot be read")
    file.rename(file.with_name("train-00000-of-00001.parquet"))
    refused(r"has no default/test-\*\.parquet")


@pytest.mark.golden
@pytest.mark.parametrize("module", [pope, scienceqa, mme, mmbench, textvqa, seed, gqa])
def test_the_files_that_are_fetched_are_those_that_are_read(fixtures_dir, tmp_path, module):
    """Of a hub's data set no other config or split is brought here."""
    benchmark = module.BENCHMARK
    whole = fixtures_dir / "hf" / benchmark.hub_id.split("/")[1]
    for pattern in benchmark.hub_files:
        for file in whole.glob(pattern):
            copy = tmp_path / file.relative_to(whole)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    few = opening.load(benchmark, Request(data=str(tmp_path)))
    assert few.examples == opening.load(benchmark, Request(data=str(whole))).examples
    assert few.digest()
    names = {file.name.split("-")[0] for file in tmp_path.glob("*/*.parquet")}
    assert not names & {"train"}
