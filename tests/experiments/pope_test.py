"""POPE's readers: the original files, the broken ones, the embedded scenes."""

import json

import pytest

from experiments import pope
from experiments.harness.benchmark import Request
from experiments.harness.errors import InputError
from experiments.reading import opening
from llava_jax import prompts


def load(data):
    return opening.load(pope.BENCHMARK, Request(data=str(data)))


@pytest.mark.golden
def test_raw_files(fixtures_dir, opened):
    dataset = opened(load(fixtures_dir / "raw" / "pope"))
    want = {}
    for split in pope.SPLITS:
        text = (fixtures_dir / "raw" / "pope" / "coco" / f"coco_pope_{split}.json").read_text()
        for row in map(json.loads, text.splitlines()):
            want[f"{split}/{row['question_id']}"] = row
    assert {example.key for example in dataset.examples} == set(want)
    for example in dataset.examples:
        row = want[example.key]
        assert pope.LABELS[example.label] == row["label"]
        assert example.image == row["image"]
        assert example.user_text == row["text"] + prompts.SHORT_ANSWER


@pytest.mark.golden
def test_user_texts_equal_llava(fixtures_dir):
    want = {
        row["key"]: row["llava_user"]
        for row in json.loads((fixtures_dir / "golden" / "prompts.json").read_text())
        if row["benchmark"] == "pope"
    }
    got = {e.key: e.user_text for e in load(fixtures_dir / "raw" / "pope").examples}
    assert want
    assert {key: got[key] for key in want} == want


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="coco_pope"):
        load(tmp_path)
    (tmp_path / "coco").mkdir()
    row = {"question_id": 1, "image": "a.jpg", "text": "Is there a cat?", "label": "yes"}
    (tmp_path / "coco" / "coco_pope_random.json").write_text(json.dumps(row))
    with pytest.raises(InputError, match="val2014"):
        load(tmp_path).digest()


def test_scenes_follow_the_protocol():
    dataset = load("scenes").first_images(60)
    assert len(dataset.images) == 60
    assert len(dataset.examples) == 60 * 18
    for split in pope.SPLITS:
        labels = [e.label for e in dataset.examples if e.split == split]
        assert labels == [0, 1] * 180
    positives = [
        {(e.image, e.user_text) for e in dataset.examples if e.split == split and e.label == 0}
        for split in pope.SPLITS
    ]
    assert positives[0] == positives[1] == positives[2]
    assert load("scenes").first_images(2).digest() == dataset.first_images(2).digest()
    assert load("scenes").first_images(3).digest() != dataset.first_images(2).digest()
