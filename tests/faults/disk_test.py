"""Disks that are full and writers that are killed: the old file, the new one, never half of one."""

import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import random
import resource
import subprocess
import sys
import time

import pytest

from experiments import pope
from experiments.harness import command, errors, records
from experiments.harness.stopwatch import Stopwatch
from experiments.reporting import aggregate
from llava_jax import atomic


@pytest.fixture
def small(config):
    return dataclasses.replace(
        config, pruners=("saliency",), hyperparameters={}, seeds=(0,), limit=2
    )


def whole_run(config):
    """Answer and report as an entry point does; return its exit code."""

    def body():
        work = command.prepare(pope.BENCHMARK, config, Stopwatch(exact=False))
        outcome = command.answer(work)
        aggregate.results(config.folder, outcome.folders, pope.BENCHMARK, config.mode)

    return errors.exit_code(body)


def digests(folder):
    kept = [f for f in sorted(folder.rglob("*")) if f.is_file() and f.name != records.RUN]
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in kept
        if f.name != "flags.txt"  # it names the folder
    }


class FullDisk:
    """Lets so many files reach the disk; then there is no space left."""

    def __init__(self, monkeypatch):
        self.calls, self.allowed = 0, sys.maxsize
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._watched(getattr(os, name)))

    def _watched(self, function):
        def watched(number):
            self.calls += 1
            if self.calls > self.allowed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(number)

        return watched


@pytest.mark.times(16, 1)
def test_a_disk_that_is_full_at_every_write(small, monkeypatch, capsys, times, passed):
    """Every ``times``-th place where a run waits for the disk, in turn."""
    disk = FullDisk(monkeypatch)
    assert whole_run(small) == errors.COMPLETE
    sites, want = disk.calls, digests(small.folder)
    for allowed in range(0, sites, times):
        here = dataclasses.replace(small, out=f"{small.out}-{allowed}")
        disk.calls, disk.allowed = 0, allowed
        assert whole_run(here) == errors.INTERRUPTED
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert "space" in line
        disk.allowed = sys.maxsize
        before = sum(len(records.read_records(f)) for f in here.folder.glob("*/"))
        assert whole_run(here) == errors.COMPLETE
        assert digests(here.folder) == want
        assert before <= sum(len(records.read_records(f)) for f in here.folder.glob("*/"))
    passed("D1", f"full at {len(range(0, sites, times))} of {sites} writes: exit 75, then as clean")


def test_a_file_that_may_not_grow(small, capsys):
    """The kernel says so itself, within a line."""
    assert whole_run(small) == errors.COMPLETE
    want = digests(small.folder)
    here = dataclasses.replace(small, out=f"{small.out}-small")
    longest = max(f.stat().st_size for f in small.folder.glob("*/records-*"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    work = command.prepare(pope.BENCHMARK, here, Stopwatch(exact=False))
    resource.setrlimit(resource.RLIMIT_FSIZE, (longest * 2 // 3, before[1]))
    try:
        assert errors.exit_code(lambda: command.answer(work) and None) == errors.INTERRUPTED
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "no space left" in capsys.readouterr().err
    assert whole_run(here) == errors.COMPLETE
    assert digests(here.folder) == want


@pytest.mark.times(10, 100)
def test_a_writer_that_is_killed_leaves_the_old_file_or_the_new(tmp_path, times, passed):
    file, rng = tmp_path / "results.json", random.Random(0)
    atomic.write(file, {"values": []})
    write = (
        "import pathlib, sys\n"
        "from llava_jax import atomic\n"
        "number = 0\n"
        "while True:\n"
        "    number += 1\n"
        "    atomic.write(pathlib.Path(sys.argv[1]), {'values': [number] * 100_000})\n"
    )
    replaced = 0
    for _ in range(times):
        process = subprocess.Popen([sys.executable, "-c", write, file])
        before = file.stat().st_ino
        while file.stat().st_ino == before:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.05)
        process.kill()
        process.wait()
        values = json.loads(file.read_text())["values"]
        assert len(values) == 100_000
        assert len(set(values)) == 1
        replaced += values[0]
    assert replaced >= times
    passed("K4", f"{times} kills among {replaced} replaced files: a whole file each time")


def test_only_records_and_caches_are_written_in_place():
    """Every other file is replaced whole, by ``llava_jax.atomic``."""
    packages = ("llava_jax", "experiments", "pruning", "calibration")
    root = pathlib.Path(__file__).parents[2]
    in_place = {
        f"{file.relative_to(root)}"
        for package in packages
        for file in (root / package).rglob("*.py")
        for line in file.read_text("utf-8").splitlines()
        if ".write_text(" in line or ".write_bytes(" in line or '.open("w' in line
    }
    assert in_place <= {
        "experiments/harness/shards.py",  # who holds the lock
        "experiments/harness/features.py",  # a cache whose files carry a checksum
    }
