"""Two runs row by row: what moved, by how much, and what is the same."""

import csv
import dataclasses
import json
import math
import pathlib
import shutil

import numpy as np
import pytest

from experiments import catalogue, diff, pope
from experiments.harness import questions, records, shards
from experiments.harness.benchmark import Request
from experiments.harness.errors import InputError, UsageError
from experiments.reporting import moves

DATA = "5" * 64
EXAMPLES = pope.BENCHMARK.scenes(Request("scenes", 3)).examples


def evidence(seed):
    """Return made-up records of POPE's questions about three pictures."""
    rng = np.random.default_rng(seed)
    found = []
    for example in EXAMPLES:
        masses = np.log(rng.dirichlet((1, 1)))
        own = {"key": example.key, "image": example.image, "split": example.split}
        own |= {"label": example.label, "run": "0" * 16, "text": None, "token": 7, "budget": 4}
        given = {"log_masses": tuple(masses.tolist()), "answer_log_mass": 0.0, "kept": "8A=="}
        found.append(records.Record(**own, **given))
    return found


def write(out, rows, name="none", route="first_token", **identity):
    """Write a setting's folder as a run leaves it and return it."""
    place = out / name
    place.mkdir(parents=True)
    own = {"benchmark": "pope", "confidence": {"route": route}, "data": {"sha256": DATA}}
    own |= {"dtype": "float32", "setting": {"pruner": name, "seed": None}} | identity
    run = {"identity": own, "setting": own["setting"], "plan": {}, "versions": {"jax": "1"}}
    (place / "run.json").write_text(json.dumps(run | {"expected": {"rows": len(rows)}}))
    questions.write(out, DATA, (example.question for example in EXAMPLES))
    writer = shards.Shard(place)
    writer.append(rows)
    writer.close()
    return place


@pytest.fixture
def one(tmp_path):
    return write(tmp_path / "a", evidence(0))


def compare(one, other, tolerance=0.0):
    return moves.compare(one, other, catalogue.get, tolerance)


def swapped(row):
    """Return a row that takes the other answer."""
    return dataclasses.replace(row, log_masses=row.log_masses[::-1])


def test_a_run_does_not_differ_from_itself(one, tmp_path, capsys):
    other = pathlib.Path(shutil.copytree(one.parent, tmp_path / "b"))
    pair = compare(one, other / "none")
    assert not pair.differs
    assert (pair.num_same, pair.moves, pair.identity) == (len(EXAMPLES), (), ())
    assert diff.report(one.parent, other, 0.0, 20, None) == 0
    assert f"{len(EXAMPLES)} rows are the same, 0 moved" in capsys.readouterr().out


def test_what_moved_is_measured(one, tmp_path):
    rows = evidence(0)
    first, second, third, last = 3, 10, 20, 30
    rows[first] = swapped(rows[first])
    nudged = tuple(x - 0.001 * i for i, x in enumerate(rows[second].log_masses))
    rows[second] = dataclasses.replace(rows[second], log_masses=nudged)
    rows[third] = dataclasses.replace(rows[third], kept="/w==")
    rows[last] = dataclasses.replace(rows[last], token=8)
    pair = compare(one, write(tmp_path / "b", rows))
    found = {move.key: move for move in pair.moves}
    assert list(found) == sorted(rows[i].key for i in (first, second, third, last))
    assert pair.num_same == len(rows) - 4
    flip = found[rows[first].key]
    assert flip.flipped
    assert sorted(flip.said) == ["No", "Yes"]
    masses = np.array(evidence(0)[first].log_masses)
    log_probs = masses - np.logaddexp.reduce(masses)
    label = rows[first].label
    assert flip.log_prob == pytest.approx(log_probs[1 - label] - log_probs[label])
    assert flip.confidence == pytest.approx(0)
    small = found[rows[second].key]
    assert not small.flipped
    assert 0 < abs(small.log_prob) < 0.001
    assert 0 < abs(small.confidence) < 0.001
    assert [(m.evidence, m.kept) for m in (small, found[rows[third].key])] == [
        (True, False),
        (False, True),
    ]
    assert found[rows[last].key].evidence


def test_a_tolerance_leaves_out_what_moved_less(one, tmp_path):
    rows = evidence(0)
    for i, step in enumerate((1e-7, 1e-5, 1e-3)):
        moved = tuple(x - step for x in rows[i].log_masses)
        rows[i] = dataclasses.replace(rows[i], log_masses=moved)
    other = write(tmp_path / "b", rows)
    counts = [len(compare(one, other, t).moves) for t in (0.0, 1e-6, 1e-4, 1e-2)]
    assert counts == [3, 2, 1, 0]


def test_texts_are_answers_too(tmp_path):
    spoken = [
        dataclasses.replace(row, text="yes", text_log_probs=(-0.1, -0.2)) for row in evidence(0)
    ]
    other = list(spoken)
    other[0] = dataclasses.replace(spoken[0], text="no", text_log_probs=(-0.1, -0.2, -0.3))
    (move,) = compare(
        write(tmp_path / "a", spoken, route="generate"),
        write(tmp_path / "b", other, route="generate"),
    ).moves
    assert move.said == ("yes", "no")
    assert move.confidence == pytest.approx(math.exp(-0.6) - math.exp(-0.3))


