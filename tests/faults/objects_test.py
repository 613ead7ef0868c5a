"""Run folders in an object store that shows whole objects only, and sometimes fails."""

import dataclasses
import pathlib
import shutil

import fsspec
import pytest

from experiments import pope
from experiments.harness import command, objects, records, shards
from experiments.harness.errors import InputError, InterruptedRunError, UsageError
from experiments.harness.stopwatch import Stopwatch

ROW = records.Record("k/0", "a.jpg", "k", 1, (-0.1, -2.5), -0.01, 7, None, 3, "4A==", "0" * 16)


@pytest.fixture
def bucket(request):
    """A store that is empty before the test and after it."""
    files = fsspec.filesystem("memory")
    name = f"/{request.node.name.partition('[')[0]}"
    if files.exists(name):
        files.rm(name, recursive=True)
    yield f"memory:/{name}"
    if files.exists(name):
        files.rm(name, recursive=True)


@pytest.fixture
def small(config, bucket):
    return dataclasses.replace(
        config, pruners=("saliency",), hyperparameters={}, seeds=(0,), out=bucket, offline=False
    )


def run(config):
    work = command.prepare(pope.BENCHMARK, config, Stopwatch(exact=False))
    outcome = command.answer(work)
    work.send()
    return outcome


def stored(url):
    """Return the content of every object."""
    files, root = fsspec.core.url_to_fs(url)
    return {name.removeprefix(f"{root}/"): files.cat_file(name) for name in files.find(root)}


def another_machine(config):
    """Forget what this machine knows of the run."""
    shutil.rmtree(config.folder)


def segments(url):
    return {name: content for name, content in stored(url).items() if ".seg" in name}


def rows(count, begin=0):
    return [dataclasses.replace(ROW, key=f"k/{i}") for i in range(begin, begin + count)]


def watch_writes(monkeypatch):
    """Return a list that the name of every object written from now on is added to."""
    kind = type(fsspec.filesystem("memory"))
    write, names = kind.pipe_file, []

    def watched(self, place, content, **how):
        names.append(place.rpartition("/")[2])
        write(self, place, content, **how)

    monkeypatch.setattr(kind, "pipe_file", watched)
    return names


def test_a_run_in_a_store_is_a_run_on_a_disk(small, tmp_path, monkeypatch, passed):
    want = run(dataclasses.replace(small, out=str(tmp_path / "disk")))
    with monkeypatch.context() as watched:
        writes = watch_writes(watched)
        outcome = run(small)
    assert writes[-2:] == ["SEALED", "SEALED"], "seals come last"
    assert "SEALED" not in writes[:-2]
    found = stored(small.out)
    assert not [name for name in found if ".owner" in name or "-of-00001.jsonl" in name]
    assert {"none/SEALED", "none/run.json", "none/flags.txt", "none/records.parquet"} <= set(found)
    another_machine(small)
    with monkeypatch.context() as watched:
        writes = watch_writes(watched)
        again = run(small)
    assert again.answered == 0
    assert not writes, "nothing is written twice"
    assert stored(small.out) == found
    for ours, theirs in zip(again.folders, want.folders, strict=True):
        assert records.read_records(ours) == records.read_records(theirs)
        table = "records.parquet"
        assert (ours / table).read_bytes() == (theirs / table).read_bytes()
    assert outcome.answered == want.answered
    passed(
        "G1", f"{want.answered} rows by another machine from {len(segments(small.out))} segments"
    )


def test_what_is_in_the_store_is_not_asked_again(small, monkeypatch):
    """A machine dies after some segments; another one finishes from them."""
    monkeypatch.setattr(objects, "_ROWS", 3)
    work = command.prepare(pope.BENCHMARK, small, Stopwatch(exact=False))
    append, count = objects.Segments.append, []

    def die(self, *what):
        append(self, *what)
        count.append(1)
        if len(count) == 4:
            raise KeyError("the machine is gone")

    monkeypatch.setattr(objects.Segments, "append", die)
    monkeypatch.setattr(objects.Segments, "close", lambda self: self.shard.close())
    with pytest.raises(KeyError):
        command.answer(work)
    monkeypatch.undo()
    kept = sum(content.count(b"\n") for content in segments(small.out).values())
    assert kept
    another_machine(small)
    outcome = run(small)
    assert outcome.answered == outcome.expected - kept
    lines = [line for content in segments(small.out).values() for line in content.splitlines()]
    assert len(lines) == len(set(lines)) == outcome.expected


