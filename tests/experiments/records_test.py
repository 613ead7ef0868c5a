"""The record format: every torn tail and every flipped bit is noticed."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.harness import records, shards
from experiments.harness.errors import InputError

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
ROW = records.Record(
    "random/1", "a.jpg", "random", 1, (-0.1, -2.5), -0.01, 7, None, 3, "4A==", "0123456789abcdef"
)


def rows(n):
    return [dataclasses.replace(ROW, key=f"random/{i}") for i in range(n)]


@given(st.text(), st.lists(FINITE, min_size=1).map(tuple), st.text() | st.none())
def test_a_line_gives_its_row_back(key, masses, text):
    row = dataclasses.replace(ROW, key=key, log_masses=masses, text=text)
    line = records.to_line(row)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    fields = records.from_line(line[:-1])
    assert fields is not None
    assert records.Record(**fields | {"log_masses": tuple(fields["log_masses"])}) == row


def test_the_format_is_what_earlier_runs_wrote():
    """Changing this line breaks every run folder that exists."""
    assert records.to_line(ROW) == (
        b'{"answer_log_mass":-0.01,"budget":3,"image":"a.jpg","kept":"4A==","key":"random/1",'
        b'"label":1,"log_masses":[-0.1,-2.5],"run":"0123456789abcdef","split":"random",'
        b'"text":null,"token":7,"v":1,"crc":"db5acca8"}\n'
    )


def test_no_number_that_is_not_finite_is_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.to_line(dataclasses.replace(ROW, answer_log_mass=float("nan")))


def test_every_flipped_bit_is_noticed():
    line = records.to_line(ROW)[:-1]
    for place in range(len(line)):
        for bit in range(8):
            damaged = bytearray(line)
            damaged[place] ^= 1 << bit
            assert records.from_line(bytes(damaged)) is None


def test_every_torn_tail_gives_the_whole_rows_before_it(tmp_path):
    lines = [records.to_line(row) for row in rows(3)]
    content = b"".join(lines)
    file = tmp_path / "records-00000-of-00001.jsonl"
    for cut in range(len(content) + 1):
        file.write_bytes(content[:cut])
        whole = content[:cut].count(b"\n")
        assert list(records.read_records(tmp_path)) == [f"random/{i}" for i in range(whole)]
        shards.Shard(tmp_path).close()
        assert file.read_bytes() == b"".join(lines[:whole])


def test_appending_goes_on_after_a_torn_tail(tmp_path):
    file = tmp_path / "records-00000-of-00001.jsonl"
    file.write_bytes(records.to_line(rows(2)[0]) + b'{"answer_lo')
    writer = shards.Shard(tmp_path)
    writer.append(rows(2)[1:])
    writer.close()
    assert list(records.read_records(tmp_path)) == ["random/0", "random/1"]


def test_the_first_of_equal_rows_wins_and_different_ones_are_refused(tmp_path):
    file = tmp_path / "records-00000-of-00001.jsonl"
    file.write_bytes(records.to_line(ROW) * 2)
    assert list(records.read_records(tmp_path).values()) == [ROW]
    other = dataclasses.replace(ROW, token=8)
    file.write_bytes(records.to_line(ROW) + records.to_line(other))
    with pytest.raises(InputError, match="random/1"):
        records.read_records(tmp_path)


def test_failures_are_kept_apart_and_not_repeated(tmp_path):
    failure = records.Failure("random/1", "a.jpg", "cut off", ROW.run)
    for _ in range(2):
        writer = shards.Shard(tmp_path)
        writer.append([], [failure])
        writer.close()
    (file,) = tmp_path.glob("failures-*.jsonl")
    assert [row["reason"] for row in records.read(file)] == ["cut off"]
    assert not records.read_records(tmp_path)


def test_a_second_process_is_refused_by_name(tmp_path):
    writer = shards.Shard(tmp_path)
    writer.append([ROW])
    second = (
        "import pathlib\n"
        "from experiments.harness import errors, shards\n"
        "try:\n"
        f"    shards.Shard(pathlib.Path({str(tmp_path)!r}))\n"
        "except errors.InputError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", second], capture_output=True, text=True, check=True)
    assert f"process {os.getpid()}" in run.stdout
    assert "records-00000-of-00001.jsonl" in run.stdout
    writer.close()
    assert list(records.read_records(tmp_path)) == ["random/1"]


@settings(max_examples=30)
@given(st.integers(1, 700), st.randoms())
def test_masks_come_back(n, random):
    kept = np.array(random.sample(range(n), random.randint(1, n)))
    mask = records.unpack_mask(records.pack_mask(kept, n), n)
    assert mask.shape == (n,)
    assert set(np.flatnonzero(mask)) == set(kept)
