"""Logs that inspect, lm-eval and HELM wrote: their own numbers again, and every kind of damage."""

import contextlib
import json
import math
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest

from experiments import calibrate, logs
from experiments.harness.errors import InputError, UsageError
from experiments.logs import archive

HERE = pathlib.Path(__file__).parents[1] / "logs"
INSPECT, LM_EVAL, HELM = HERE / "inspect", HERE / "lm_eval", HERE / "helm"
FLOAT32 = 1e-6  # relative: a value rounded once to float32, with room for one sum
UNREAD, UNLISTED = 11, 7  # samples of the inspect logs, see their script


def samples_file(task):
    (file,) = LM_EVAL.glob(f"samples_{task}_*.jsonl")
    return file


def chosen(rows):
    """Return int[E], the answers that count."""
    return np.argmax(rows.log_masses, axis=1) if rows.prediction is None else rows.prediction


def correct(rows):
    return chosen(rows) == rows.label


def assert_same_evidence(one, other):
    for name in ("log_masses", "valid", "label", "prediction", "answer_log_mass", "group"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize("spec", ["x.eval", "vlm:x", "csv:", ":x", "CSV:x", ""])
def test_an_unknown_format_is_a_mistake_of_usage(spec):
    with pytest.raises(UsageError, match="inspect:PATH, lmeval:PATH, helm:PATH, csv:PATH"):
        logs.read(spec)


# inspect


@pytest.fixture
def letter():
    """The log in the JSON format, as Python values."""
    return json.loads((INSPECT / "letter.json").read_text())


@pytest.fixture
def zstandard():
    return pytest.importorskip("zstandard")


def read_changed(log, tmp_path):
    file = tmp_path / "changed.json"
    file.write_text(json.dumps(log))
    return logs.read(f"inspect:{file}")


def test_letters_are_summed_over_their_spellings(letter):
    rows = logs.read(f"inspect:{INSPECT / 'letter.json'}")
    assert rows.key[:2] == ("q00/1", "q01/1")
    assert (rows.split, rows.splits) == (None, ())
    for i, sample in enumerate(letter["samples"]):
        (token,) = sample["output"]["choices"][0]["logprobs"]["content"]
        masses = dict.fromkeys("ABCD"[: len(sample["choices"])], 0.0)
        for entry in token["top_logprobs"]:
            if (spelled := entry["token"].lstrip("▁ ").upper()) in masses:
                masses[spelled] += math.exp(entry["logprob"])
        known = [j for j, mass in enumerate(masses.values()) if mass]
        assert (i == UNLISTED) == (len(known) < len(masses))
        expected = np.log(np.array(list(masses.values()))[known])
        np.testing.assert_allclose(rows.log_masses[i, known], expected, rtol=FLOAT32)
        total = math.log(sum(masses.values()))
        np.testing.assert_allclose(rows.answer_log_mass[i], total, rtol=FLOAT32)
        np.testing.assert_array_equal(rows.valid[i], np.arange(4) < len(masses))
        assert rows.label[i] == "ABCD".index(sample["target"])


def test_a_letter_not_listed_has_the_least_listed_probability(letter, caplog):
    rows = logs.read(f"inspect:{INSPECT / 'letter.json'}")
    (token,) = letter["samples"][UNLISTED]["output"]["choices"][0]["logprobs"]["content"]
    least = min(entry["logprob"] for entry in token["top_logprobs"])
    assert np.sum(np.isclose(rows.log_masses[UNLISTED], least, rtol=FLOAT32)) == 1
    assert "letters that no listed token spells: 1;" in caplog.text
    assert "took no letter from: 1;" in caplog.text


def test_a_token_beyond_the_listed_ones_is_known_if_it_was_written(letter, tmp_path):
    before = logs.read(f"inspect:{INSPECT / 'letter.json'}")
    (token,) = letter["samples"][0]["output"]["choices"][0]["logprobs"]["content"]
    wrote = token["token"]
    token["top_logprobs"] = [entry for entry in token["top_logprobs"] if entry["token"] != wrote]
    after = read_changed(letter, tmp_path)
    np.testing.assert_allclose(after.log_masses[0], before.log_masses[0], rtol=FLOAT32)


@pytest.mark.parametrize(
    "before", ["ANSWER:", "An ANSWER: B, no, Answer : **", "Sure▁ANSWER|:|Ġ|("]
)
def test_the_letter_may_follow_a_call_for_it(letter, tmp_path, before):
    expected = logs.read(f"inspect:{INSPECT / 'letter.json'}")
    other = {"token": " C", "logprob": -0.1}  # listed, and not for the answer
    for sample in letter["samples"]:
        content = sample["output"]["choices"][0]["logprobs"]["content"]
        texts = before.split("|") if "|" in before else before.split(" ")
        content[:0] = [
            {"token": f"{text} ", "logprob": -1, "top_logprobs": [other]} for text in texts
        ]
        content.append({"token": ")", "logprob": -1, "top_logprobs": [other]})
    assert_same_evidence(read_changed(letter, tmp_path), expected)


def test_answers_are_those_that_inspect_scored(letter):
    rows = logs.read(f"inspect:{INSPECT / 'letter.json'}")
    right = [sample["scores"]["match"]["value"] == "C" for sample in letter["samples"]]
    read = np.arange(len(right)) != UNREAD
    np.testing.assert_array_equal(correct(rows)[read], np.array(right)[read])
    (metrics,) = (score["metrics"] for score in letter["results"]["scores"])
    assert sum(right) / len(right) == pytest.approx(metrics["accuracy"]["value"])
    assert chosen(rows)[UNREAD] == np.argmax(rows.log_masses[UNREAD])
    assert np.any(chosen(rows) != np.argmax(rows.log_masses, axis=1))  # some are not the likeliest


def test_json_and_deflate_hold_the_same_evidence():
    found = [logs.read(f"inspect:{INSPECT / name}") for name in ("letter.json", "deflated.eval")]
    assert_same_evidence(*found)


def test_zstandard_holds_the_same_evidence_as_deflate(zstandard):
    rows = logs.read(f"inspect:{INSPECT / 'stock.eval'}")
    deflated = logs.read(f"inspect:{INSPECT / 'deflated.eval'}")
    size = len(deflated.key)
    np.testing.assert_array_equal(rows.log_masses[:size], deflated.log_masses)
    assert rows.key[:size] == deflated.key
    ((_, header),) = archive.members(INSPECT / "stock.eval", "header.json")
    reported = json.loads(header)["results"]["scores"][0]["metrics"]["accuracy"]["value"]
    read = np.arange(len(rows.key)) != UNREAD
    assert np.sum(correct(rows) & read) == pytest.approx(reported * len(rows.key))


def test_a_stored_archive_is_read(zstandard, tmp_path):
    stored = tmp_path / "stored.eval"
    with zipfile.ZipFile(stored, "w") as copy:
        for name, content in archive.members(INSPECT / "stock.eval", ""):
            copy.writestr(name, content)
    found = [logs.read(f"inspect:{file}") for file in (stored, INSPECT / "stock.eval")]
    assert_same_evidence(*found)


def test_without_the_module_zstandard_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(InputError, match=r"stock\.eval: .*pip install zstandard"):
        logs.read(f"inspect:{INSPECT / 'stock.eval'}")


def test_confidences_noted_by_a_scorer(zstandard):
    rows = logs.read(f"inspect:{INSPECT / 'verbalised.eval'}")
    found = dict(archive.members(INSPECT / "verbalised.eval", ""))
    parts = [json.loads(text) for name, text in found.items() if name.startswith("samples/")]
    for i, sample in enumerate(parts):
        score = sample["scores"]["verbalised"]
        assert rows.key[i] == f"{sample['id']}/{sample['epoch']}"
        sure = np.exp(np.float64(rows.log_masses[i, 0]))
        assert sure == pytest.approx(score["metadata"]["confidence"], rel=FLOAT32)
        assert correct(rows)[i] == (score["value"] == "C")
    metrics = json.loads(found["header.json"])["results"]["scores"][0]["metrics"]
    assert correct(rows).mean() == pytest.approx(metrics["accuracy"]["value"])
    assert len(set(rows.group)) == 15  # two epochs of each are resampled together
    pairs = zip(rows.key, rows.group, strict=True)
    assert len({(key.split("/")[0], group) for key, group in pairs}) == 15


def test_epochs_of_a_sample_are_resampled_together(letter, tmp_path):
    letter["samples"] += [sample | {"epoch": 2} for sample in letter["samples"]]
    rows = read_changed(letter, tmp_path)
    np.testing.assert_array_equal(rows.group, np.tile(np.arange(12), 2))
    assert rows.key[12] == "q00/2"


def test_samples_that_ended_in_an_error_are_left_out(letter, tmp_path, caplog):
    letter["samples"][3] |= {"error": {"message": "out of memory"}, "output": {"choices": []}}
    rows = read_changed(letter, tmp_path)
    assert len(rows.key) == 11
    assert "q03/1" not in rows.key
    assert "ended in an error, left out: 1" in caplog.text


def change(sample, *path, to):
    for step in path[:-1]:
        sample = sample[step]
    sample[path[-1]] = to


CHOICE = ("output", "choices", 0)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("target",), "E", "sample q00: target 'E' is not one of A, B, C"),
        (("target",), ["A", "B"], r"target \['A', 'B'\] is not one of"),
        (("scores", "match", "answer"), "C", "A was written and C scored"),
        (("scores", "match", "value"), "C", "A was scored as right; target B"),
        (("scores", "match", "value"), 0.5, r"score is 0\.5; 1 \(right\) or 0 \(wrong\)"),
        ((*CHOICE, "logprobs"), None, "sample q00: no logprobs, other samples have them"),
        ((*CHOICE, "logprobs", "content", 0, "token"), 3, "TypeError|AttributeError"),
        (
            (*CHOICE, "logprobs", "content", 0),
            {"token": "Yes", "logprob": -0.1, "top_logprobs": [{"token": "No", "logprob": -3}]},
            "one of A, B, C but 'No', 'Yes'; a single letter",
        ),
        ((*CHOICE, "logprobs", "content", 0, "logprob"), -0.1, None),
        (
            (*CHOICE, "logprobs", "content", 0, "top_logprobs", 0, "logprob"),
            math.nan,
            "logprob is nan; a finite number",
        ),
        (("choices",), ["the only one"], "1 choices"),
        (("output",), None, "sample q00: not a sample as inspect writes it"),
    ],
)
def test_a_sample_that_cannot_be_used_is_named(letter, tmp_path, path, value, said):
    change(letter["samples"][0], *path, to=value)
    if said is None:
        assert len(read_changed(letter, tmp_path).key) == 12
    else:
        with pytest.raises(InputError, match=said):
            read_changed(letter, tmp_path)


