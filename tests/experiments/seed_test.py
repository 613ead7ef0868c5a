"""SEED-Bench's readers: the original file, the broken ones, the hub's table, the scenes."""

import collections
import json
import shutil

import datasets
import numpy as np
import pytest
from PIL import Image

from experiments.harness.benchmark import Request
from experiments.harness.errors import InputError
from experiments.reading import opening
from experiments.seed import BENCHMARK, TYPES

FILE = "SEED-Bench.json"
FRAMES = ("first", "middle")


def load(data, frame=None, **request):
    own = {} if frame is None else {"seed_frame": frame}
    return opening.load(BENCHMARK, Request(data=str(data), own=own, **request))


def pixels(dataset):
    return {image: np.asarray(dataset.read_image(image)) for image in dataset.images}


@pytest.fixture
def copied(fixtures_dir, tmp_path):
    """A copy of the original files, to be changed."""
    return shutil.copytree(fixtures_dir / "raw" / "seed_bench", tmp_path / "seed_bench")


@pytest.mark.golden
def test_raw_file(fixtures_dir, opened):
    folder = fixtures_dir / "raw" / "seed_bench"
    dataset = opened(load(folder))
    content = json.loads((folder / FILE).read_text())
    llava = map(json.loads, (folder / "llava-seed-bench.jsonl").read_text().splitlines())
    both = zip(content["questions"], llava, strict=True)
    for example, (row, peer) in zip(dataset.examples, both, strict=True):
        assert example.key == row["question_id"] == str(peer["question_id"])
        assert example.right == row["answer"]
        assert example.choices == (("A",), ("B",), ("C",), ("D",))
        assert example.options == tuple(row[f"choice_{letter}"] for letter in "abcd")
        assert example.split == row["data_type"]
        assert content["question_type"][example.category] == row["question_type_id"]
        assert (example.image, example.category) == (peer["image"], peer["category"])
        assert example.user_text == peer["text"]
        assert example.group == ""
    assert {example.split for example in dataset.examples} == {"image", "video"}
    assert {name: number for number, name in enumerate(TYPES, 1)} == content["question_type"]
    assert opened(load(folder / FILE)).examples == dataset.examples


@pytest.mark.golden
@pytest.mark.parametrize("options", ["valid", "abcd"])
@pytest.mark.parametrize("style", ["llava", "lmms"])
@pytest.mark.parametrize("layout", ["raw/seed_bench", "hf/SEED-Bench"])
def test_user_texts_equal_the_peers(fixtures_dir, layout, style, options):
    rows = json.loads((fixtures_dir / "golden" / "prompts.json").read_text())
    want = {row["key"]: row[f"{style}_user"] for row in rows if row["benchmark"] == "seedbench"}
    dataset = load(fixtures_dir / layout, prompt_style=style, options=options)
    assert {example.key: example.user_text for example in dataset.examples} == want


@pytest.mark.golden
@pytest.mark.parametrize("frame", [None, "auto", *FRAMES])
def test_hub_table_equals_the_raw_file(fixtures_dir, frame, opened):
    raw = opened(load(fixtures_dir / "raw" / "seed_bench"))
    hub = opened(load(fixtures_dir / "hf" / "SEED-Bench", frame))
    assert hub.examples == raw.examples
    want = pixels(raw)
    for image, got in pixels(hub).items():  # the fixture's frames are all the same
        np.testing.assert_array_equal(got, want[image])


@pytest.fixture
def films(fixtures_dir, tmp_path):
    """The hub's layout with eight frames that differ, each of its number's grey."""
    folder = shutil.copytree(fixtures_dir / "hf" / "SEED-Bench", tmp_path / "SEED-Bench")
    file = next(folder.glob("data/*.parquet"))
    rows = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))

    def film(row):
        if len(row["image"]) > 1:
            row["image"] = [Image.new("RGB", (4, 4), (10 * n,) * 3) for n in range(8)]
        return row

    rows.map(film, keep_in_memory=True).to_parquet(str(file))
    return folder


