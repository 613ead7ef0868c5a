"""Record files that are torn, flipped, zeroed or foreign: what is not whole is not accepted."""

import dataclasses
import json
import random
import subprocess
import sys
import zlib

import pytest

from experiments.harness import records, shards
from experiments.harness.errors import InputError

ROW = records.Record(
    "random/1", "a.jpg", "random", 1, (-0.1, -2.5), -0.01, 7, "é", 3, "4A==", "0123456789abcdef"
)
NAME = "records-00000-of-00001.jsonl"


def rows(count):
    return [dataclasses.replace(ROW, key=f"random/{i}", token=i) for i in range(count)]


def lines(count):
    return [records.to_line(row) for row in rows(count)]


def with_checksum(body):
    return body[:-1] + b',"crc":"%08x"}\n' % zlib.crc32(body)


@pytest.mark.times(8, 40)
def test_a_tail_torn_at_every_byte(tmp_path, times, passed):
    """Exactly the whole rows before the cut come back, and appending goes on behind them."""
    whole = lines(times)
    content = b"".join(whole)
    file = tmp_path / NAME
    for cut in range(len(content) + 1):
        file.write_bytes(content[:cut])
        count = content[:cut].count(b"\n")
        shard = shards.Shard(tmp_path)
        assert list(records.read_records(tmp_path)) == [f"random/{i}" for i in range(count)]
        shard.append(rows(times)[count : count + 1])
        shard.close()
        assert file.read_bytes() == b"".join(whole[: count + 1])
    passed("D3", f"torn at each of {len(content) + 1} places: all recovered, byte for byte")


@pytest.mark.times(300, 3000)
def test_flipped_bits_are_never_accepted(tmp_path, times, passed, caplog):
    rng, file = random.Random(0), tmp_path / NAME
    content, want = b"".join(lines(40)), {row.key: row for row in rows(40)}
    for _ in range(times):
        damaged = bytearray(content)
        place = rng.randrange(len(content))
        damaged[place] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        found = records.read_records(tmp_path)
        assert found.items() < want.items()
        assert len(found) >= 38  # a newline that is no newline any more takes two rows with it
    passed("D4", f"{times} flips: 0 accepted, other rows all there")


