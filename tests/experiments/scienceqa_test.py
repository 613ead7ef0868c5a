"""ScienceQA's readers: the original files, the broken ones, the hub's tables, the scenes."""

import json
import re

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from experiments.harness.benchmark import LETTERS, SCENES, Request, letters
from experiments.harness.errors import InputError
from experiments.reading import opening
from experiments.scienceqa import BENCHMARK, OTHER, SPLITS
from experiments.scoring import Answer
from llava_jax import images


def load(data, **request):
    return opening.load(BENCHMARK, Request(data=str(data), **request))


def raw_rows(folder):
    """Return the test problems that have a picture, by pid."""
    problems = json.loads((folder / "problems.json").read_text())
    pids = json.loads((folder / "pid_splits.json").read_text())["test"]
    return {pid: problems[pid] for pid in pids if problems[pid]["image"]}


def write(folder, problems, pids=None):
    """Write question files without pictures."""
    (folder / "problems.json").write_text(json.dumps(problems))
    pids = list(problems) if pids is None else pids
    (folder / "pid_splits.json").write_text(json.dumps({"test": pids}))
    return folder


@pytest.fixture
def row(fixtures_dir):
    return next(iter(raw_rows(fixtures_dir / "raw" / "scienceqa").values()))


@pytest.mark.golden
def test_raw_files(fixtures_dir, opened):
    folder = fixtures_dir / "raw" / "scienceqa"
    dataset, want = opened(load(folder)), raw_rows(folder)
    assert [example.key for example in dataset.examples] == list(want)
    for example in dataset.examples:
        row = want[example.key]
        assert example.image == f"{example.key}/{row['image']}"
        assert example.options == tuple(row["choices"])
        assert example.choices == letters(len(row["choices"]))
        assert example.label == row["answer"]
        assert example.right == LETTERS[row["answer"]]
        assert (example.split, example.category) == (row["subject"], row["category"])
        assert example.group == ""
        assert example.user_text.startswith("Context: ") == bool(row["hint"])


@pytest.mark.golden
@pytest.mark.parametrize("style", ["llava", "lmms"])
def test_user_texts_equal_the_peers(fixtures_dir, style):
    rows = json.loads((fixtures_dir / "golden" / "prompts.json").read_text())
    want = {row["key"]: row[f"{style}_user"] for row in rows if row["benchmark"] == "scienceqa_img"}
    dataset = load(fixtures_dir / "raw" / "scienceqa", prompt_style=style)
    assert {example.key: example.user_text for example in dataset.examples} == want


@pytest.mark.golden
def test_golden_answers_score_as_the_peers(fixtures_dir):
    golden = json.loads((fixtures_dir / "golden" / "scores_scienceqa.json").read_text())
    dataset = load(fixtures_dir / "raw" / "scienceqa")
    for want in golden["repetitions"]:
        said = {r["pid"]: r["prediction"] for r in golden["examples"] if r["rep"] == want["rep"]}
        found = BENCHMARK.score(
            [
                Answer(e.key, said[e.key], e.right, e.split, options=e.options)
                for e in dataset.examples
            ]
        )
        assert found["llava"]["accuracy"] == pytest.approx(want["llava_img_acc"])
        assert found["lmms_eval"]["exact_match"] == pytest.approx(want["lmms_img_exact_match"])


@pytest.mark.golden
def test_hub_tables_equal_the_raw_files(fixtures_dir, opened):
    raw = opened(load(fixtures_dir / "raw" / "scienceqa"))
    hub = opened(load(fixtures_dir / "hf" / "ScienceQA"))
    assert [example.key for example in hub.examples] == [str(i) for i in range(len(raw.examples))]
    for ours, theirs in zip(hub.examples, raw.examples, strict=True):
        named = {
            name: value for name, value in vars(theirs).items() if name not in ("key", "image")
        }
        assert {name: vars(ours)[name] for name in named} == named
        got, want = hub.read_image(ours.image), raw.read_image(theirs.image)
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want))


@pytest.mark.golden
def test_hub_rows_without_a_picture_are_left_out(fixtures_dir, tmp_path, opened):
    (file,) = (fixtures_dir / "hf" / "ScienceQA" / "ScienceQA-FULL").glob("test-*.parquet")
    table = pyarrow.parquet.read_table(file)
    (tmp_path / "data").mkdir()  # a mirror with a single config and every question
    pyarrow.parquet.write_table(table, tmp_path / "data" / file.name)
    want = [str(i) for i, image in enumerate(table["image"].to_pylist()) if image]
    assert [example.key for example in opened(load(tmp_path)).examples] == want
    assert len(want) < len(table)


