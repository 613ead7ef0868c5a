"""Scorers against the peers' own numbers: every verdict and total of the golden files."""

import collections
import csv
import json
import sys

import pytest

from experiments.scoring import (
    Answer,
    evalai,
    gqa,
    mmbench,
    mme,
    pope,
    scienceqa,
    seed,
    textvqa,
)

pytestmark = pytest.mark.golden


def golden(fixtures_dir, name):
    return json.loads((fixtures_dir / "golden" / f"scores_{name}.json").read_text())


def raw(fixtures_dir, path):
    return json.loads((fixtures_dir / "raw" / path).read_text())


def close(want):
    """A golden number: sums of at most a hundred terms in another order differ by 1e-14."""
    return pytest.approx(want, rel=0, abs=1e-12)


def per_repetition(examples, answers):
    """Return the answers of each repetition; each row of the file has one."""
    found = collections.defaultdict(list)
    for row, answer in zip(examples, answers, strict=True):
        found[row["rep"]].append(answer)
    return found


def under(numbers, part):
    """Return the numbers of a part, without its name."""
    return {
        name.removeprefix(f"{part}."): value
        for name, value in numbers.items()
        if name.startswith(f"{part}.")
    }


def pope_answers(examples):
    return [
        Answer(
            f"{row['split']}/{row['question_id']}", row["prediction"], row["label"], row["split"]
        )
        for row in examples
    ]


def test_pope_verdicts(fixtures_dir):
    examples = golden(fixtures_dir, "pope")["examples"]
    assert examples
    for row, answer in zip(examples, pope_answers(examples), strict=True):
        text = row["prediction"]
        assert pope.llava_yes_no(text) == row["llava"]
        assert pope.lmms_eval_yes_no(text) == row["lmms"]
        assert pope.vlmevalkit_yes_no(text) == row["vlmeval"].lower()
        assert pope.correct(answer) == row["lmms_score"]


def test_pope_totals_llava(fixtures_dir):
    content = golden(fixtures_dir, "pope")
    answers = pope_answers(content["examples"])
    got, want = pope.score(answers)["llava"], content["llava"]
    for split, numbers in want["per_split"].items():
        counts = {name: numbers.pop(name) for name in ("TP", "FP", "TN", "FN")}
        assert under(got, split) == close(numbers)
        said = collections.Counter(
            (pope.llava_yes_no(a.text), a.right) for a in answers if a.split == split
        )
        kinds = (("yes", "yes"), ("yes", "no"), ("no", "no"), ("no", "yes"))
        assert [said[kind] for kind in kinds] == list(counts.values())
    assert got["mean_f1"] == close(want["mean_f1"])
    assert got["mean_accuracy"] == close(want["mean_accuracy"])


def test_pope_totals_lmms_eval(fixtures_dir):
    content = golden(fixtures_dir, "pope")
    got = pope.score(pope_answers(content["examples"]))["lmms_eval"]
    pooled = {name: value for name, value in got.items() if "." not in name}
    for split, want in content["lmms_eval"].items():
        want.pop("yes_ratio_of_LABELS")  # the peer's bug: left out
        assert (pooled if split == "overall" else under(got, split)) == close(want)


def test_pope_totals_vlmevalkit(fixtures_dir):
    content = golden(fixtures_dir, "pope")
    got = pope.score(pope_answers(content["examples"]))["vlmevalkit"]
    pooled = {name: value for name, value in got.items() if "." not in name}
    for split, want in content["vlmeval"].items():
        want["accuracy"] = want.pop("acc")
        assert (pooled if split == "Overall" else under(got, split)) == close(want)


def scienceqa_answers(examples, problems):
    return [
        Answer(
            row["pid"],
            row["prediction"],
            row["answer"],
            problems[row["pid"]]["split"],
            options=tuple(problems[row["pid"]]["choices"]),
        )
        for row in examples
    ]


