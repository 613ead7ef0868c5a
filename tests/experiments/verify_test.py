"""A run folder checked against itself: any byte that is changed is found, and whose it is."""

import collections
import hashlib
import json
import pathlib
import random
import re
import shutil

import pytest

from experiments import catalogue, verify
from experiments.harness import records
from experiments.harness.errors import InputError
from experiments.reporting import evaluation
from experiments.reporting.verification import folder as run_folder

PLACES = 150
SETTING = "saliency_k4"


@pytest.fixture(scope="module")
def finished(tiny, fixtures_dir, command, tmp_path_factory):
    """Run a grid as a user does: full tokens, a pruner, another under two seeds."""
    place = tmp_path_factory.mktemp("finished")
    flags = ["--pruner=saliency,random", "--budget=4", "--seed=0,1", "--offline"]
    flags += [f"--model={tiny}", f"--data={fixtures_dir}/raw/pope", f"--cache={place}/cache"]
    code, _, err = command(place, *flags, "--cache_gib=0", "--out=run")
    assert code == 0, err
    return place / "run"


@pytest.fixture
def run(finished, tmp_path):
    return pathlib.Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(scope="module")
def known():
    return {}


@pytest.fixture(autouse=True)
def remembered(monkeypatch, known):
    """Measure the same files once in all tests: it is what takes time."""
    measure = evaluation.of_setting

    def of_setting(folder, scorer, mode):
        files = [*folder.glob("r*"), *folder.parent.glob("questions-*")]
        state = (mode, folder.name, *(file.read_bytes() for file in sorted(files)))
        if state not in known:
            known[state] = measure(folder, scorer, mode)
        return known[state]

    monkeypatch.setattr(evaluation, "of_setting", of_setting)


def found(run, **how):
    return run_folder.verify(run, catalogue.get, **how)


def only(run):
    (finding,) = found(run)
    return finding


def shard(run, setting=SETTING):
    (file,) = (run / setting).glob("records-*.jsonl")
    return file