@pytest.mark.golden
def test_tables_turn_pictures_upright(fixtures_dir, tmp_path):
    (file,) = (fixtures_dir / "hf" / "ScienceQA" / "ScienceQA-IMG").glob("test-*.parquet")
    turned = fixtures_dir / "images" / "exif_orientation_6.jpg"
    cell = {"bytes": turned.read_bytes(), "path": turned.name}
    table = pyarrow.parquet.read_table(file)
    rows = [row | {"image": cell} for row in table.to_pylist()]
    (tmp_path / "data").mkdir()
    table = pyarrow.Table.from_pylist(rows, table.schema)
    pyarrow.parquet.write_table(table, tmp_path / "data" / file.name)
    dataset = load(tmp_path)
    assert dataset.read_image(*dataset.images).size == images.read(turned).size[::-1]


@pytest.mark.golden
def test_abcd_counts_four_letters_whatever_is_offered(fixtures_dir):
    valid = load(fixtures_dir / "raw" / "scienceqa").examples
    four = load(fixtures_dir / "raw" / "scienceqa", options="abcd").examples
    assert {example.choices for example in four} == {letters(4)}
    assert any(example.label >= 4 for example in four)
    for mine, theirs in zip(four, valid, strict=True):
        assert (mine.label, mine.right, mine.options) == (
            theirs.label,
            theirs.right,
            theirs.options,
        )
        assert mine.user_text == theirs.user_text


def test_missing_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"problems\.json"):
        load(tmp_path)
    (tmp_path / "problems.json").write_text("{}")
    with pytest.raises(InputError, match=r"pid_splits\.json"):
        load(tmp_path)
    with pytest.raises(InputError, match=r"problems\.json"):
        load(tmp_path / "problems.json")
    write(tmp_path, {})
    with pytest.raises(InputError, match="has no questions"):
        load(tmp_path)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"choices": []}, "pid 5: 0 options"),
        ({"choices": "AB"}, "pid 5: choices 'AB' are not a list"),
        ({"choices": list("ABCDEFGHIJK")}, "pid 5: 11 options"),
        ({"answer": -1}, "pid 5: answer -1"),
        ({"answer": None}, "pid 5 lacks answer"),
        ({"answer": True}, "pid 5: answer True"),
        ({"answer": "yes"}, "pid 5: answer 'yes'"),
    ],
)
def test_malformed_problems_are_named(row, tmp_path, change, said):
    with pytest.raises(InputError, match=re.escape(said)):
        load(write(tmp_path, {"5": row | change}))


@pytest.mark.golden
def test_malformed_splits_are_named(row, tmp_path):
    with pytest.raises(InputError, match="question 5 occurs 2 times"):
        load(write(tmp_path, {"5": row}, ["5", "5"]))
    with pytest.raises(InputError, match="test is not a list"):
        load(write(tmp_path, {"5": row}, "5"))
    with pytest.raises(InputError, match="pid 5 lacks choices"):
        load(write(tmp_path, {"5": {k: v for k, v in row.items() if k != "choices"}}))
    (tmp_path / "pid_splits.json").write_text("{}")
    with pytest.raises(InputError, match=r"pid_splits\.json lacks test"):
        load(tmp_path)


@pytest.mark.golden
def test_ten_options_and_unknown_subjects_are_read(row, tmp_path):
    row |= {"choices": list("0123456789"), "answer": 9, "subject": "alchemy"}
    (example,) = load(write(tmp_path, {"5": row}, [5])).examples
    assert (example.key, example.right, example.split) == ("5", "J", OTHER)
    assert example.choices == letters(10)


def test_scenes_follow_the_protocol():
    limit = BENCHMARK.scenes_limit
    dataset = load(SCENES, limit=limit)
    assert len(dataset.images) == len(dataset.examples) == limit
    assert len({example.key for example in dataset.examples}) == limit
    assert {example.split for example in dataset.examples} <= set(SPLITS)
    assert {len(example.choices) for example in dataset.examples} == {2, 3, 4, 5}
    for example in dataset.examples:
        assert example.choices == letters(len(example.options))
        assert 0 <= example.label < len(example.options)
        assert f"\n{example.right}. {example.options[example.label]}\n" in example.user_text
    assert set(range(5)) == {example.label for example in dataset.examples}
    assert load(SCENES, limit=2).digest() == dataset.first_images(2).digest()
    assert load(SCENES, limit=3).digest() != dataset.first_images(2).digest()
    assert {e.choices for e in load(SCENES, limit=9, options="abcd").examples} == {letters(4)}