def test_neither_probabilities_nor_a_confidence(letter, tmp_path):
    for sample in letter["samples"]:
        change(sample, *CHOICE, "logprobs", to=None)
    with pytest.raises(InputError, match=r"sample q00: neither logprobs .* nor a confidence"):
        read_changed(letter, tmp_path)


def test_minus_infinity_is_no_probability(letter, tmp_path, caplog):
    (token,) = letter["samples"][0]["output"]["choices"][0]["logprobs"]["content"]
    token["top_logprobs"].append({"token": "Q", "logprob": -math.inf})
    rows = read_changed(letter, tmp_path)
    assert np.isfinite(rows.log_masses[rows.valid]).all()


@pytest.mark.parametrize("name", ["deflated.eval", "stock.eval"])
def test_a_damaged_archive_is_refused(name, tmp_path, zstandard):
    content, file = (INSPECT / name).read_bytes(), tmp_path / "log.eval"
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"log\.eval, directory: damaged zip archive"):
        logs.read(f"inspect:{file}")
    middle = content.index(b"samples/q04") + 200
    file.write_bytes(content[:middle] + b"\0\1\2\3" + content[middle + 4 :])
    with pytest.raises(InputError, match=r"log\.eval, samples/q04_epoch_1\.json: damaged"):
        logs.read(f"inspect:{file}")


