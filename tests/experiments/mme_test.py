"""MME's readers: the original files, the broken ones, the hub's tables, the scenes."""

import collections
import json
import re
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from experiments.harness.benchmark import SCENES, YES_NO, Request
from experiments.harness.errors import InputError
from experiments.mme import BENCHMARK, LABELS, SPLITS
from experiments.reading import opening
from experiments.scoring import Answer
from llava_jax import images, prompts

RELEASE = "MME_Benchmark_release_version"


def load(data, **request):
    return opening.load(BENCHMARK, Request(data=str(data), **request))


def raw_rows(root):
    """Return {(subtask, file's stem, number): (question, answer)}."""
    rows = {}
    for file in root.glob("**/*.txt"):
        subtask = file.relative_to(root).parts[0]
        for number, line in enumerate(file.read_text().strip().split("\n")):
            rows[subtask, file.stem, number] = tuple(line.split("\t"))
    return rows


def write(folder, text, subtask="count", name="1"):
    """Write the questions of a picture, which is not there."""
    (folder / subtask).mkdir(exist_ok=True)
    (folder / subtask / f"{name}.txt").write_text(text)
    return folder


@pytest.fixture
def table(fixtures_dir):
    """The hub's rows, as (pyarrow schema, list)."""
    (file,) = (fixtures_dir / "hf" / "MME" / "data").glob("*.parquet")
    content = pyarrow.parquet.read_table(file)
    return content.schema, content.to_pylist()


def write_hub(folder, schema, rows):
    (folder / "data").mkdir()
    content = pyarrow.Table.from_pylist(rows, schema)
    pyarrow.parquet.write_table(content, folder / "data" / "test-00000-of-00001.parquet")
    return folder


@pytest.mark.golden
def test_raw_files(fixtures_dir, opened):
    root = fixtures_dir / "raw" / "mme" / RELEASE
    dataset, want = opened(load(root)), raw_rows(root)
    assert len(dataset.examples) == len(want)
    for example in dataset.examples:
        group, number = example.key.split("#")
        picture = root / group
        question, answer = want.pop((example.split, picture.stem, int(number)))
        assert picture.is_file()
        assert example.image == example.group == group
        assert example.user_text.startswith(question.split("  ")[0].split(" Please")[0])
        assert example.choices == YES_NO
        assert LABELS[example.label] == example.right == answer.lower()
    assert not want
    met = list(dict.fromkeys(example.split for example in dataset.examples))
    assert met == [split for split in SPLITS if split in met]


@pytest.mark.golden
def test_the_folder_above_the_release_does_too(fixtures_dir):
    above = load(fixtures_dir / "raw" / "mme")
    assert above.examples == load(fixtures_dir / "raw" / "mme" / RELEASE).examples
    assert above.digest()


@pytest.mark.golden
@pytest.mark.parametrize("style", ["llava", "lmms"])
@pytest.mark.parametrize("layout", ["raw/mme", "hf/MME"])
def test_user_texts_equal_the_peers(fixtures_dir, style, layout):
    rows = json.loads((fixtures_dir / "golden" / "prompts.json").read_text())
    want = {row["key"]: row[f"{style}_user"] for row in rows if row["benchmark"] == "mme"}
    dataset = load(fixtures_dir / layout, prompt_style=style)
    got = {example.key: example.user_text for example in dataset.examples}
    assert want
    assert {key: got[key] for key in want} == want


@pytest.mark.golden
def test_golden_answers_score_as_the_peers(fixtures_dir):
    golden = json.loads((fixtures_dir / "golden" / "scores_mme.json").read_text())
    said = collections.defaultdict(list)
    for row in golden["examples"]:
        said[row["question_id"]].append(row["prediction"])
    found = BENCHMARK.score(
        [
            Answer(e.key, said[e.group].pop(0), e.right, e.split, group=e.group)
            for e in load(fixtures_dir / "raw" / "mme").examples
        ]
    )
    for name in ("perception", "cognition", "total"):
        assert found["official"][name] == pytest.approx(golden["official"][name])
    for name, value in golden["lmms_eval"]["subtasks"].items():
        assert found["lmms_eval"][f"{name}.score"] == pytest.approx(value)


@pytest.mark.golden
def test_hub_tables_equal_the_raw_files(fixtures_dir, opened):
    raw = {example.key: example for example in load(fixtures_dir / "raw" / "mme").examples}
    pictures, hub = load(fixtures_dir / "raw" / "mme"), opened(load(fixtures_dir / "hf" / "MME"))
    assert {example.key for example in hub.examples} == set(raw)
    for ours in hub.examples:
        theirs = raw[ours.key]
        named = {name: value for name, value in vars(theirs).items() if name != "image"}
        assert {name: vars(ours)[name] for name in named} == named
        got, want = hub.read_image(ours.image), pictures.read_image(theirs.image)
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want))


@pytest.mark.golden
def test_a_folder_that_is_no_subtask_is_left_out(fixtures_dir, tmp_path, caplog):
    shutil.copytree(fixtures_dir / "raw" / "mme" / RELEASE, tmp_path / RELEASE)
    want = load(tmp_path).examples
    assert "left out" not in caplog.text
    write(tmp_path / RELEASE, "Is it?\tYes\nIs it not?\tNo\n", "sports")
    write(tmp_path / RELEASE, "Is it?\tYes\nIs it not?\tNo\n", ".hidden")
    write(tmp_path / RELEASE, "\0\n", name=".hidden")
    assert load(tmp_path).examples == want
    assert "sports is none of" in caplog.text
    assert "hidden" not in caplog.text