def test_scienceqa_verdicts(fixtures_dir):
    examples = golden(fixtures_dir, "scienceqa")["examples"]
    answers = scienceqa_answers(examples, raw(fixtures_dir, "scienceqa/problems.json"))
    assert examples
    for row, answer in zip(examples, answers, strict=True):
        assert len(answer.options) == row["n_choices"]
        assert scienceqa.llava_index(answer.text, row["n_choices"]) == row["llava_index"]
        assert scienceqa.lmms_eval_match(answer.text, answer.right) == row["lmms"]
        assert scienceqa.correct(answer) == row["lmms"]


def test_scienceqa_totals(fixtures_dir):
    content = golden(fixtures_dir, "scienceqa")
    problems = raw(fixtures_dir, "scienceqa/problems.json")
    repetitions = per_repetition(
        content["examples"], scienceqa_answers(content["examples"], problems)
    )
    pictures = {row["pid"] for row in content["examples"] if row["has_image"]}
    for want in content["repetitions"]:
        answers = repetitions[want["rep"]]
        every = scienceqa.score(answers)
        shown = scienceqa.score([answer for answer in answers if answer.key in pictures])
        accuracy, image_accuracy = every["llava"]["accuracy"], shown["llava"]["accuracy"]
        assert accuracy == close(want["llava_acc"])
        assert image_accuracy == close(want["llava_img_acc"])
        assert every["lmms_eval"]["exact_match"] == close(want["lmms_full_exact_match"])
        assert shown["lmms_eval"]["exact_match"] == close(want["lmms_img_exact_match"])
        assert want["llava_stdout"].endswith(
            f"Accuracy: {accuracy:.2f}%, IMG-Accuracy: {image_accuracy:.2f}%"
        )


def mme_answers(examples):
    return [
        Answer(
            row["question"],
            row["prediction"],
            row["answer"].lower(),
            row["category"],
            group=row["question_id"],
        )
        for row in examples
    ]


def test_mme_verdicts(fixtures_dir):
    examples = golden(fixtures_dir, "mme")["examples"]
    assert examples
    for row, answer in zip(examples, mme_answers(examples), strict=True):
        assert mme.lmms_eval_yes_no(row["prediction"]) == row["lmms"]
        assert mme.vlmevalkit_yes_no(row["prediction"]) == row["vlmeval"].lower()
        assert mme.correct(answer) == (row["lmms"] == row["answer"].lower())


def test_mme_totals(fixtures_dir):
    content = golden(fixtures_dir, "mme")
    got = mme.score(mme_answers(content["examples"]))
    assert got["llava_jax"] == {"unpaired": 0}
    for tool in ("official", "lmms_eval"):
        want = content[tool]
        subtasks = want.pop("subtasks")
        assert {name: got[tool][name] for name in want} == close(want)
        assert {name: got[tool][f"{name}.score"] for name in subtasks} == close(subtasks)
    sums = {"perception", "reasoning"}
    vlmevalkit = got["vlmevalkit"]
    for name, want in content["vlmeval"].items():
        assert vlmevalkit[name if name in sums else f"{name}.score"] == close(want)


def mmbench_answers(fixtures_dir, examples):
    csv.field_size_limit(sys.maxsize)  # pictures are in the cells
    files = sorted((fixtures_dir / "raw" / "mmbench").glob("mmbench_dev_*.tsv"))
    rows = {}
    for file in files:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            rows |= {int(row["index"]): row for row in csv.DictReader(handle, delimiter="\t")}
    answers = []
    for example in examples:
        row = rows[example["index"]]
        assert row["answer"] == example["answer"]
        answers.append(
            Answer(
                row["index"],
                example["prediction"],
                row["answer"],
                row["l2-category"],
                row["category"],
                str(example["index"] % 1_000_000),
                tuple(row[letter] for letter in "ABCD" if row[letter]),
            )
        )
    return answers