@pytest.mark.parametrize("name", ["deflated.eval", "stock.eval"])
def test_a_member_that_is_not_the_one_written_is_refused(name, tmp_path, zstandard):
    with zipfile.ZipFile(INSPECT / name) as whole:
        crc = whole.getinfo("samples/q04_epoch_1.json").CRC
    content, file = (INSPECT / name).read_bytes(), tmp_path / "log.eval"
    file.write_bytes(content.replace(struct.pack("<L", crc), struct.pack("<L", crc ^ 1)))
    with pytest.raises(InputError, match=r"samples/q04_epoch_1\.json: damaged .*CRC"):
        logs.read(f"inspect:{file}")


def test_a_member_of_several_frames_after_an_extra_field(tmp_path, zstandard):
    halves = (b"one half and " * 99, b"the other" * 99)
    frames, content = b"".join(map(zstandard.compress, halves)), b"".join(halves)
    file, info = tmp_path / "x.zip", zipfile.ZipInfo("samples/x.json")
    info.extra = struct.pack("<HH", 0x9999, 3) + b"xyz"
    with zipfile.ZipFile(file, "w") as stored:
        stored.writestr(info, frames)
    # in both headers: method, time, CRC and the two sizes
    fields, midnight = struct.Struct("<HLLLL"), 0x21 << 16
    stored = fields.pack(0, midnight, zlib.crc32(frames), len(frames), len(frames))
    packed = fields.pack(93, midnight, zlib.crc32(content), len(frames), len(content))
    assert file.read_bytes().count(stored) == 2
    file.write_bytes(file.read_bytes().replace(stored, packed))
    assert list(archive.members(file, "samples/")) == [("samples/x.json", content)]