def rewrite(file, change):
    """Change a JSON file as a careful person would."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content, indent=2) + "\n")


def test_a_run_agrees_with_itself(run):
    counts = collections.Counter()
    assert found(run, tolerance=0.0, counts=counts) == []
    rows = len(records.read_records(run / "none"))
    results = json.loads((run / "results.json").read_text())
    assert len(results["settings"]) == 4
    assert len(results["over_seeds"]) == 1
    assert counts["settings"] == 4
    assert counts["rows"] == 4 * rows
    assert counts["files"] == sum(1 for file in run.rglob("*") if file.is_file())
    assert counts["numbers"] == len(
        re.findall(r"[:\[,]\s+-?\d", (run / "results.json").read_text())
    )


def unseen(file, content):
    """Return the places of bytes of which a run folder has no second copy."""
    patterns = {
        "run.json": rb'"(?:images_per_batch|flop_alone)": [^\n]*|"versions": \{[^}]*\}',
        "flags.txt": rb"--(?:model|data|limit|mode|out|allow_failed|offline|options)=[^\n]*\n",
    }
    if file.name.startswith("questions-"):
        pattern = rb'(?<="text": )"[^"]*"'
    else:
        pattern = patterns.get(file.name, rb"(?!)")
    if file.parent.name == "none":
        pattern = pattern.replace(b"--(?:", b"--(?:order|positions|")
    spans = [match.span() for match in re.finditer(pattern, content)]
    return {place for begin, end in spans for place in range(begin, end)}


def key_at(content, place):
    """Return the key of the row that a byte belongs to."""
    begin, end = content.rfind(b"\n", 0, place) + 1, content.find(b"\n", place)
    return json.loads(content[begin:end])["key"]


def test_any_changed_byte_is_found_with_its_file_and_row(run):
    rng = random.Random(0)
    files = sorted(file for file in run.rglob("*") if file.is_file())
    before = {file: file.read_bytes() for file in files}
    seen = collections.Counter()
    for number in range(PLACES):
        file = files[number % len(files)]
        content = before[file]
        place, bit = rng.randrange(len(content)), 1 << rng.randrange(8)
        damaged = bytearray(content)
        damaged[place] ^= bit
        file.write_bytes(damaged)
        findings = found(run, tolerance=0.0)
        file.write_bytes(content)
        what = f"{file.relative_to(run)}, byte {place} ^ {bit}: {[*map(str, findings)]}"
        if not findings:
            assert place in unseen(file, content), what
            continue
        seen[file.name] += 1
        lines = [str(finding) for finding in findings]
        assert all(file.name in line for line in lines), what
        assert {finding.file.parent for finding in findings} <= {file.parent, run}, what
        if file.name.startswith("records-"):
            assert any(f"({key_at(content, place)})" in line for line in lines), what
            assert all(finding.file == file for finding in findings), what
    assert len(seen) == len({file.name for file in files})
    assert sum(seen.values()) > 0.8 * PLACES
    assert found(run, tolerance=0.0) == []


def test_a_damaged_line_is_named_with_its_byte(run):
    file = shard(run)
    content = file.read_bytes()
    place = content.index(b'"log_masses":[', content.index(b"\n")) + 16
    digit = b"1" if content[place : place + 1] != b"1" else b"2"
    file.write_bytes(content[:place] + digit + content[place + 1 :])
    finding = only(run)
    assert finding.file == file
    assert finding.place == f"line 2 ({key_at(content, place)}), byte {place}"
    assert "checksum does not fit" in finding.what


def change_row(run, number, **fields):
    """Replace a row by one whose checksum is right."""
    file = shard(run)
    lines = file.read_bytes().splitlines(keepends=True)
    fields = records.from_line(lines[number][:-1]) | fields
    fields["log_masses"] = tuple(fields["log_masses"])
    lines[number] = records.to_line(records.Record(**fields))
    file.write_bytes(b"".join(lines))
    return fields["key"]


def test_a_row_with_a_right_checksum_is_found_too(run):
    key = change_row(run, 3, token=1, log_masses=(-0.5, -1.5))
    finding = only(run)
    assert finding.place == f"line 4 ({key})"
    assert finding.what.endswith("log_masses, token")


def test_rows_that_are_gone_or_new_are_named(run):
    file = shard(run)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:5] + lines[6:]))
    finding = only(run)
    assert (finding.file, finding.place) == (file, key_at(lines[5] + b"\n", 0))
    assert "missing" in finding.what
    file.write_bytes(b"".join(lines))
    key = change_row(run, 0, key="new/1")
    assert {finding.place for finding in found(run)} == {
        f"line 1 ({key})",
        key_at(lines[0] + b"\n", 0),
    }
    file.write_bytes(b"".join(lines[::-1]))
    assert "in another order" in only(run).what
    file.write_bytes(b"".join(lines)[:-7])
    assert only(run).place.startswith(f"line {len(lines)} ({key_at(lines[-1], 0)})")
    file.unlink()
    assert (only(run).file, only(run).what) == (file, "was sealed and is not there")


def test_a_file_of_rows_that_was_added_is_named(run):
    file = shard(run).with_name("records-00001-of-00002.jsonl")
    shutil.copy(shard(run, "random_k4_seed0"), file)
    assert (only(run).file, only(run).what[:13]) == (file, "was not there")


def test_each_copy_names_rows_that_the_other_lost(run):
    (run / SETTING / "records.parquet").write_bytes(b"PAR1 and so on PAR1")
    assert only(run).file.name == "records.parquet"
    assert "cannot be read" in only(run).what
    change_row(run, 0, token=1)
    names = {finding.file.name: str(finding) for finding in found(run)}
    assert set(names) == {shard(run).name, "records.parquet"}, "both are damaged: neither tells"
    shutil.copy(run / "random_k4_seed0" / "records.parquet", run / SETTING)
    table = [f for f in found(run) if f.file.name == "records.parquet"]
    assert all(f.what == "is not the row of the record files" for f in table[:20])
    assert re.fullmatch(r"and \d+ more of these", table[20].what)


def test_without_the_table_a_damaged_line_says_its_key_itself(run):
    table = run / SETTING / "records.parquet"
    table.unlink()
    rewrite(run / SETTING / "SEALED", lambda seal: seal["files"].pop(table.name))
    file = shard(run)
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    assert only(run).place == f"line 1 ({key_at(bytes(content), 0)}), byte 0"
    file.write_bytes(content[content.index(b"\n") + 1 :])
    assert "its rows cannot be named" in only(run).what


def test_rows_of_another_run_are_refused(run):
    setting = run / SETTING
    for name in (shard(run).name, "SEALED", "records.parquet"):
        shutil.copy(run / "random_k4_seed0" / name, setting)
    assert "row of another run" in str(found(run)[0])


def test_one_altered_digit_of_a_result_is_named(run):
    def change(content):
        content["settings"][1]["metrics"]["ece"]["value"] += 0.0001

    file = run / "results.json"
    entry = json.loads(file.read_text())["settings"][1]
    rewrite(file, change)
    finding = only(run)
    value = entry["metrics"]["ece"]["value"]
    assert finding.place == f"settings[1] {entry['setting']} metrics.ece.value"
    assert finding.what == f"is {value + 0.0001!r}, its records give {value!r}"


def test_a_tolerance_takes_numbers_for_equal(run):
    def change(content):
        content["settings"][0]["metrics"]["nll"]["low"] *= 1 + 1e-7
        content["over_seeds"][0]["metrics"]["nll"]["sd"] *= 1 + 1e-4

    rewrite(run / "results.json", change)
    assert len(found(run)) == 2
    assert only_tolerant(run) == ["over_seeds[0].metrics.nll.sd"]
    for file in run.glob("*/run.json"):
        rewrite(file, lambda content: content["versions"].update(jax="0.0"))
    assert [finding.place for finding in found(run)] == ["over_seeds[0].metrics.nll.sd"]


def only_tolerant(run):
    return [finding.place for finding in found(run, tolerance=1e-6)]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c["settings"][0].pop("scores"), "is without scores"),
        (lambda c: c["settings"][0].update(setting="nine"), "which has no folder here"),
        (lambda c: c["settings"][0].update(setting=[]), "which has no folder here"),
        (lambda c: c["settings"][0].update(mode=7), "has the mode 7"),
        (lambda c: c.update(settings=[7]), "is no list of settings"),
        (lambda c: c["over_seeds"].pop(), "over_seeds"),
        (lambda c: c["settings"][0].update(tflop=1.0), "its run.json has"),
        (lambda c: c["settings"][0].update(records="0" * 64), "its seal has"),
    ],
)
def test_results_of_another_shape_are_named(run, change, named):
    rewrite(run / "results.json", change)
    findings = found(run)
    assert findings
    assert all(finding.file == run / "results.json" for finding in findings)
    assert named in str(findings[0])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c["identity"].update(dtype="float16"), "does not fit the identity"),
        (lambda c: c["setting"].update(budget=5), "setting is"),
        (lambda c: c["expected"].update(rows=5), "expected.rows is 5"),
        (lambda c: c["plan"].update(images=77), "plan.images is not"),
        (lambda c: c.update(source="elsewhere"), "its run.json has 'elsewhere'"),
        (lambda c: c.update(plan=[]), "plan is not there, or of another kind"),
        (lambda c: c.pop("expected"), "expected.rows is not there"),
    ],
)
def test_what_run_json_says_is_checked(run, change, named):
    rewrite(run / SETTING / "run.json", change)
    assert named in "\n".join(map(str, found(run)))


def test_flags_that_would_run_another_setting_are_named(run):
    file = run / SETTING / "flags.txt"
    text = file.read_text()
    for old, new, named in (
        ("--budget=4", "--budget=5", "--budget is '5', run.json has 4"),
        ("--pruner=saliency\n", "", "--pruner is None"),
        ("--preprocessing=pad", "--preprocessing=center_crop", "--preprocessing is"),
        ("--order", "order", "is no flag with a value"),
    ):
        file.write_text(text.replace(old, new))
        assert named in str(found(run)[0])


def test_questions_that_contradict_the_records_are_named(run):
    (file,) = run.glob("questions-*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for change, named in (
        ({"right": "no" if lines[4]["right"] == "yes" else "yes"}, "has the right choice"),
        ({"image": "x.jpg"}, "has the image 'x.jpg'"),
        ({"choices": ["Yes"]}, "has 1 choices"),
        ({"choices": ["Yes", "Non"]}, "other questions ('Yes', 'No')"),
        ({"key": "other/5"}, "has no answer"),
        ({"key": lines[3]["key"]}, "has the key of a line before it"),
        ({"text": 5}, "has not just the fields of a question"),
    ):
        changed = [*lines[:4], lines[4] | change, *lines[5:]]
        file.write_text("".join(json.dumps(line) + "\n" for line in changed))
        findings = found(run)
        assert all(finding.file == file for finding in findings), findings
        assert any("line 5" in finding.place and named in finding.what for finding in findings)
    file.rename(file.with_name("questions-0.jsonl"))
    assert "is not there" in str(found(run)[0])
    assert "is asked for by no setting" in str(found(run)[-1])


def test_questions_that_are_gone_are_missed(run):
    (file,) = run.glob("questions-*.jsonl")
    file.unlink()
    assert (only(run).file, only(run).what[:12]) == (file, "is not there")


def test_a_run_that_a_stranger_made_whole_is_looked_into(run):
    """The fingerprint fits the identity, and the rows the fingerprint."""

    def change(content):
        content["identity"]["data"]["sha256"] = "../../elsewhere"
        identity = records.canonical(content["identity"])
        content["fingerprint"] = hashlib.sha256(identity).hexdigest()

    rewrite(run / SETTING / "run.json", change)
    lines = "\n".join(map(str, found(run)))
    assert "is a row of another run" in lines
    assert "identity.data.sha256" in lines


def test_an_unfinished_setting_is_a_finding(run):
    (run / SETTING / "SEALED").unlink()
    assert "the setting is not finished" in str(found(run)[0])


def test_nothing_that_a_folder_holds_is_a_traceback(run):
    """Files of nonsense, folders in their place, and no files."""
    deep = b"[" * 100_000
    huge = b'{"rows": ' + b"9" * 5000 + b"}"
    nonsense = (b"", b"\xff\xfe\x00", b"null\n", b"{}\n", b'"\\ud800"', b"NaN", deep, huge)
    checked = 0
    for file in sorted(file for file in run.rglob("*") if file.is_file()):
        content = file.read_bytes()
        for other in nonsense:
            file.write_bytes(other)
            if file.name != "flags.txt" or other:  # an empty one is another tool's
                assert found(run), (file, other)
            checked += 1
        file.unlink()
        assert file.name == "results.json" or found(run)
        file.mkdir()
        assert found(run)
        file.rmdir()
        file.write_bytes(content)
    assert checked > 100
    assert found(run) == []


def test_a_folder_without_a_run_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="holds no setting of a run"):
            found(folder)


def test_the_program_prints_a_line_per_finding_and_what_it_checked(run, capsys):
    assert verify.check([str(run)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        rf"{run}: all agrees; 4 settings, \d+ files, \d+ rows, \d+ numbers .*", line
    )
    rewrite(run / "none" / "run.json", lambda c: c["identity"].update(dtype="\x1b[2J"))
    rewrite(run / "results.json", lambda c: c["settings"][0].update(setting="\x1b[2J\n"))
    assert verify.check([str(run), str(run)]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len({*lines})
    assert all(line.isprintable() for line in lines)


def test_the_program_ends_with_its_code(finished, run, command):
    file = shard(run)
    content = bytearray(file.read_bytes())
    content[7] ^= 1
    file.write_bytes(content)
    code, out, err = command(run.parent, str(finished), str(run), program="verify")
    assert (code, err) == (3, "")
    first, second, third = out.splitlines()
    assert first.startswith(f"{finished}: all agrees")
    assert second.startswith(f"{file}: line 1 ({key_at(bytes(content), 0)}), byte 7 is damaged")
    assert third.startswith(f"{run}: 1 findings")
    code, out, err = command(run.parent, "nowhere", program="verify")
    assert (code, out) == (2, "")
    assert "nowhere holds no setting of a run" in err
    code, out, err = command(run.parent, program="verify")
    assert (code, out) == (1, "")
    assert "run folders" in err
