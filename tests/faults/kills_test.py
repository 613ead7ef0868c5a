"""A run that is killed, stopped or suspended, at any moment, loses and repeats nothing."""

import hashlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

FLAGS = ("--pruner=saliency,random", "--budget=4,8")
SETTINGS = 5
APPENDER = pathlib.Path(__file__).with_name("appending.py")


def rows(out):
    """Count the whole rows of every record file."""
    places = (pathlib.Path(folder) / name for folder, _, names in os.walk(out) for name in names)
    files = sorted(file for file in places if file.match("records-*.jsonl"))
    return {str(file.relative_to(out)): file.read_bytes().count(b"\n") for file in files}


def digests(out):
    files = sorted([*out.rglob("records-*.jsonl"), *out.rglob("records.parquet")])
    return {str(f.relative_to(out)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def wait_for_rows(out, process, count):
    """Wait until a run has so many rows, or has ended."""
    while process.poll() is None and sum(rows(out).values()) < count:
        time.sleep(0.002)


def is_whole(out, per_picture):
    """Return whether every file ends behind a batch, a picture's rows."""
    return all(count % per_picture == 0 for count in rows(out).values())


@pytest.mark.times(20, 200)
def test_a_killed_writer_loses_and_repeats_nothing(tmp_path, times, passed):
    """The store alone, killed at random: a process that appends, resumed until it is done."""
    rng = random.Random(0)
    folder = tmp_path / "killed"
    folder.mkdir()
    total, kills, torn = 40 * times, 0, 0
    while True:
        process = subprocess.Popen([sys.executable, APPENDER, folder, str(total)])
        wait_for_rows(folder, process, total * (kills + 1) // (times + 1))
        time.sleep(rng.random() * 0.002)
        process.kill()
        if process.wait() == 0:
            break
        kills += 1
        torn += any(not f.read_bytes().endswith(b"\n") for f in folder.glob("*.jsonl"))
    assert kills >= times - 1
    (file,) = folder.glob("records-*.jsonl")
    lines = file.read_bytes().splitlines()
    assert len(lines) == len(set(lines)) == total
    passed("K1 store", f"{kills} kills ({torn} in a line), {total} rows, 0 lost, 0 twice")


@pytest.mark.times(1, 200)
def test_kill_9_of_a_whole_run(tmp_path, launch, command, tiny, times, passed):
    limit = 8 + 2 * times
    flags = [f"--model={tiny}", f"--limit={limit}", *FLAGS, "--cache_gib=0"]
    code, _, err = command(tmp_path, *flags, "--out=whole", timeout=1800)
    assert code == 0, err
    want, total = digests(tmp_path / "whole"), sum(rows(tmp_path / "whole").values())
    per_picture = total // SETTINGS // limit
    rng, out, early = random.Random(1), tmp_path / "killed", 0
    for kill in range(times):
        before, process = sum(rows(out).values()), launch(tmp_path, *flags, "--out=killed")
        if kill % 5 == 4:  # while it resumes
            time.sleep(rng.random() * 3)
            early += 1
        else:
            wait_for_rows(out, process, max(total * (kill + 1) // (times + 1), before + 1))
            time.sleep(rng.random() * 0.02)
        process.kill()
        process.communicate()
        assert sum(rows(out).values()) >= before
    left = total - sum(rows(out).values())
    code, text, err = command(tmp_path, *flags, "--out=killed", timeout=1800)
    assert code == 0, err
    assert f"; {left} answers now" in text
    assert digests(out) == want
    assert rows(out) == rows(tmp_path / "whole")
    assert is_whole(out, per_picture)
    passed(
        "K1, K6",
        f"{times} kills, {early} of them while resuming: {total} rows, 0 lost, 0 twice, "
        "at most a batch redone each, records and Parquet byte-identical to a clean run",
    )


@pytest.mark.times(1, 20)
def test_sigterm_stops_behind_the_batch_in_flight(tmp_path, launch, command, tiny, times, passed):
    flags = [f"--model={tiny}", "--limit=300", *FLAGS, "--cache_gib=0"]
    rng, slowest, out = random.Random(2), 0.0, tmp_path / "runs" / "pope"
    for _ in range(times):
        before, process = sum(rows(out).values()), launch(tmp_path, *flags)
        wait_for_rows(out, process, before + 1)
        time.sleep(rng.random() * 0.1)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        slowest = max(slowest, time.monotonic() - begun)
        assert process.returncode == 75, err
        assert "the same command resumes: python -m experiments.pope" in err.splitlines()[-1]
        assert "Traceback" not in err
        assert is_whole(out, 18)
    assert slowest < 5
    passed("K2", f"{times} of {times} exit 75, slowest {slowest:.1f} s, whole batches on disk")


@pytest.mark.times(1, 40)
def test_ctrl_c_once_stops_cleanly_and_twice_at_once(tmp_path, launch, tiny, times, passed):
    flags = [f"--model={tiny}", "--limit=300", *FLAGS, "--cache_gib=0"]
    out = tmp_path / "runs" / "pope"
    for number in range(times):
        before, process = sum(rows(out).values()), launch(tmp_path, *flags)
        wait_for_rows(out, process, before + 1)
        process.send_signal(signal.SIGINT)
        if number % 2:
            time.sleep(0.01)
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "the same command resumes: python -m experiments.pope" in err.splitlines()[-1]
        assert "Traceback" not in err
        assert is_whole(out, 18)
    passed("K3 while answering", f"{times} of {times} exit 130, every other time pressed twice")


@pytest.mark.parametrize(
    "first", [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)]
)
def test_ctrl_c_twice_does_not_wait_for_a_batch(first, passed):
    """A Ctrl-C and a SIGTERM, in either order, wait for a pass of 30 s; two Ctrl-C do not."""
    wait = (
        "import time\n"
        "from experiments.harness import stopping\n"
        "with stopping.Stop('the same command resumes'):\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(30)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", wait], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"
    for number in first:
        process.send_signal(number)
    lines = [process.stderr.readline() for _ in range(2)]
    assert "stopping after this batch; Ctrl-C again stops at once" in lines[1]
    time.sleep(0.1)  # the second signal is taken too
    assert process.poll() is None
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    seconds = time.monotonic() - begun
    assert process.returncode == 130
    assert err.strip() == "stopped by Ctrl-C; the same command resumes"
    assert seconds < 5
    passed("K3", f"the second Ctrl-C ends a pass of 30 s after {seconds:.2f} s")


@pytest.mark.full
def test_a_suspended_run_goes_on(tmp_path, launch, tiny, passed):
    flags = [f"--model={tiny}", "--limit=20", *FLAGS, "--cache_gib=0"]
    process = launch(tmp_path, *flags)
    out = tmp_path / "runs" / "pope"
    wait_for_rows(out, process, 1)
    process.send_signal(signal.SIGSTOP)
    held = rows(out)
    time.sleep(0.3)
    assert rows(out) == held
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    for file in out.rglob("records-*.jsonl"):
        lines = file.read_bytes().splitlines()
        assert len(lines) == len(set(lines)) == 20 * 18
    passed("K7", "suspended while answering: no row lost or twice; no clock is read into a record")