def test_mmbench_verdicts(fixtures_dir):
    examples = golden(fixtures_dir, "mmbench")["examples"]
    assert examples
    for row, answer in zip(examples, mmbench_answers(fixtures_dir, examples), strict=True):
        lmms_eval = mmbench.lmms_eval_letter(answer.text, answer.options)
        assert lmms_eval == (row["lmms_prefetch"] or "")
        vlmevalkit = mmbench.vlmevalkit_letter(answer.text, answer.options)
        assert vlmevalkit == (row["vlmeval_prefetch"] or "")
        assert mmbench.correct(answer) == (row["lmms_prefetch"] == row["answer"])
        assert mmbench.vlmevalkit_correct(answer) == (row["vlmeval_prefetch"] == row["answer"])


def test_mmbench_totals(fixtures_dir):
    content = golden(fixtures_dir, "mmbench")
    repetitions = per_repetition(
        content["examples"], mmbench_answers(fixtures_dir, content["examples"])
    )
    for want in content["repetitions"]:
        answers = repetitions[want["rep"]]
        got = mmbench.score(answers)
        categories = want["lmms_category"] | want["lmms_l2"]
        assert got["lmms_eval"] == close(
            {f"{name}.circular": value for name, value in categories.items()}
            | {
                "circular": want["lmms_static_circular"],
                "vanilla": want["vanilla_base_rows"],
                "vanilla_all_rows": want["vanilla_all_rows"],
            }
        )
        assert got["vlmevalkit"] == close({"circular": want["vlmeval_circular"]})
        hits = mmbench.circular_hits(answers, mmbench.vlmevalkit_correct)
        assert hits == want["vlmeval_hits"]
        sizes = collections.Counter(collections.Counter(a.group for a in answers).values())
        assert got["llava_jax"] == {f"rotations.{size}": n for size, n in sizes.items()}


def textvqa_answers(fixtures_dir, examples):
    people = {
        row["question_id"]: tuple(row["answers"])
        for file in (fixtures_dir / "raw" / "textvqa").glob("*.json")
        for row in json.loads(file.read_text())["data"]
        if "answers" in row
    }
    return [
        Answer(
            str(row["question_id"]),
            row["prediction"],
            "",
            "val",
            references=people[row["question_id"]],
        )
        for row in examples
    ]


def test_textvqa_verdicts(fixtures_dir):
    examples = golden(fixtures_dir, "textvqa")["examples"]
    assert examples
    for row, answer in zip(examples, textvqa_answers(fixtures_dir, examples), strict=True):
        got = textvqa.llava_score(answer.text, answer.references)
        assert got == close(row["llava"])
        assert got == close(row["lmms"])
        vlmevalkit = textvqa.vlmevalkit_score(answer.text, answer.references)
        assert vlmevalkit == close(row["vlmeval"])
        assert textvqa.correct(answer) == (row["lmms"] >= 0.5)


def test_textvqa_totals(fixtures_dir):
    content = golden(fixtures_dir, "textvqa")
    got = textvqa.score(textvqa_answers(fixtures_dir, content["examples"]))
    assert got["llava"] == {"accuracy": close(content["llava_accuracy_percent"])}
    assert got["lmms_eval"] == {"exact_match": close(content["lmms_exact_match"])}
    assert got["vlmevalkit"] == {"accuracy": close(content["vlmeval_percent"])}


def test_answer_processors(fixtures_dir):
    table = golden(fixtures_dir, "textvqa")["answer_processor"]
    assert table
    for row in table:
        assert evalai.evalai_form(row["raw"]) == row["evalai"]
        assert evalai.vlmevalkit_form(row["raw"]) == row["vlmeval"]