@pytest.mark.golden
def test_a_subtask_that_is_not_there_is_said(fixtures_dir, tmp_path, caplog):
    shutil.copytree(fixtures_dir / "raw" / "mme" / RELEASE, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "scene")
    assert {example.split for example in load(tmp_path).examples} == set(SPLITS) - {"scene"}
    assert "no folder scene" in caplog.text


def test_missing_files_are_named(tmp_path):
    with pytest.raises(InputError, match="existence"):
        load(tmp_path)
    (tmp_path / "count").mkdir()
    with pytest.raises(InputError, match=r"count has no \*\.txt"):
        load(tmp_path)
    dataset = load(write(tmp_path, "Is it?\tYes\nIs it not?\tNo"))
    with pytest.raises(InputError, match=r"picture count/1\.jpg is not in"):
        dataset.digest()
    with pytest.raises(InputError, match="existence"):
        load(tmp_path / "count" / "1.txt")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "count/1.jpg has 0 questions"),
        ("A?\tYes\nB?\tNo\nC?\tNo\n", "count/1.jpg has 3 questions"),
        ("A?\tYes\nB?\tmaybe\n", "1.txt line 2: answer 'maybe'"),
        ("A?\tYes\n\nB? No\n", "1.txt line 3 has no tab"),
    ],
)
def test_malformed_texts_are_named(tmp_path, text, said):
    with pytest.raises(InputError, match=re.escape(said)):
        load(write(tmp_path, text))


def test_only_the_last_tab_parts_question_and_answer(tmp_path):
    first, _ = load(write(tmp_path, "A\tor B?\tYes\nC?\tNo\n")).examples
    assert (first.user_text, first.right) == ("A\tor B?" + prompts.SHORT_ANSWER, "yes")


def test_splits_are_the_subtasks_perception_first():
    assert len(SPLITS) == len(set(SPLITS)) == 14
    assert SPLITS[0] == "existence"
    assert SPLITS[9:11] == ("OCR", "commonsense_reasoning")


def test_line_ends_and_cases_do_not_matter(tmp_path):
    text = "\ufeffA? Please answer yes or no.\tYES \r\n\r\nB\u2028? Please answer yes or no.\tno"
    first, second = load(write(tmp_path, text, name="a.b")).examples
    assert first.user_text == "A?" + prompts.SHORT_ANSWER
    assert second.user_text == "B\u2028?" + prompts.SHORT_ANSWER
    assert (first.right, second.right) == LABELS
    assert first.key == "count/a.b.jpg#0"


@pytest.mark.golden
def test_malformed_tables_are_named(table, tmp_path):
    schema, rows = table
    (tmp_path / "odd").mkdir()
    with pytest.raises(InputError, match=re.escape(f"{rows[0]['question_id']} has 1 questions")):
        load(write_hub(tmp_path / "odd", schema, rows[1:]))
    (tmp_path / "label").mkdir()
    wrong = [*rows[:2], rows[2] | {"answer": "maybe"}, *rows[3:]]
    with pytest.raises(InputError, match="row 2: answer 'maybe'"):
        load(write_hub(tmp_path / "label", schema, wrong))


@pytest.mark.golden
def test_rows_of_no_subtask_are_left_out(table, tmp_path, caplog):
    schema, rows = table
    name = rows[0]["category"]
    kept = [row["question_id"] for row in rows if row["category"] != name]
    rows = [row | {"category": "sports"} if row["category"] == name else row for row in rows]
    dataset = load(write_hub(tmp_path, schema, rows))
    assert [example.group for example in dataset.examples] == kept
    assert caplog.text.count("sports is none of") == 1


@pytest.mark.golden
def test_tables_turn_pictures_upright(table, fixtures_dir, tmp_path):
    schema, rows = table
    turned = fixtures_dir / "images" / "exif_orientation_6.jpg"
    cell = {"bytes": turned.read_bytes(), "path": turned.name}
    dataset = load(write_hub(tmp_path, schema, [row | {"image": cell} for row in rows]))
    (image,) = dataset.images
    assert dataset.read_image(image).size == images.read(turned).size[::-1]


def test_scenes_follow_the_protocol():
    dataset = load(SCENES, limit=BENCHMARK.scenes_limit)
    assert len(dataset.images) == BENCHMARK.scenes_limit
    assert len({example.key for example in dataset.examples}) == len(dataset.examples)
    groups = collections.defaultdict(list)
    for example in dataset.examples:
        groups[example.group].append(example)
    for first, second in groups.values():
        assert (first.label, second.label) == (0, 1)
        assert (first.split, first.image) == (second.split, second.image)
        assert first.user_text != second.user_text
        assert first.user_text.endswith("?" + prompts.SHORT_ANSWER)
    splits = {example.split for example in dataset.examples}
    assert splits == {"existence", "count", "position", "color"}
    assert load(SCENES, limit=2).digest() == dataset.first_images(2).digest()
    assert load(SCENES, limit=3).digest() != dataset.first_images(2).digest()