@pytest.mark.golden
@pytest.mark.parametrize(("frame", "grey"), [(None, 0), ("auto", 0), ("first", 0), ("middle", 40)])
def test_frames_of_the_hub(films, frame, grey, opened):
    dataset = opened(load(films, frame))
    videos = {example.image for example in dataset.examples if example.split == "video"}
    assert videos
    assert {x.max() for image, x in pixels(dataset).items() if image in videos} == {grey}
    assert (load(films).digest() == dataset.digest()) == (grey == 0)


@pytest.mark.golden
def test_the_original_layout_has_middle_frames_only(copied):
    assert load(copied, "middle").examples == load(copied).examples == load(copied, "auto").examples
    with pytest.raises(InputError, match=r"--seed_frame=first: .*middle frames only"):
        load(copied, "first")
    content = json.loads((copied / FILE).read_text())
    content["questions"] = [row for row in content["questions"] if row["data_type"] == "image"]
    (copied / FILE).write_text(json.dumps(content))
    assert load(copied, "first").examples == load(copied).examples


@pytest.mark.golden
def test_rows_that_cannot_be_asked(copied, opened):
    content = json.loads((copied / FILE).read_text())
    first, second = content["questions"][:2]
    name = second["question_id"]

    def refused(match, *rows, **other):
        (copied / FILE).write_text(json.dumps(content | {"questions": rows} | other))
        with pytest.raises(InputError, match=match):
            load(copied)

    refused(f"question {first['question_id']} occurs 2 times", first, second, first)
    for answer in ("", "AB", "E", 2):
        refused(f"question_id {name}: answer", first, {**second, "answer": answer})
    refused(f"question_id {name}: data_type 'sound'", first, {**second, "data_type": "sound"})
    refused(f"question_id {name}.*\\[\\]", first, {**second, "question_type_id": []})
    refused("row 2 lacks data_id", first, {k: v for k, v in second.items() if k != "data_id"})
    refused("row 1 is not an object", "a question")
    refused("no questions")
    refused("questions is not a list", questions={})
    refused("question_type not an object", first, question_type=[])
    refused("outside", {**first, "data_id": "../../secret"})
    (copied / FILE).write_text(json.dumps({"questions": [first]}))
    with pytest.raises(InputError, match="lacks question_type"):
        load(copied)
    (copied / FILE).write_text(json.dumps(content))
    shutil.rmtree(copied / "SEED-Bench-video-image")
    with pytest.raises(InputError, match=r"question v\d+: picture SEED-Bench-video-image/\d+_v\d+"):
        opened(load(copied))


@pytest.mark.golden
def test_rows_of_the_hub_that_cannot_be_asked(fixtures_dir, tmp_path):
    folder = shutil.copytree(fixtures_dir / "hf" / "SEED-Bench", tmp_path / "SEED-Bench")
    file = next(folder.glob("data/*.parquet"))
    rows = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))
    name = rows["question_id"][0]
    rows.select([0, 1, 0]).to_parquet(str(file))
    with pytest.raises(InputError, match=f"question {name} occurs 2 times"):
        load(folder)
    odd = rows.map(lambda row: {"question_type_id": 77}, keep_in_memory=True)
    odd.to_parquet(str(file))
    with pytest.raises(InputError, match=f"question_id {name}: question_type_id 77"):
        load(folder)


def test_scenes_are_in_seeds_form():
    dataset = load("scenes", limit=60)
    assert len(dataset.images) == 60
    assert len({example.key for example in dataset.examples}) == len(dataset.examples)
    assert {example.split for example in dataset.examples} == {"image"}
    assert {example.category for example in dataset.examples} == set(TYPES[:5])
    for example in dataset.examples:
        assert example.right in "ABCD"[: len(example.options)]
        assert len(example.choices) == len(example.options) <= 4
        for letter, option in zip("ABCD", example.options, strict=False):
            assert f"\n{letter}. {option}\n" in example.user_text
    rights = collections.Counter(example.right for example in dataset.examples)
    assert min(rights[letter] for letter in "ABCD") > len(dataset.examples) // 8
    assert load("scenes", limit=2).digest() == dataset.first_images(2).digest()
    assert load("scenes", limit=3).digest() != dataset.first_images(2).digest()
