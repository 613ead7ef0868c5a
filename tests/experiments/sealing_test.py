"""A sealed setting as a table for other tools: every field of every row, sorted by key."""

import dataclasses
import hashlib
import json
import math

import pyarrow.parquet
import pytest

from experiments.harness import records, sealing, shards
from experiments.harness.errors import InputError

FIRST = records.Record(
    "b/2", "a.jpg", "b", 1, (-0.1, math.pi / -7e-30), -1 / 3, 7, None, 3, "4A==", "0" * 16
)
OPEN = records.Record(
    *("a/1", "ä,\n.jpg", "a", None, (), None, 7, "a “red” bus\n", 3, "4A==", "0" * 16),
    text_log_probs=(-0.25, -1e-12),
)
LONG = dataclasses.replace(FIRST, key="c/0", text="x" * 3_000_000, label=None)


def sealed(folder, rows):
    shard = shards.Shard(folder)
    shard.append(rows)
    shard.close()
    return sealing.seal(folder, [row.key for row in rows])


def test_the_table_has_every_field_sorted_by_key(tmp_path):
    assert sealed(tmp_path, [FIRST, LONG, OPEN])
    table = pyarrow.parquet.read_table(tmp_path / sealing.TABLE)
    rows = table.to_pylist()
    assert [row["key"] for row in rows] == ["a/1", "b/2", "c/0"]
    for row, record in zip(rows, (OPEN, FIRST, LONG), strict=True):
        want = dataclasses.asdict(record)
        found = {name: row[name] for name in want}
        found["log_masses"] = tuple(found["log_masses"])
        found["text_log_probs"] = record.text_log_probs and tuple(found["text_log_probs"])
        assert found == want
        assert row["crc"] in records.to_line(record).decode()
        assert row["v"] == records.SCHEMA


def test_the_seal_hashes_the_sorted_lines_and_every_file(tmp_path):
    assert sealed(tmp_path, [FIRST, OPEN])
    seal = json.loads((tmp_path / "SEALED").read_text())
    lines = records.to_line(OPEN) + records.to_line(FIRST)
    assert seal["rows"] == 2
    assert seal["sha256"] == hashlib.sha256(lines).hexdigest()
    assert seal["files"] == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in (tmp_path / "records-00000-of-00001.jsonl", tmp_path / sealing.TABLE)
    }
    assert sealing.is_sealed(tmp_path)


def test_nothing_is_sealed_while_a_row_is_missing(tmp_path):
    shard = shards.Shard(tmp_path)
    shard.append([FIRST])
    shard.close()
    assert not sealing.seal(tmp_path, ["b/2", "a/1"])
    assert not (tmp_path / "SEALED").exists()
    assert not (tmp_path / sealing.TABLE).exists()


def test_two_different_rows_of_a_key_are_not_sealed(tmp_path):
    for process, row in enumerate((FIRST, dataclasses.replace(FIRST, token=8))):
        shard = shards.Shard(tmp_path, process, 2)
        shard.append([row])
        shard.close()
    with pytest.raises(InputError, match="two different records of 'b/2'"):
        sealing.seal(tmp_path, ["b/2"])


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"files": 3}'])
def test_a_seal_that_is_none_is_broken(tmp_path, content):
    assert sealed(tmp_path, [FIRST])
    (tmp_path / "SEALED").write_text(content)
    assert not sealing.is_sealed(tmp_path)
    assert not (tmp_path / "SEALED").exists()
