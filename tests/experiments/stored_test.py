"""Stored answers: matched with the questions, and scored as the tools score them."""

import json
import subprocess
import sys

import pytest

from experiments import mmbench, mme, pope, scienceqa, seed
from experiments.harness import stored
from experiments.harness.benchmark import YES_NO, Example, Request
from experiments.harness.errors import InputError
from experiments.reading import opening

CASES = {
    "pope": (pope, "pope", ("llava", "mean_f1"), ("llava", "mean_f1")),
    "scienceqa": (scienceqa, "scienceqa", ("llava_img_acc",), ("llava", "accuracy")),
    "mme": (mme, "mme", ("official", "total"), ("official", "total")),
    "mmbench": (mmbench, "mmbench", ("lmms_static_circular",), ("lmms_eval", "circular")),
    "seedbench": (seed, "seed_bench", ("lmms", "seed_all"), ("lmms_eval", "seed_all")),
}
"""Scores file → benchmark, raw folder, where a tool's number is in it, where ours is. Those of
TextVQA and GQA have several answers of a question, which a file of answers cannot hold."""


def example(key, image="a.jpg"):
    return Example(key, image, "Is it?", YES_NO, 0, "s")


def write(folder, *rows):
    file = folder / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def repetitions(content, known):
    """Return (answers, totals) of each set of predictions in a scores file."""
    for totals in content.get("repetitions", [content]):
        rows = [e for e in content["examples"] if e.get("rep", 0) == totals.get("rep", 0)]
        answers = [
            {"text": row["prediction"], **{name: row[name] for name in ("split",) if name in row}}
            | {"question_id": row.get("question_id", row.get("pid", row.get("index")))}
            for row in rows
        ]
        yield [row for row in answers if named(row) in known], totals


def named(row):
    name = str(row["question_id"])
    return f"{row['split']}/{name}" if "split" in row else name


@pytest.mark.golden
@pytest.mark.parametrize("name", CASES)
def test_scores_of_stored_predictions_equal_the_tools(fixtures_dir, tmp_path, name):
    module, folder, theirs, ours = CASES[name]
    dataset = opening.load(module.BENCHMARK, Request(data=str(fixtures_dir / "raw" / folder)))
    known = {part for e in dataset.examples for part in (e.key, e.key.partition("#")[0])}
    content = json.loads((fixtures_dir / "golden" / f"scores_{name}.json").read_text())
    checked = 0
    for answers, totals in repetitions(content, known):
        found = stored.read(write(tmp_path, *answers), dataset.examples)
        for part in theirs:
            totals = totals[part]
        tool, number = ours
        assert module.BENCHMARK.score(found)[tool][number] == pytest.approx(totals, abs=1e-12)
        checked += 1
    assert checked


def test_answers_find_their_questions_in_any_order(tmp_path):
    asked = [example("x/1"), example("y/1"), example("p.jpg#0"), example("p.jpg#1")]
    rows = [
        {"question_id": "p.jpg", "text": "first"},
        {"question_id": 1, "split": "y", "text": "other"},
        {"question_id": "p.jpg", "text": "second"},
        {"key": "x/1", "text": ""},
    ]
    found = stored.read(write(tmp_path, *rows), asked)
    assert [(answer.key, answer.text) for answer in found] == [
        ("x/1", ""),
        ("y/1", "other"),
        ("p.jpg#0", "first"),
        ("p.jpg#1", "second"),
    ]
    assert stored.read(write(tmp_path, rows[1]), asked)[0].right == "yes"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no answers"),
        ([{"key": "a"}], "line 1 lacks text"),
        ([{"text": "yes"}], "line 1 has neither key nor question_id"),
        ([{"key": "b", "text": "yes"}], "line 1: no question 'b'"),
        ([{"key": "a", "text": "yes"}] * 2, "line 2: no question 'a' is left"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        stored.read(write(tmp_path, *rows), [example("a")])


def test_one_question_has_one_answer_whatever_it_is_called(tmp_path):
    rows = [{"key": "p.jpg#0", "text": "a"}, {"question_id": "p.jpg", "text": "b"}]
    with pytest.raises(InputError, match=r"question p\.jpg#0 has an answer already"):
        stored.read(write(tmp_path, *rows), [example("p.jpg#0"), example("p.jpg#1")])


@pytest.mark.golden
def test_the_command_prints_the_tools_numbers(fixtures_dir, tmp_path):
    content = json.loads((fixtures_dir / "golden" / "scores_mme.json").read_text())
    rows = [{"question_id": e["question_id"], "text": e["prediction"]} for e in content["examples"]]
    data = fixtures_dir / "raw" / "mme"
    file = write(tmp_path, *rows)
    command = [sys.executable, "-m", "experiments.mme", f"--data={data}", f"--predictions={file}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for number in ("perception", "cognition", "total"):
        assert f"{content['official'][number]:.4g}" in done.stdout
    refused = subprocess.run([*command[:-1], "--predictions=/none"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("refused: /none cannot be read")
