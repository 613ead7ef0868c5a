"""TextVQA's readers: the original files, the broken ones, the hub's table, the embedded scenes."""

import json
import re
import shutil

import datasets
import numpy as np
import pytest

from experiments import scenes
from experiments.harness.benchmark import Request
from experiments.harness.errors import InputError
from experiments.reading import opening
from experiments.textvqa import BENCHMARK

QUESTIONS, WORDS = "TextVQA_0.5.1_val.json", "TextVQA_Rosetta_OCR_v0.2_val.json"
MODES = {"on": "textvqa_val+ocr", "off": "textvqa_val"}


def load(data, ocr=None, **request):
    own = {} if ocr is None else {"textvqa_ocr": ocr}
    return opening.load(BENCHMARK, Request(data=str(data), own=own, **request))


def listed(file):
    return json.loads(file.read_text())["data"]


@pytest.fixture
def copied(fixtures_dir, tmp_path):
    """A copy of the original files, to be changed."""
    return shutil.copytree(fixtures_dir / "raw" / "textvqa", tmp_path / "textvqa")


@pytest.mark.golden
def test_raw_files(fixtures_dir, opened):
    folder = fixtures_dir / "raw" / "textvqa"
    dataset = opened(load(folder))
    want = listed(folder / QUESTIONS)
    for example, row in zip(dataset.examples, want, strict=True):
        assert example.key == str(row["question_id"])
        assert example.references == tuple(row["answers"])
        assert example.image == f"{row['image_id']}.jpg"
        assert example.user_text.split("\n")[0].lower() == row["question"].lower()
        assert (example.split, example.choices, example.label) == ("val", (), None)
    assert opened(load(folder / QUESTIONS)).examples == dataset.examples


@pytest.mark.golden
@pytest.mark.parametrize("layout", ["raw/textvqa", "hf/textvqa"])
@pytest.mark.parametrize("style", ["llava", "lmms"])
@pytest.mark.parametrize("ocr", MODES)
def test_user_texts_equal_the_peers(fixtures_dir, ocr, style, layout):
    rows = json.loads((fixtures_dir / "golden" / "prompts.json").read_text())
    rows = {row["key"]: row for row in rows if row["benchmark"] == MODES[ocr]}
    dataset = load(fixtures_dir / layout, ocr, prompt_style=style)
    assert {example.key for example in dataset.examples} == set(rows)
    for example in dataset.examples:  # LLaVA was never asked without the words
        row = rows[example.key]
        assert example.user_text == (row[f"{style}_user"] or row["lmms_user"])
    assert load(fixtures_dir / layout).examples == load(fixtures_dir / layout, "on").examples


@pytest.mark.golden
@pytest.mark.parametrize("ocr", MODES)
def test_hub_table_equals_the_raw_files(fixtures_dir, ocr, opened):
    raw = opened(load(fixtures_dir / "raw" / "textvqa", ocr))
    hub = opened(load(fixtures_dir / "hf" / "textvqa", ocr))
    assert hub.examples == raw.examples
    for image in raw.images:
        got, want = hub.read_image(image), raw.read_image(image)
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want))


@pytest.mark.golden
def test_words_are_needed_only_if_they_are_shown(copied, opened):
    (copied / WORDS).unlink()
    with pytest.raises(InputError, match=rf"{re.escape(WORDS)}; --textvqa_ocr=off"):
        load(copied)
    assert opened(load(copied, "off")).examples


@pytest.mark.golden
def test_a_picture_without_words_is_warned_of(copied, caplog):
    rows = listed(copied / WORDS)
    absent = rows.pop()["image_id"]
    (copied / WORDS).write_text(json.dumps({"data": rows}))
    with caplog.at_level("WARNING"):
        dataset = load(copied)
    assert f"lacks 1 pictures, such as {absent}" in caplog.text
    for example in dataset.examples:
        empty = "\nReference OCR token: \n" in example.user_text
        words = {row["image_id"]: row["ocr_tokens"] for row in rows}
        assert empty == (not words.get(example.image.removesuffix(".jpg")))


@pytest.mark.golden
def test_rows_that_cannot_be_asked(copied, opened):
    content = json.loads((copied / QUESTIONS).read_text())
    first, second = content["data"][:2]

    def refused(rows, match):
        (copied / QUESTIONS).write_text(json.dumps(content | {"data": rows}))
        with pytest.raises(InputError, match=match):
            load(copied)

    refused([first, second, first], f"question {first['question_id']} occurs 2 times")
    refused([first, {**second, "answers": "0123456789"}], f"{second['question_id']}: 0 answers")
    refused([first, {**second, "answers": second["answers"] * 2}], "20 answers, not 10")
    refused([first, {"question_id": 1}], "row 2 lacks image_id, question")
    refused(["a question"], "row 1 is not an object")
    refused([], "no questions")
    refused({}, "no list called data")
    shutil.rmtree(copied / "train_images")
    (copied / QUESTIONS).write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"question {first['question_id']}.*train_images"):
        opened(load(copied))


@pytest.mark.golden
def test_rows_of_the_hub_that_cannot_be_asked(fixtures_dir, tmp_path):
    folder = shutil.copytree(fixtures_dir / "hf" / "textvqa", tmp_path / "textvqa")
    file = next(folder.glob("data/*.parquet"))
    rows = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))
    rows.remove_columns("ocr_tokens").to_parquet(str(file))
    with pytest.raises(InputError, match="lacks the column ocr_tokens"):
        load(folder)
    assert load(folder, "off").examples
    rows.select([0, 0]).to_parquet(str(file))
    with pytest.raises(InputError, match=f"question {rows['question_id'][0]} occurs 2 times"):
        load(folder)


@pytest.mark.parametrize("ocr", MODES)
def test_scenes_hang_a_sign_into_each_picture(ocr):
    dataset = load("scenes", ocr, limit=60)
    assert len(dataset.images) == len(dataset.examples) == 60
    world = scenes.world("test")
    for index, example in enumerate(dataset.examples):
        hung = scenes.sign(world, index)
        want = scenes.with_sign(scenes.scene(world, index).image, hung)
        np.testing.assert_array_equal(np.asarray(dataset.read_image(example.image)), want)
        assert example.references == (hung.word.lower(),) * 10
        assert ("\nReference OCR token: \n" in example.user_text) == (ocr == "on")
        assert hung.word.lower() not in example.user_text.lower()
        assert (example.split, example.label) == ("val", None)
    assert load("scenes", ocr, limit=2).digest() == dataset.first_images(2).digest()
    assert load("scenes", ocr, limit=3).digest() != dataset.first_images(2).digest()