def test_rows_and_settings_of_one_run_only_are_named(one, tmp_path, capsys):
    other = write(tmp_path / "b", evidence(0)[1:])
    write(tmp_path / "b", evidence(0), "scope")
    pair = compare(one, other)
    assert pair.only == ((EXAMPLES[0].key,), ())
    assert pair.differs
    assert diff.report(one.parent, other.parent, 0.0, 20, None) == 3
    out = capsys.readouterr().out
    assert f"1 rows are in the first only, such as {EXAMPLES[0].key}" in out
    assert f"scope is in {other.parent} only" in out
    assert "1 settings compared, 1 with rows that moved; 1 in one only" in out
    write(tmp_path / "c", evidence(0))
    assert diff.report(one.parent, tmp_path / "c", 0.0, 20, None) == 0
    write(tmp_path / "c", evidence(0), "random")
    assert diff.report(one.parent, tmp_path / "c", 0.0, 20, None) == 3
    assert "0 with rows that moved; 1 in one only" in capsys.readouterr().out


def test_what_was_run_differently_is_named_and_is_no_move(one, tmp_path):
    other = write(tmp_path / "b", evidence(0), dtype="bfloat16")
    run = json.loads((other / "run.json").read_text())
    run["versions"] = {"jax": "2"}
    (other / "run.json").write_text(json.dumps(run))
    pair = compare(one, other)
    assert pair.identity == ("identity.dtype: float32 → bfloat16", "versions.jax: 1 → 2")
    assert not pair.differs


def test_metrics_are_those_of_the_rows(one, tmp_path, capsys):
    rows = evidence(0)
    wrong = next(i for i, r in enumerate(rows) if int(np.argmax(r.log_masses)) != r.label)
    rows[wrong] = swapped(rows[wrong])
    other = write(tmp_path / "b", rows)
    first, second = compare(one, other).metrics["accuracy"]
    assert second - first == pytest.approx(1 / len(rows), abs=1e-6)
    assert diff.report(one, other, 0.0, 20, None) == 3
    (line,) = (x for x in capsys.readouterr().out.splitlines() if "accuracy" in x)
    assert line.split() == ["accuracy", f"{first:.6f}", f"{second:.6f}", f"{second - first:+.6f}"]


def test_changed_answers_are_named_twenty_or_all(one, tmp_path, capsys):
    other = write(tmp_path / "b", [swapped(row) for row in evidence(0)])
    for most, lines in ((20, 20), (None, len(EXAMPLES))):
        diff.report(one, other, 0.0, most, None)
        out = capsys.readouterr().out
        assert f"{len(EXAMPLES)} answers changed" in out
        assert sum(" → " in line and "/" in line for line in out.splitlines()) == lines
        assert (f"and {len(EXAMPLES) - 20} more" in out) == (most == 20)


def test_rows_that_moved_are_written(one, tmp_path):
    rows = evidence(0)
    rows[0] = dataclasses.replace(swapped(rows[0]), key="=1+1")
    extra = write(tmp_path / "c", [dataclasses.replace(evidence(0)[0], key="=1+1")])
    other = write(tmp_path / "b", [rows[0]])
    file = tmp_path / "moved.csv"
    assert diff.report(extra, other, 0.0, 20, str(file)) == 3
    (row,) = csv.DictReader(file.read_text().splitlines())
    (move,) = compare(extra, other).moves
    assert row["key"] == "'=1+1", "no spreadsheet takes it for a formula"
    assert (row["first"], row["second"], row["flipped"]) == ("none", "none", "1")
    assert float(row["log_prob_change"]) == move.log_prob
    assert float(row["confidence_change"]) == move.confidence


def test_what_cannot_be_compared_is_refused(one, tmp_path):
    with pytest.raises(UsageError, match="give two of a kind"):
        diff.report(one, one.parent, 0.0, 20, None)
    with pytest.raises(InputError, match="holds no setting of a run"):
        diff.report(one.parent, tmp_path / "nowhere", 0.0, 20, None)
    other = write(tmp_path / "b", evidence(0))
    for content in ("{", "[]", "{}", '{"identity": [], "versions": {}}'):
        (other / "run.json").write_text(content)
        with pytest.raises(InputError, match="does not describe a setting"):
            compare(one, other)
    first, second = (write(tmp_path / x, evidence(x == "d"), benchmark="os") for x in "cd")
    with pytest.raises(InputError, match="no benchmark is called 'os'"):
        compare(first, second)


def test_the_program_ends_with_its_code(one, tmp_path, command):
    rows = evidence(0)
    rows[0] = dataclasses.replace(swapped(rows[0]))
    other = write(tmp_path / "b", rows)
    code, out, err = command(tmp_path, "a", "b", "--csv=moved.csv", program="diff")
    assert (code, err) == (3, "")
    assert f"    {rows[0].key}: " in out
    assert (tmp_path / "moved.csv").is_file()
    code, _, err = command(tmp_path, str(other), program="diff")
    assert code == 1
    assert "two folders are compared, not 1" in err