@pytest.mark.times(6, 60)
def test_an_upload_that_fails_is_repeated(tmp_path, bucket, monkeypatch, times, passed):
    """Every other write fails, before or after the object is there: nothing lost, nothing twice."""
    monkeypatch.setattr(objects, "_ROWS", 2)
    folder = tmp_path / "here" / "none"
    folder.mkdir(parents=True)
    store = objects.Store(bucket, folder.parent)
    write, calls = store._files.pipe_file, []

    def fail(place, content):
        calls.append(place)
        if len(calls) % 4 == 3:
            write(place, content)
        if len(calls) % 2:
            raise OSError("connection reset")
        write(place, content)

    monkeypatch.setattr(store._files, "pipe_file", fail)
    writer = objects.Segments(shards.Shard(folder), store)
    for begin in range(0, 2 * times, 2):
        writer.append(rows(2, begin))
        writer.sync()
    monkeypatch.setattr(store._files, "pipe_file", write)
    writer.close()
    lines = [line for content in segments(bucket).values() for line in content.splitlines()]
    assert len(lines) == len(set(lines)) == 2 * times
    assert {name for name in segments(bucket)} == {
        f"none/{file.name}" for file in folder.glob("*.seg*")
    }
    passed("G1", f"{len(calls)} writes, every other one failed: {2 * times} rows, 0 lost, 0 twice")


def test_a_kill_between_segment_and_shard_repeats_no_row(tmp_path, bucket, monkeypatch):
    folder = tmp_path / "none"
    folder.mkdir()
    store = objects.Store(bucket, tmp_path)
    writer = objects.Segments(shards.Shard(folder), store)
    writer.append(rows(3))
    with monkeypatch.context() as killed:
        killed.setattr(shards.Shard, "clear", lambda self: {}["killed"])
        with pytest.raises(KeyError):
            writer.close()
    writer = objects.Segments(shards.Shard(folder), store)
    writer.append(rows(2, 3))
    writer.close()
    lines = [line for content in segments(bucket).values() for line in content.splitlines()]
    assert len(lines) == len(set(lines)) == 5


def test_a_store_that_cannot_be_written_ends_a_run_that_can_be_resumed(small, monkeypatch):
    work = command.prepare(pope.BENCHMARK, small, Stopwatch(exact=False))

    def fail(place, content):
        raise OSError("bucket is gone")

    with monkeypatch.context() as gone:
        gone.setattr(work.store._files, "pipe_file", fail)
        with pytest.raises(InterruptedRunError, match="bucket is gone"):
            command.answer(work)
    outcome = run(small)
    assert outcome.answered == 0, "the rows were on this machine"
    assert sum(content.count(b"\n") for content in segments(small.out).values()) == outcome.expected


def test_a_minute_makes_a_segment(tmp_path, bucket, monkeypatch):
    monkeypatch.setattr(objects, "_SECONDS", 0.0)
    folder = tmp_path / "none"
    folder.mkdir()
    writer = objects.Segments(shards.Shard(folder), objects.Store(bucket, tmp_path))
    writer.append(rows(1))
    writer.sync()
    assert len(segments(bucket)) == 1
    writer.close()


@pytest.mark.parametrize(
    ("out", "named"),
    [("nowhere://bucket/run", "nowhere"), ("gs://bucket/run", "gcsfs"), ("s3://b/run", "s3fs")],
)
def test_a_store_that_nobody_knows_is_refused(config, out, named):
    with pytest.raises(InputError, match=named):
        run(dataclasses.replace(config, out=out, offline=False))


def test_offline_and_a_store_do_not_go_together(small):
    with pytest.raises(UsageError, match="needs a connection"):
        run(dataclasses.replace(small, offline=True))


def test_names_in_a_store_stay_in_the_folder(tmp_path, bucket, monkeypatch):
    store = objects.Store(bucket, tmp_path / "here")
    store._files.pipe_file(f"{store._root}/a", b"1")
    monkeypatch.setattr(store._files, "find", lambda root: [f"{root}/../../escaped"])
    with pytest.raises(InputError, match=r"escaped.*leaves the folder"):
        store.fetch()
    assert not (pathlib.Path(tmp_path) / "escaped").exists()