def places(value, path=()):
    """Yield the path to every value inside a structure."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for step, inner in items:
        yield (*path, step)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, step))


def assert_read_or_refused(spec):
    """Read a log that may be damaged: nothing but InputError is raised."""
    with contextlib.suppress(InputError):
        rows = logs.read(spec)
        everyone = np.arange(len(rows.key))
        assert rows.valid[everyone, chosen(rows)].all()
        assert rows.valid[everyone, rows.label].all()


WRONG = (None, "", "x", -1, 1e300, True, [], {}, [None], {"a": 1})


def test_no_damage_of_an_inspect_sample_is_a_traceback(letter, tmp_path):
    file = tmp_path / "log.json"
    text = json.dumps(letter["samples"][0])
    for path in places(json.loads(text)):
        for value in WRONG:
            sample = json.loads(text)
            change(sample, *path, to=value)
            file.write_text(json.dumps({"samples": [sample, letter["samples"][1]]}))
            assert_read_or_refused(f"inspect:{file}")
    for content in ('{"samples": 3}', "[]", '{"samples": [3]}', '{"samples": []}', "{", "\xff"):
        file.write_bytes(content.encode("latin-1"))
        with pytest.raises(InputError, match=r"log\.json"):
            logs.read(f"inspect:{file}")


# lm-eval


@pytest.mark.parametrize("task", ["shapes_index", "shapes_text"])
def test_a_task_has_the_accuracy_of_lm_eval(task):
    rows = logs.read(f"lmeval:{samples_file(task)}")
    samples = [json.loads(line) for line in samples_file(task).read_text().splitlines()]
    np.testing.assert_array_equal(correct(rows), [sample["acc"] == 1 for sample in samples])
    reported = json.loads((LM_EVAL / "results.json").read_text())[task]["acc,none"]
    assert correct(rows).mean() == pytest.approx(reported)
    np.testing.assert_array_equal(rows.label, [sample["doc"]["index"] for sample in samples])
    for row, offered, sample in zip(rows.log_masses, rows.valid, samples, strict=True):
        size = len(sample["doc"]["options"])
        np.testing.assert_array_equal(offered, np.arange(4) < size)
        sums = np.array([float(pair[0]) for pair in sample["filtered_resps"][:size]])
        np.testing.assert_allclose(row[:size], sums - sums.max(), rtol=FLOAT32)


def test_a_folder_has_a_split_per_task_and_a_group_per_document(caplog):
    rows = logs.read(f"lmeval:{LM_EVAL}")
    assert rows.splits == ("shapes_index", "shapes_text")
    np.testing.assert_array_equal(rows.split, np.repeat([0, 1], 12))
    np.testing.assert_array_equal(rows.group, np.tile(np.arange(12), 2))
    assert rows.key[12] == "shapes_text/0"
    assert "shapes_spoken" in caplog.text  # generated text
    with pytest.raises(InputError, match="no rows"):
        logs.read(f"lmeval:{samples_file('shapes_spoken')}")


def test_what_float32_would_tie_stays_apart(tmp_path):
    def worse(sample):
        sample["filtered_resps"] = [["-5000.00001", "False"], ["-5000.0", "False"]]
        sample |= {"target": "1", "acc": 1.0}

    rows = logs.read(f"lmeval:{changed_samples(tmp_path, worse)}")
    assert correct(rows)[0]
    assert rows.log_masses[0, 0] < rows.log_masses[0, 1]


def changed_samples(tmp_path, *changes, name="samples_changed.jsonl"):
    """Write the index task with its first samples changed."""
    lines = samples_file("shapes_index").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    for function, sample in zip(changes, samples, strict=False):
        function(sample)
    file = tmp_path / name
    file.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return file


def test_a_target_may_be_a_letter(tmp_path):
    def spell(sample):
        sample["target"] = "ABCD"[int(sample["target"])]

    rows = logs.read(f"lmeval:{changed_samples(tmp_path, *[spell] * 12)}")
    expected = logs.read(f"lmeval:{samples_file('shapes_index')}")
    np.testing.assert_array_equal(rows.label, expected.label)


def test_the_first_filter_counts(tmp_path):
    file = samples_file("shapes_index")
    again = file.read_text().replace('"filter": "none"', '"filter": "other"')
    both = tmp_path / file.name
    both.write_text(file.read_text() + again)
    assert len(logs.read(f"lmeval:{both}").key) == 12


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("acc", 0.0, r"doc_id 0: acc is 0\.0, but choice 0 is the likeliest and 0 the target"),
        ("target", "7", "doc_id 0: target is '7'; the index of a choice, 0 to 2"),
        ("target", "a cube", "target 'a cube' is neither .* of 'a disc', 'a longish ring'"),
        ("target", "[0, 1]", "target '\\[0, 1\\]' is neither"),
        ("filtered_resps", [["-1", "False"]], "doc_id 0: 1 log-likelihood; one for each choice"),
        ("filtered_resps", [["nan", "x"], ["-1", "x"]], "log-likelihood is 'nan'; a finite"),
        ("filtered_resps", [["-inf", "x"], ["-1", "x"]], "log-likelihood is '-inf'; a finite"),
        ("filtered_resps", 3, "line 1|not samples as lm-eval"),
        ("doc_id", 1, "two rows are called"),
    ],
)
def test_a_sample_of_lm_eval_that_cannot_be_used_is_named(tmp_path, name, value, said):
    file = changed_samples(tmp_path, lambda sample: sample.update({name: value}))
    with pytest.raises(InputError, match=said):
        logs.read(f"lmeval:{file}")


def test_damaged_files_of_lm_eval(tmp_path):
    file = changed_samples(tmp_path, name="samples_a_2026-01-01T00-00-00.0.jsonl")
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"line \d+: damaged, not JSON"):
        logs.read(f"lmeval:{tmp_path}")
    file.write_text("[1, 2]\n")
    with pytest.raises(InputError, match=r"line 1: .* is not a JSON object"):
        logs.read(f"lmeval:{file}")
    shutil.copy(file, tmp_path / "samples_a_2026-01-02T00-00-00.0.jsonl")
    with pytest.raises(InputError, match="of the same task; name one"):
        logs.read(f"lmeval:{tmp_path}")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="no samples_"):
        logs.read(f"lmeval:{empty}")


def test_no_damage_of_a_sample_of_lm_eval_is_a_traceback(tmp_path):
    lines = samples_file("shapes_text").read_text().splitlines()
    file = tmp_path / "samples_x.jsonl"
    for path in places(json.loads(lines[0])):
        for value in WRONG:
            sample = json.loads(lines[0])
            change(sample, *path, to=value)
            file.write_text(json.dumps(sample) + "\n" + lines[1])
            assert_read_or_refused(f"lmeval:{file}")


# HELM


def helm_entries():
    return json.loads((HELM / "per_instance_stats.json").read_text())


def set_stat(entry, name, value):
    for stat in entry["stats"]:
        if stat["name"]["name"] == name:
            stat["mean"] = value


def read_entries(entries, folder):
    folder.mkdir(exist_ok=True)
    (folder / "per_instance_stats.json").write_text(json.dumps(entries))
    return logs.read(f"helm:{folder}")


def mean_of_trials(rows, values):
    trials = np.array([int(key.split("/")[1]) for key in rows.key])
    return np.array([values[trials == trial].mean() for trial in np.unique(trials)])


def test_a_run_has_the_statistics_of_helm():
    rows = logs.read(f"helm:{HELM}")
    stats = json.loads((HELM / "stats.json").read_text())
    reported = {stat["name"]["name"]: stat["mean"] for stat in stats}
    confidence = mean_of_trials(rows, np.exp(rows.log_masses[:, 0].astype(float)))
    accuracy = mean_of_trials(rows, correct(rows))
    assert confidence.mean() == pytest.approx(reported["max_prob"], rel=FLOAT32)
    assert accuracy.mean() == pytest.approx(reported["exact_match"])
    one_bin = np.abs(confidence - accuracy).mean()
    assert one_bin == pytest.approx(reported["ece_1_bin"], rel=FLOAT32)
    assert (len(rows.key), len(set(rows.group))) == (10, 5)  # two trials of five instances


def test_perturbed_and_validation_instances_are_left_out(tmp_path):
    entries = helm_entries()
    perturbed = [entry | {"perturbation": {"name": "typos"}} for entry in helm_entries()]
    for entry in perturbed:
        set_stat(entry, "max_prob", 0.125)
    text = json.dumps(entries).replace('"split": "test"', '"split": "valid"')
    text = text.replace('"instance_id": "id', '"instance_id": "other')
    folder = tmp_path / "simple_mcqa:model=simple_model1"  # as HELM names a run
    rows = read_entries([*entries, *json.loads(text), *perturbed], folder)
    assert_same_evidence(rows, logs.read(f"helm:{HELM}"))


def test_a_tie_that_holds_the_right_answer_is_not_right(tmp_path):
    entries = helm_entries()
    set_stat(entries[0], "exact_match", 0.5)
    assert not correct(read_entries(entries, tmp_path))[0]


def test_damaged_runs_of_helm(tmp_path):
    with pytest.raises(InputError, match=r"no per_instance_stats\.json in it; the folder of a run"):
        logs.read(f"helm:{tmp_path}")
    entries = helm_entries()
    set_stat(entries[0], "max_prob", 1.5)
    with pytest.raises(InputError, match=r"id\d+, trial 0: max_prob is 1\.5; a probability"):
        read_entries(entries, tmp_path)
    entries[0]["stats"] = [s for s in entries[0]["stats"] if s["name"]["name"] != "max_prob"]
    with pytest.raises(InputError, match=r"id\d+, trial 0: no max_prob"):
        read_entries(entries, tmp_path)
    entries = helm_entries()
    for entry in entries:
        set_stat(entry, "max_prob", 1.0)
    with pytest.raises(InputError, match="every max_prob is 1: the model gave no log prob"):
        read_entries(entries, tmp_path)
    with pytest.raises(InputError, match="no rows"):
        read_entries([], tmp_path)
    (tmp_path / "per_instance_stats.json").write_text("[{")
    with pytest.raises(InputError, match="not JSON"):
        logs.read(f"helm:{tmp_path}")


def test_no_damage_of_an_entry_of_helm_is_a_traceback(tmp_path):
    first, second = helm_entries()[:2]
    wanted = ("max_prob", "exact_match")
    first["stats"] = [stat for stat in first["stats"] if stat["name"]["name"] in wanted]
    text = json.dumps(first)
    for path in places(first):
        for value in WRONG:
            entry = json.loads(text)
            change(entry, *path, to=value)
            (tmp_path / "per_instance_stats.json").write_text(json.dumps([entry, second]))
            assert_read_or_refused(f"helm:{tmp_path}")


# rows of one's own


def write(tmp_path, text, name="rows.csv"):
    file = tmp_path / name
    file.write_text(text)
    return file


def test_confidence_is_the_event_that_the_answer_was_right(tmp_path, caplog):
    file = write(
        tmp_path,
        "note,correct,confidence,id,group,split\n"
        "x,1,0.8,a,g,one\n"
        'y,false,0.3,b,h,"two, too"\n'
        "z,TRUE,1,c,g,one\n"
        "z,0,1.0,d,h,one\n"
        "z,1,0,e,h,one\n"
        "\n"
        "z,0,0.0,e,i,two\n",
    )
    rows = logs.read(f"csv:{file}")
    assert rows.key == ("one/a", "two, too/b", "one/c", "one/d", "one/e", "two/e")
    assert rows.splits == ("one", "two, too", "two")
    np.testing.assert_array_equal(rows.split, [0, 1, 0, 0, 0, 2])
    np.testing.assert_array_equal(rows.group, [0, 1, 0, 1, 1, 2])
    np.testing.assert_array_equal(rows.label, [0, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(rows.prediction, np.zeros(6))
    np.testing.assert_array_equal(rows.valid, [[1, 1], [1, 1], [1, 0], [1, 1], [1, 1], [1, 1]])
    below_one, tiny = 1 - 2.0**-24, 2.0**-126  # float32's largest below 1, least normal
    confidence = np.array([0.8, 0.3, 1, below_one, tiny, tiny])
    np.testing.assert_allclose(rows.log_masses[:, 0], np.log(confidence), rtol=FLOAT32)
    rest = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(rows.log_masses[rest, 1], np.log1p(-confidence[rest]), rtol=FLOAT32)
    assert np.isneginf(rows.log_masses[2, 1])
    assert "0 that are right: 2; an infinite loss" in caplog.text
    assert rows.answer_log_mass is None


def test_a_confidence_beyond_float32_is_not_clipped(tmp_path):
    file = write(tmp_path, "confidence,correct\n0.9999999999,0\n")
    rows = logs.read(f"csv:{file}")
    assert rows.log_masses[0, 1] == pytest.approx(math.log(1e-10), rel=1e-6)


def test_log_masses_of_choices(tmp_path):
    text = (
        "id,log_mass_0,log_mass_1,log_mass_2,label,prediction,answer_log_mass\n"
        "a,-1.5,-0.5,,1,,-0.1\n"
        "b,-1.5,-0.5,3,0,0,0\n"
    )
    file = write(tmp_path, "\ufeff" + text)  # as spreadsheets write it
    rows = logs.read(f"csv:{file}")
    np.testing.assert_array_equal(rows.log_masses, [[-1.5, -0.5, -np.inf], [-1.5, -0.5, 3]])
    np.testing.assert_array_equal(rows.valid, [[1, 1, 0], [1, 1, 1]])
    np.testing.assert_array_equal(rows.label, [1, 0])
    np.testing.assert_array_equal(rows.prediction, [1, 0])
    np.testing.assert_allclose(rows.answer_log_mass, [-0.1, 0], rtol=FLOAT32)
    np.testing.assert_array_equal(rows.group, [0, 1])
    assert (rows.split, rows.splits) == (None, ())


def test_json_lines_hold_what_csv_holds(tmp_path):
    text = "id,log_mass_0,log_mass_1,label,answer_log_mass\na,-1.5,-0.5,1,-0.5\nb,-1,,0,-0.1\n"
    table = logs.read(f"csv:{write(tmp_path, text)}")
    rows = [
        {"id": "a", "log_mass_0": -1.5, "log_mass_1": -0.5, "label": 1, "answer_log_mass": -0.5},
        {"id": "b", "log_mass_0": -1, "log_mass_1": None, "label": 0, "answer_log_mass": -0.1},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    found = logs.read(f"csv:{write(tmp_path, lines, 'rows.jsonl')}")
    assert found.key == table.key
    assert_same_evidence(found, table)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no rows"),
        ("confidence,correct\n", "no rows"),
        ("a,b\n1,2\n", "columns are a, b; either confidence and correct, or log_mass_0"),
        ("confidence,log_mass_0\n1,2\n", "either"),
        ("confidence,correct\n0.5,1\n85,1\n", "line 3: confidence is '85'; a probability"),
        ("confidence,correct\nnan,1\n", "line 2: confidence is 'nan'; a finite number"),
        ("confidence,correct\n,1\n", "line 2: confidence is None; a finite number"),
        ("confidence,correct\n0.5\n", r"line 2: correct is None; 1 \(right\) or 0 \(wrong\)"),
        ("confidence,correct\n0.5,maybe\n", r"correct is 'maybe'; 1 \(right\)"),
        ("confidence,correct\n0.5,1,1\n", "line 2: more cells than the header's 2"),
        ("confidence,correct,id\n0.5,1,a\n0.5,1,a\n", "two rows are called 'a'"),
        ("confidence,correct,split\n0.5,1,a\n0.5,1,\n", "line 3: split is empty"),
        ("confidence,correct\n\xff,1\n", "damaged: 'utf-8' codec"),
        ('confidence,correct\n0.5,1\n"0.5,1\n' + "x" * 200_000, "damaged: field larger"),
        ("log_mass_0,label\n-1,0\n", "columns are log_mass_0; log_mass_0, log_mass_1"),
        ("log_mass_0,log_mass_2,label\n-1,-1,0\n", "columns are log_mass_0, log_mass_2"),
        ("log_mass_0,log_mass_1,label\n-1,-1,2\n", "label is '2'; the index of a choice, 0 to 1"),
        ("log_mass_0,log_mass_1,label\n-1,-1,0.5\n", r"label is '0\.5'; the index of a choice"),
        ("log_mass_0,log_mass_1\n-1,-1\n", "line 2: label is None; a finite number"),
        ("log_mass_0,log_mass_1,label\n-1,,1\n", "label is '1', but log_mass_1 is empty"),
        ("log_mass_0,log_mass_1,label\n-1,-inf,0\n", "log_mass_1 is '-inf'; a finite number"),
        (
            "log_mass_0,log_mass_1,label,prediction\n-1,,0,1\n",
            "prediction is '1', but log_mass_1 is empty",
        ),
        (
            "log_mass_0,log_mass_1,label,answer_log_mass\n-1,-1,0,0.1\n",
            r"answer_log_mass is 0\.1; at most 0",
        ),
        (
            "id,log_mass_0,log_mass_1,label,answer_log_mass\na,-1,-1,0,0\nb,-1,-1,0,\n",
            "b has no answer_log_mass and others have",
        ),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path, text, said):
    file = tmp_path / "rows.csv"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=said):
        logs.read(f"csv:{file}")


# the command


def test_the_report_has_the_tool_s_numbers():
    entry = calibrate.evaluate(logs.read(f"helm:{HELM}"), "default")
    stats = json.loads((HELM / "stats.json").read_text())
    reported = {stat["name"]["name"]: stat["mean"] for stat in stats}
    metrics = {name: found["value"] for name, found in entry["metrics"].items()}
    assert metrics["accuracy"] == pytest.approx(reported["exact_match"], rel=FLOAT32)
    assert metrics["mean_confidence"] == pytest.approx(reported["max_prob"], rel=FLOAT32)
    assert metrics["answer_mass"] is None
    assert (entry["n"], entry["images"], entry["splits"]) == (10, 5, {})


def test_the_report_has_a_table_per_task():
    entry = calibrate.evaluate(logs.read(f"lmeval:{LM_EVAL}"), "paper")
    reported = json.loads((LM_EVAL / "results.json").read_text())
    assert list(entry["splits"]) == ["shapes_index", "shapes_text"]
    for task, found in entry["splits"].items():
        assert found["n"] == 12
        assert found["accuracy"]["value"] == pytest.approx(reported[task]["acc,none"], rel=FLOAT32)


def test_every_row_certain_and_right(tmp_path):
    file = write(tmp_path, "confidence,correct\n" + "1,1\n" * 6)
    metrics = calibrate.evaluate(logs.read(f"csv:{file}"), "default")["metrics"]
    assert metrics["accuracy"]["value"] == metrics["mean_confidence"]["value"] == 1
    assert metrics["nll"]["value"] == metrics["ece"]["value"] == 0


def run(*flags, cwd):
    return subprocess.run(
        [sys.executable, "-m", "experiments.calibrate", *flags],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
    )


def test_the_command_prints_the_tables_and_writes_the_numbers(tmp_path):
    done = run(f"--from=lmeval:{LM_EVAL}", "--json=report.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "24 rows in 12 groups; mode default: 95 % intervals by resampling groups" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines() if " acc %" in line] == [
        "all",
        "shapes_index",
        "shapes_text",
    ]
    report = json.loads((tmp_path / "report.json").read_text())
    accuracy = report["metrics"]["accuracy"]["value"]
    assert report["source"] == f"lmeval:{LM_EVAL}"
    assert f"{100 * accuracy:.1f}" in done.stdout
    assert "generated text" in done.stderr


@pytest.mark.parametrize(
    ("flags", "code", "named"),
    [
        (["--from=vlm:x"], 1, "usage: --from=vlm:x"),
        (["--from=csv:rows.csv", "--mode=other"], 1, "mode"),
        (["--from=csv:rows.csv", "extra"], 1, "unexpected argument 'extra'"),
        ([], 1, "from"),
        (["--from=csv:rows.csv"], 2, "rows.csv, line 2: confidence is '85'"),
        (["--from=helm:nowhere"], 2, "refused: nowhere"),
        (["--from=inspect:nowhere.eval"], 2, "nowhere.eval"),
    ],
)
def test_every_ending_is_a_code_and_a_line(tmp_path, flags, code, named):
    write(tmp_path, "confidence,correct\n85,1\n")
    done = run(*flags, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_inspect_samples_of_a_picture_are_resampled_together(tmp_path):
    confidence = {"confidence": 0.7}
    samples = [
        {
            "id": i,
            "epoch": 1,
            "target": "x",
            "scores": {"s": {"value": 1, "metadata": confidence}},
            "metadata": metadata,
        }
        for i, metadata in enumerate([{"image": "a"}, {"image": "b"}, {"image": "a"}, {}, None])
    ]
    file = tmp_path / "log.json"
    file.write_text(json.dumps({"version": 2, "samples": samples}))
    assert logs.read(f"inspect:{file}").group.tolist() == [0, 1, 0, 2, 3]
