"""Rows are counted when they are on the disk, in order, all of them, and no failure is lost."""

import os
import threading

import pytest

from experiments.harness import progress, records, shards
from experiments.harness.errors import InterruptedRunError

ROW = records.Record("k/0", "a.jpg", "k", 1, (-0.1, -2.5), -0.01, 7, None, 3, "4A==", "0" * 16)


def test_rows_are_counted_when_the_disk_has_them():
    counted, on_disk = [], threading.Event()
    with progress.Durable(counted.append) as durable:
        durable.add(3, on_disk.wait)
        assert counted == []
        on_disk.set()
        durable.add(4, lambda: None)
        durable.add(5, lambda: None)
    assert counted == [3, 4, 5]


def test_few_rows_are_ahead_of_the_disk():
    counted, on_disk = [], threading.Event()
    with progress.Durable(counted.append) as durable:
        for rows in range(progress._AHEAD):
            durable.add(rows, on_disk.wait)
        assert counted == []
        threading.Timer(0.05, on_disk.set).start()
        durable.add(100, on_disk.wait)
        assert counted, "the next batch waits"


def test_a_disk_that_fails_ends_the_run():
    def full():
        raise InterruptedRunError("no space left")

    def run():
        with progress.Durable(lambda rows: None) as durable:
            durable.add(1, full)

    with pytest.raises(InterruptedRunError, match="no space left"):
        run()


def test_a_stop_is_not_followed_by_counts():
    counted = []

    def count(rows):
        counted.append(rows)
        raise KeyboardInterrupt

    def run():
        with progress.Durable(count) as durable:
            for _ in range(3 * progress._AHEAD):
                durable.add(1, lambda: None)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert counted == [1]


def test_a_shard_waits_for_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fdatasync", lambda number: synced.append(os.fstat(number).st_size))
    shard = shards.Shard(tmp_path)
    shard.append([ROW])
    assert synced == []
    shard.sync()
    assert synced == [len(records.to_line(ROW))]
    shard.close()
    assert len(synced) == 2
