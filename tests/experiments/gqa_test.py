"""GQA's readers: the original file, the broken one, the hub's tables, the embedded scenes."""

import collections
import json
import re
import shutil

import datasets
import numpy as np
import pytest

from experiments.gqa import BENCHMARK
from experiments.harness.benchmark import Request
from experiments.harness.errors import InputError
from experiments.reading import opening
from llava_jax import images


def load(data, **request):
    return opening.load(BENCHMARK, Request(data=str(data), **request))


def raw_rows(fixtures_dir):
    return json.loads(
        (fixtures_dir / "raw" / "gqa" / "testdev_balanced_questions.json").read_text()
    )


def write_rows(folder, rows):
    folder.mkdir(exist_ok=True)
    (folder / "testdev_balanced_questions.json").write_text(json.dumps(rows))
    return folder


@pytest.mark.golden
def test_raw_file(fixtures_dir, opened):
    dataset = opened(load(fixtures_dir / "raw" / "gqa"))
    want = raw_rows(fixtures_dir)
    assert [example.key for example in dataset.examples] == list(want)
    for example in dataset.examples:
        row = want[example.key]
        assert example.references == (row["answer"],)
        assert example.image == f"{row['imageId']}.jpg"
        assert example.user_text.split("\n")[0] == row["question"]
        assert (example.choices, example.label, example.right) == ((), None, "")
        assert example.split == row["types"]["structural"]


@pytest.mark.golden
@pytest.mark.parametrize("style", ["llava", "lmms"])
def test_user_texts_equal_the_peers(fixtures_dir, style):
    rows = json.loads((fixtures_dir / "golden" / "prompts.json").read_text())
    want = {row["key"]: row[f"{style}_user"] for row in rows if row["benchmark"] == "gqa"}
    dataset = load(fixtures_dir / "raw" / "gqa", prompt_style=style)
    assert {example.key: example.user_text for example in dataset.examples} == want


@pytest.mark.golden
def test_hub_tables_equal_the_raw_file(fixtures_dir, opened):
    raw = opened(load(fixtures_dir / "raw" / "gqa"))
    hub = opened(load(fixtures_dir / "hf" / "GQA"))
    assert hub.examples == raw.examples
    for image in raw.images:
        got, want = hub.read_image(image), raw.read_image(image)
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want))
    assert load(fixtures_dir / "hf" / "GQA", limit=1).images == raw.images[:1]


@pytest.mark.golden
def test_a_picture_that_the_hub_lacks(fixtures_dir, tmp_path):
    folder = shutil.copytree(fixtures_dir / "hf" / "GQA", tmp_path / "GQA")
    file = next(folder.glob("testdev_balanced_images/*.parquet"))
    rows = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))
    absent = rows["id"][0]
    rows.select(range(1, len(rows))).to_parquet(str(file))
    dataset = load(folder)
    first = next(example for example in dataset.examples if absent in example.image)
    with pytest.raises(InputError, match=rf"question {first.key}: picture {absent}\.jpg"):
        dataset.digest()
    dataset.digest(allow_missing=True)
    for example in dataset.examples:
        if absent in example.image:
            with pytest.raises(images.ImageError, match=re.escape(example.image)):
                dataset.read_image(example.image)
        else:
            dataset.read_image(example.image)


@pytest.mark.golden
def test_types_that_gqa_does_not_have(fixtures_dir, tmp_path):
    rows = raw_rows(fixtures_dir)
    for row, types in zip(rows.values(), [None, {}, {"structural": "riddle"}, 7], strict=False):
        row["types"] = types
    dataset = load(write_rows(tmp_path, rows))
    assert [example.split for example in dataset.examples[:4]] == ["other"] * 4
    assert "other" not in {example.split for example in dataset.examples[4:]}


@pytest.mark.golden
def test_rows_that_cannot_be_asked(fixtures_dir, tmp_path):
    rows = raw_rows(fixtures_dir)
    key = list(rows)[1]
    del rows[key]["answer"]
    with pytest.raises(InputError, match=f"question {key} lacks answer"):
        load(write_rows(tmp_path, rows))
    rows[key] = "What color is it?"
    with pytest.raises(InputError, match=f"question {key} is not an object"):
        load(write_rows(tmp_path, rows))
    with pytest.raises(InputError, match="no questions"):
        load(write_rows(tmp_path, {}))
    with pytest.raises(InputError, match="does not hold an object"):
        load(write_rows(tmp_path, []))
    with pytest.raises(InputError, match=r"testdev_balanced_questions\.json cannot be read"):
        load(fixtures_dir / "raw")


@pytest.mark.golden
def test_a_question_that_the_hub_has_twice(fixtures_dir, tmp_path):
    folder = shutil.copytree(fixtures_dir / "hf" / "GQA", tmp_path / "GQA")
    file = next(folder.glob("testdev_balanced_instructions/*.parquet"))
    rows = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))
    rows.select([0, 1, 0]).to_parquet(str(file))
    with pytest.raises(InputError, match=f"question {rows['id'][0]} occurs 2 times"):
        load(folder)


def test_scenes_are_in_gqas_form():
    dataset = load("scenes", limit=60)
    assert len(dataset.images) == 60
    assert len({example.key for example in dataset.examples}) == len(dataset.examples)
    by_split = collections.defaultdict(list)
    for example in dataset.examples:
        by_split[example.split].append(example)
        assert example.label is None
        assert example.user_text.endswith("using a single word or phrase.")
    assert set(by_split) == {"query", "verify"}
    verified = collections.Counter(example.references for example in by_split["verify"])
    assert set(verified) == {("yes",), ("no",)}
    assert min(verified.values()) > 0.4 * len(by_split["verify"])
    assert not {("yes",), ("no",)} & {example.references for example in by_split["query"]}
    fewer = dataset.first_images(2)
    assert load("scenes", limit=2).digest() == fewer.digest()
    assert load("scenes", limit=3).digest() != fewer.digest()
