"""The study's documents equal goldens, follow every record, and are not made twice."""

import collections
import csv
import pathlib
import shutil

import numpy as np
import pytest

import calibration
from experiments import catalogue, verify
from experiments.harness import records, sealing, shards
from experiments.reporting.paper import documents, evidence, ledger, tables
from experiments.reporting.paper.settings import full, scope

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "paper"
TABLES = ("table1", "table2", "table3", "table4", "splits", "temperature", "selective")
FLOAT32 = 3e-5  # of temperatures; other numbers agree much better


def write(out):
    """Write the documents; the page stands for one."""

    def show(found, shown):
        file = out / "report.html"
        cells = [word for table in shown for row in table.rows for word in row]
        assert any(word.count("\n[") == 1 for word in cells)
        file.write_text(f"{found.heading}\n" + "\n".join(table.title for table in shown))
        return file

    return documents.write(out, catalogue.get, "default", show)


def read(file):
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def written(study):
    files, summary = write(study)
    return study, files, summary


def same(found, golden):
    """Compare two CSV files, numbers within float32."""
    assert len(found) == len(golden)
    for ours, theirs in zip(found, golden, strict=True):
        assert ours.keys() == theirs.keys()
        for name, text in theirs.items():
            try:
                assert float(ours[name]) == pytest.approx(float(text), abs=FLOAT32), (name, theirs)
            except ValueError:
                assert ours[name] == text, (name, theirs)


@pytest.mark.parametrize("name", [*(f"tables/{name}" for name in TABLES), "ledger"])
def test_tables_and_ledger_equal_the_goldens(written, name):
    out, _, _ = written
    same(read(out / f"{name}.csv"), read(GOLDEN / f"{pathlib.Path(name).name}.csv"))


def test_every_number_has_its_n_and_its_interval(written):
    out, _, _ = written
    for name in TABLES:
        for row in read(out / "tables" / f"{name}.csv"):
            assert int(row["n"]) > 0, row
            assert int(row["images"]) > 0, row
            assert float(row["low"]) <= float(row["value"]) <= float(row["high"]), row


def test_values_are_those_of_a_second_computation_in_float64(study, written):
    out, _, _ = written
    folder = study / "tables" / "pope" / "scope_k64_alpha1.0_gamma1.0_combinemultiply"
    rows = sorted(records.read_records(folder).values(), key=lambda row: row.key)
    masses = np.array([row.log_masses for row in rows], np.float64)
    chance = np.exp(masses - np.logaddexp.reduce(masses, axis=1)[:, None])
    right = chance.argmax(axis=1) == [row.label for row in rows]
    confidence = chance.max(axis=1)
    bins = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
    gaps = [abs((confidence - right)[bins == b].sum()) for b in range(15)]
    want = {
        "accuracy": right.mean(),
        "ece": sum(gaps) / len(rows),
        "brier": np.mean((confidence - right) ** 2),
        "nll": -np.log([p[row.label] for p, row in zip(chance, rows, strict=True)]).mean(),
    }
    found = {
        r["quantity"]: float(r["value"]) for r in read(out / "tables/table1.csv") if r["K"] == "64"
    }
    for name, value in want.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name


def test_a_second_time_nothing_is_made_and_a_damaged_file_is(written):
    out, files, summary = written
    before = {file: file.stat().st_mtime_ns for file in files}
    assert write(out) == (files, summary)
    assert {file: file.stat().st_mtime_ns for file in files} == before
    table = out / "tables" / "table1.md"
    content = table.read_bytes()
    table.write_bytes(content + b" ")
    write(out)
    assert table.read_bytes() == content


def test_one_record_changes_the_tables_and_the_ledger(written, tmp_path):
    out = tmp_path / "study"
    shutil.copytree(written[0], out)
    folder = out / "tables" / "pope" / "scope_k64_alpha1.0_gamma1.0_combinemultiply"
    rows = records.read_records(folder)
    key = min(rows)
    changed = {**rows, key: _swapped(rows[key])}
    (file,) = records.files(folder)
    file.unlink()
    writer = shards.Shard(folder)
    writer.append(list(changed.values()))
    writer.close()
    sealing.seal(folder, list(changed))
    write(out)
    one, other = (read(place / "tables/table1.csv") for place in (written[0], out))
    moved = {(a["K"], a["quantity"]) for a, b in zip(one, other, strict=True) if a != b}
    assert ("64", "accuracy") in moved
    assert {k for k, _ in moved} == {"64"}
    one, other = (read(place / "ledger.csv") for place in (written[0], out))
    lines = [a["claim"] for a, b in zip(one, other, strict=True) if a["value"] != b["value"]]
    assert "K = 64: accuracy % is 85.5" in lines
    assert "SCOPE with 64 tokens has a lower ECE than all tokens" in lines
    assert not [line for line in lines if "192" in line]


def test_verify_names_the_document_and_the_record_that_changed(written, tmp_path, capsys):
    out = tmp_path / "study"
    shutil.copytree(written[0], out)
    assert not documents.check(out, collections.Counter())
    table = out / "tables" / "table2.csv"
    table.write_bytes(table.read_bytes().replace(b"\n0,64", b"\n0,65"))
    assert verify.check([str(out)]) == verify.DISAGREES
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{table}: is not what was made: its sha256 is another"
    (file,) = records.files(out / "tables" / "pope" / "none")
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)
    assert verify.check([str(out)]) == verify.DISAGREES
    said = capsys.readouterr().out
    assert f"{file}: line 1 (random/00-0), byte 10 is damaged" in said


def _swapped(row):
    values = {name: getattr(row, name) for name in row.__dataclass_fields__}
    return records.Record(**values | {"log_masses": row.log_masses[::-1]})


def test_what_was_not_run_is_said_so_and_counts_as_nothing():
    nothing = evidence.Evidence({})
    entries = ledger.entries(nothing, tables.all_tables(nothing))
    assert {entry.verdict for entry in entries} == {ledger.NOT_RUN}
    assert len(entries) > 200
    numbers, trends = ledger.summary(entries).split("; ")
    assert (
        numbers == f"{sum(not entry.trend for entry in entries)} numbers: " + numbers.split(": ")[1]
    )
    assert trends.endswith("not run")


def test_a_split_and_a_difference_are_those_of_the_calibration_functions(evidence):
    cell = evidence.cell("pope:random", "ece", **scope(128))
    run = evidence.runs["pope"]
    (setting,) = run.find(**scope(128))
    kept = setting.rows.split == 0
    ece = calibration.expected_calibration_error(
        setting.top.confidence[kept], setting.top.correct[kept]
    )
    assert cell.value == pytest.approx(float(ece), abs=1e-6)
    assert cell.n == kept.sum()
    change = tables.difference(evidence, "pope", "accuracy", scope(64), full())
    (one,), (other,) = run.find(**scope(64)), run.find(**full())
    samples = one.samples("accuracy").astype(float) - other.samples("accuracy")
    assert (change.low, change.high) == tuple(np.percentile(samples[1:], [2.5, 97.5]))


def test_seeds_are_averaged_and_their_spread_is_said(evidence):
    cell = evidence.cell("pope", "accuracy", pruner="random", budget=64)
    each = [s.top.correct.mean() for s in evidence.runs["pope"].find(pruner="random", budget=64)]
    assert len(each) == 3
    assert cell.value == pytest.approx(np.mean(each), abs=1e-6)
    assert cell.sd == pytest.approx(np.std(each, ddof=1), abs=1e-6)