def seed_answers(fixtures_dir, examples):
    content = raw(fixtures_dir, "seed_bench/SEED-Bench.json")
    types = {number: name for name, number in content["question_type"].items()}
    rows = {row["question_id"]: row for row in content["questions"]}
    answers = []
    for example in examples:
        row = rows[example["question_id"]]
        assert (row["answer"], row["data_type"]) == (example["answer"], example["data_type"])
        answers.append(
            Answer(
                row["question_id"],
                example["prediction"],
                row["answer"],
                row["data_type"],
                types[row["question_type_id"]],
                options=tuple(row[f"choice_{letter}"] for letter in "abcd"),
            )
        )
    return answers


def test_seed_verdicts(fixtures_dir):
    examples = golden(fixtures_dir, "seedbench")["examples"]
    assert examples
    for row, answer in zip(examples, seed_answers(fixtures_dir, examples), strict=True):
        assert seed.lmms_eval_letter(answer.text) == row["lmms_pred"]
        assert seed.llava_match(answer.text, answer.right) == row["llava_correct"]
        assert seed.correct(answer) == (row["lmms_pred"].upper() == row["answer"])


def test_seed_totals(fixtures_dir):
    content = golden(fixtures_dir, "seedbench")
    examples = content["examples"]
    repetitions = per_repetition(examples, seed_answers(fixtures_dir, examples))
    for want in content["repetitions"]:
        answers = repetitions[want["rep"]]
        rows = [row for row in examples if row["rep"] == want["rep"]]
        got = seed.score(answers)
        assert got["lmms_eval"] == close(want["lmms"])
        llava = got["llava"]
        assert {kind: llava[kind] for kind in want["llava_exact"]} == close(want["llava_exact"])
        assert llava["all"] == close(100 * sum(row["llava_correct"] for row in rows) / len(rows))
        kinds = collections.Counter(row["data_type"] for row in rows)
        assert {kind: llava[f"{kind}.n"] for kind in kinds} == kinds
        by_type = collections.defaultdict(list)
        for row, answer in zip(rows, answers, strict=True):
            by_type[answer.category].append(row["llava_correct"])
        # LLaVA's script has no numbers of the types: it stops at one without a right answer.
        for name, right in by_type.items():
            assert llava[f"{name}.accuracy"] == close(100 * sum(right) / len(right))


def gqa_answer(row, key=""):
    return Answer(key, row["prediction"], "", "testdev", references=(row["answer"],))


def test_gqa_verdicts(fixtures_dir):
    content = golden(fixtures_dir, "gqa")
    assert content["examples"]
    assert content["edge"]
    for row in content["examples"] + content["edge"]:
        numbers = gqa.score([gqa_answer(row)])
        assert gqa.correct(gqa_answer(row)) == row["lmms"]
        assert numbers["lmms_eval"]["exact_match"] == row["lmms"]
        assert numbers["llava"]["accuracy"] == 100 * row["llava"]
        if "vlmeval" in row:
            assert numbers["vlmevalkit"]["accuracy"] == 100 * row["vlmeval"]
        if "llava_prediction" in row:
            assert gqa.llava_prediction(row["prediction"]) == row["llava_prediction"]


def test_gqa_totals(fixtures_dir):
    content = golden(fixtures_dir, "gqa")
    questions = raw(fixtures_dir, "gqa/testdev_balanced_questions.json")
    for row in content["examples"]:
        assert questions[row["question_id"]]["answer"] == row["answer"]
    got = gqa.score([gqa_answer(row, row["question_id"]) for row in content["examples"]])
    assert got["llava"] == {"accuracy": close(content["llava_accuracy_percent"])}
    assert got["lmms_eval"] == {"exact_match": close(content["lmms_exact_match"])}
    assert got["vlmevalkit"] == {"accuracy": close(content["vlmeval_percent"])}


def test_every_file_is_compared(fixtures_dir):
    compared = {"pope", "scienceqa", "mme", "mmbench", "textvqa", "seedbench", "gqa"}
    files = {file.stem for file in (fixtures_dir / "golden").glob("scores_*.json")}
    assert files == {f"scores_{name}" for name in compared}