@pytest.mark.times(20, 200)
def test_a_zeroed_page_costs_its_own_rows(tmp_path, times, passed):
    rng, file = random.Random(0), tmp_path / NAME
    whole = lines(200)
    content = b"".join(whole)
    for _ in range(times):
        begin = rng.randrange(len(content) // 4096) * 4096
        file.write_bytes(content[:begin] + bytes(4096) + content[begin + 4096 :])
        place, want = 0, []
        for row, line in zip(rows(200), whole, strict=True):
            if place + len(line) <= begin or place >= begin + 4096:
                want.append(row.key)
            place += len(line)
        found = list(records.read_records(tmp_path))
        # The row that the page ends in has lost its newline to nobody: only whole ones come back.
        assert found == want
    passed("D5", f"{times} of {times}: every row outside the page comes back")


def test_damage_is_reported(tmp_path, caplog):
    file = tmp_path / NAME
    whole = lines(3)
    file.write_bytes(whole[0] + whole[1].replace(b"4A==", b"4B==") + whole[2])
    with caplog.at_level("WARNING", logger="absl"):
        assert list(records.read_records(tmp_path)) == ["random/0", "random/2"]
    assert f"{NAME}: 1 damaged lines" in caplog.text


def foreign():
    deep = b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b',"v":1}'
    fields = {"v": 1} | dataclasses.asdict(ROW)
    return {
        "blank lines": b"\n\n",
        "CRLF": records.to_line(ROW).replace(b"\n", b"\r\n"),
        "a BOM": b"\xef\xbb\xbf" + records.to_line(ROW),
        "10,000 deep": with_checksum(deep),
        "no JSON": with_checksum(b"{not JSON}"),
        "no object": with_checksum(b"[1]}"),
        "not UTF-8": with_checksum(b'{"key":"\xff","v":1}'),
        "another version": with_checksum(records.canonical(fields | {"v": 2})),
        "a number of 5,000 digits": with_checksum(b'{"key":' + b"9" * 5000 + b',"v":1}'),
    }


@pytest.mark.parametrize("kind", foreign())
def test_foreign_lines_are_passed_over(tmp_path, kind):
    first, second = lines(2)
    (tmp_path / NAME).write_bytes(first + foreign()[kind] + second)
    assert list(records.read_records(tmp_path)) == ["random/0", "random/1"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"token": "7"}, "token cannot be '7'"),
        ({"token": True}, "token cannot be True"),
        ({"log_masses": ["a"]}, r"log_masses cannot be \('a',\)"),
        ({"log_masses": None}, "log_masses cannot be None"),
        ({"key": 1}, "key cannot be 1"),
        ({"extra": 1}, "unexpected keyword argument 'extra'"),
        ({"answer_log_mass": "x"}, "answer_log_mass cannot be 'x'"),
        ({"answer_log_mass": 10**400}, "answer_log_mass cannot be 1000"),
    ],
)
def test_a_row_that_is_no_record_is_refused(tmp_path, change, named):
    """Its checksum is right, so that somebody wrote it."""
    fields = {"v": 1} | dataclasses.asdict(ROW) | change
    (tmp_path / NAME).write_bytes(with_checksum(records.canonical(fields)))
    with pytest.raises(InputError, match=rf"{NAME}: the row of .* is no record: .*{named}"):
        records.read_records(tmp_path)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    for number in (b"1e999", b"NaN", b"-Infinity"):
        body = records.to_line(ROW).rpartition(b',"crc"')[0] + b"}"
        (tmp_path / NAME).write_bytes(with_checksum(body.replace(b"-2.5", number)))
        with pytest.raises(InputError, match="log_masses cannot be"):
            records.read_records(tmp_path)


def test_rows_of_another_run_are_refused(tmp_path):
    other = dataclasses.replace(ROW, key="random/2", run="f" * 16)
    (tmp_path / NAME).write_bytes(records.to_line(ROW) + records.to_line(other))
    with pytest.raises(InputError, match="several runs"):
        records.read_records(tmp_path)


def read_elsewhere(folder):
    """Read records in a process of its own; return keys, seconds and its most memory in MiB."""
    read = (
        "import json, pathlib, re, sys, time\n"
        "from experiments.harness import records\n"
        "begun = time.monotonic()\n"
        "keys = list(records.read_records(pathlib.Path(sys.argv[1])))\n"
        "seconds = time.monotonic() - begun\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "most = int(re.search(r'VmHWM:\\s+([0-9]+)', status)[1]) // 1024\n"
        "print(json.dumps([keys, seconds, most]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", read, folder], capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout)


@pytest.mark.times(64, 1024)
def test_a_long_line_takes_little_memory(tmp_path, times, passed):
    """A line of that many MiB between two rows, read by a process of its own."""
    first, second = lines(2)
    with (tmp_path / NAME).open("wb") as handle:
        handle.write(first)
        for _ in range(times):
            handle.write(b"x" * 2**20)
        handle.write(b"\n" + second)
    keys, _, most = read_elsewhere(tmp_path)
    assert keys == ["random/0", "random/1"]
    assert most < 150, f"{most} MiB"
    passed("D6", f"a line of {times} MiB: {most} MiB of memory in all; foreign lines refused")


@pytest.mark.times(20_000, 200_000)
def test_many_rows_are_read_in_little_memory(tmp_path, times, passed):
    with (tmp_path / NAME).open("wb") as handle:
        for row in range(times):
            handle.write(records.to_line(dataclasses.replace(ROW, key=f"random/{row}")))
    keys, seconds, most = read_elsewhere(tmp_path)
    assert len(keys) == times
    assert most < 500, f"{most} MiB"
    passed("reading", f"{times:,} rows in {seconds:.1f} s, {most} MiB in all")
