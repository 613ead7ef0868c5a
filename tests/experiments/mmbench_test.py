"""MMBench's readers: the original files, the broken ones, the hub's tables, the scenes."""

import base64
import collections
import csv
import hashlib
import json
import re
import shutil
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from experiments.harness.benchmark import LETTERS, SCENES, Request, letters
from experiments.harness.errors import InputError
from experiments.mmbench import BENCHMARK, OTHER, SPLITS
from experiments.reading import opening
from experiments.scoring import Answer
from llava_jax import images


def load(data, **request):
    return opening.load(BENCHMARK, Request(data=str(data), **request))


def raw_rows(file):
    csv.field_size_limit(sys.maxsize)
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def write(file, rows):
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return file


@pytest.fixture
def file(fixtures_dir):
    """The file with every picture in base64."""
    (found,) = (fixtures_dir / "raw" / "mmbench").glob("mmbench_dev_*.tsv")
    return found


@pytest.mark.golden
def test_raw_file(file, opened):
    dataset, rows = opened(load(file)), raw_rows(file)
    assert dataset.source == str(file)
    assert [example.key for example in dataset.examples] == [row["index"] for row in rows]
    for example, row in zip(dataset.examples, rows, strict=True):
        content = base64.b64decode(row["image"])
        assert example.image == hashlib.sha256(content).hexdigest()[:16]
        assert dataset.image_digest(example.image) == hashlib.sha256(content).hexdigest()
        assert example.options == tuple(row[letter] for letter in "ABCD" if row[letter])
        assert example.choices == letters(len(example.options))
        assert example.right == LETTERS[example.label] == row["answer"]
        assert (example.split, example.category) == (row["l2-category"], row["category"])
        assert int(example.group) == int(row["index"]) % 1_000_000
    assert len(dataset.images) == len({example.group for example in dataset.examples})


@pytest.mark.golden
def test_the_other_form_has_the_same_questions_and_pictures(fixtures_dir, file, opened):
    others = [f for f in (fixtures_dir / "raw" / "mmbench").glob("*.tsv") if f != file]
    for other in others:
        assert any(row["image"].isdigit() for row in raw_rows(other))
        assert opened(load(other)).examples == load(file).examples
        assert load(other).digest() == load(file).digest()
    assert others


@pytest.mark.golden
def test_a_folder_stands_for_its_file(fixtures_dir, file, tmp_path):
    dataset = load(fixtures_dir / "raw" / "mmbench")
    assert (dataset.source, dataset.examples) == (str(file), load(file).examples)
    with pytest.raises(InputError, match=r"no mmbench\*\.tsv"):
        load(tmp_path)
    with pytest.raises(InputError, match="nowhere"):
        load(tmp_path / "nowhere")
    first = shutil.copy(file, tmp_path / "MMBench_DEV_EN.tsv")
    assert load(tmp_path).source == str(first)
    shutil.copy(file, tmp_path / "MMBench_DEV_CN.tsv")
    with pytest.raises(InputError, match=r"MMBench_DEV_CN\.tsv, MMBench_DEV_EN\.tsv"):
        load(tmp_path)
    for name in ("mmbench_dev_1.tsv", "mmbench_dev_2.tsv"):
        shutil.copy(file, tmp_path / name)
    with pytest.raises(InputError, match=r"mmbench_dev_1\.tsv, mmbench_dev_2\.tsv"):
        load(tmp_path)


@pytest.mark.golden
@pytest.mark.parametrize("style", ["llava", "lmms"])
@pytest.mark.parametrize("layout", ["raw/mmbench", "hf/MMBench"])
def test_user_texts_equal_the_peers(fixtures_dir, style, layout):
    rows = json.loads((fixtures_dir / "golden" / "prompts.json").read_text())
    want = {
        row["key"]: row[f"{style}_user"] for row in rows if row["benchmark"].startswith("mmbench")
    }
    dataset = load(fixtures_dir / layout, prompt_style=style)
    got = {example.key: example.user_text for example in dataset.examples}
    assert want
    assert {key: got[key] for key in want} == want


@pytest.mark.golden
def test_golden_answers_score_as_the_peers(fixtures_dir, file):
    golden = json.loads((fixtures_dir / "golden" / "scores_mmbench.json").read_text())
    dataset = load(file)
    for want in golden["repetitions"]:
        rows = [row for row in golden["examples"] if row["rep"] == want["rep"]]
        said = {str(row["index"]): row["prediction"] for row in rows}
        found = BENCHMARK.score(
            [
                Answer(e.key, said[e.key], e.right, e.split, e.category, e.group, e.options)
                for e in dataset.examples
            ]
        )
        got = found["lmms_eval"]
        assert got["circular"] == pytest.approx(want["lmms_static_circular"])
        assert got["vanilla"] == pytest.approx(want["vanilla_base_rows"])
        for name, value in (want["lmms_category"] | want["lmms_l2"]).items():
            assert got[f"{name}.circular"] == pytest.approx(value)
        assert found["vlmevalkit"]["circular"] == pytest.approx(want["vlmeval_circular"])


@pytest.mark.golden
def test_hub_tables_equal_the_raw_file(fixtures_dir, file, opened):
    raw, hub = opened(load(file)), opened(load(fixtures_dir / "hf" / "MMBench"))
    assert hub.examples == raw.examples
    for image in raw.images:
        got, want = hub.read_image(image), raw.read_image(image)
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want))
    first = load(fixtures_dir / "hf" / "MMBench", limit=1)
    assert {example.group for example in first.examples} == {raw.examples[0].group}


@pytest.mark.golden
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"index": "seven"}, "index seven: it is not a number"),
        ({"index": "7", "answer": ""}, "index 7: answer ''"),
        ({"index": "7", "answer": "AB"}, "index 7: answer 'AB'"),
        ({"index": "7", "B": "", "answer": "A"}, "index 7: option B is missing"),
        ({"index": "7", "A": "", "B": "", "C": "", "D": ""}, "index 7: 0 options"),
        ({"index": "7", "image": ""}, "index 7: picture ''"),
        ({"index": "7", "image": "123"}, "index 7: picture '123'"),
        ({"index": "7", "image": "7"}, "index 7: picture '7'"),
        ({"index": "7", "image": "AAAA!AAAA"}, "index 7: its picture is not base64"),
        ({"index": "7", "image": "é"}, "index 7: its picture is not base64"),
    ],
)
def test_malformed_rows_are_named(file, tmp_path, change, said):
    rows = raw_rows(file)
    with pytest.raises(InputError, match=re.escape(said)):
        load(write(tmp_path / "a.tsv", [rows[0] | change, *rows[1:]]))


@pytest.mark.golden
def test_malformed_files_are_named(file, tmp_path):
    rows = raw_rows(file)
    with pytest.raises(InputError, match=rf"question {rows[0]['index']} occurs 2 times"):
        load(write(tmp_path / "a.tsv", [rows[0], *rows]))
    without = [{name: row[name] for name in row if name != "category"} for row in rows]
    with pytest.raises(InputError, match="row 1 lacks category"):
        load(write(tmp_path / "a.tsv", without))
    (tmp_path / "a.tsv").write_text("\t".join(rows[0]) + "\n")
    with pytest.raises(InputError, match=r"a\.tsv has no questions"):
        load(tmp_path / "a.tsv")


@pytest.mark.golden
def test_what_is_missing_and_what_is_a_text(file, tmp_path):
    row = raw_rows(file)[0] | {"A": "None", "B": "NA", "C": "nan", "D": "", "answer": "b"}
    row |= {"hint": "nan", "l2-category": "never met"}
    (example,) = load(write(tmp_path / "a.tsv", [row])).examples
    assert (example.options, example.right) == (("None", "NA"), "B")
    assert example.user_text.startswith(row["question"])
    assert (example.split, example.category) == (OTHER, row["category"])
    (four,) = load(tmp_path / "a.tsv", options="abcd").examples
    assert (four.choices, four.options) == (letters(4), example.options)


@pytest.mark.golden
def test_early_tables_are_read_too(fixtures_dir, tmp_path):
    (file,) = (fixtures_dir / "hf" / "MMBench" / "en").glob("dev-*.parquet")
    table = pyarrow.parquet.read_table(file)
    want = load(fixtures_dir / "hf" / "MMBench").examples
    names = [{"L2-category": "l2-category"}.get(name, name) for name in table.column_names]
    index = table.column_names.index("index")
    table = table.set_column(index, "index", table["index"].cast(pyarrow.string()))
    (tmp_path / "data").mkdir()
    pyarrow.parquet.write_table(table.rename_columns(names), tmp_path / "data" / file.name)
    assert load(tmp_path).examples == want


@pytest.mark.golden
def test_only_tables_turn_pictures_upright(fixtures_dir, file, tmp_path):
    turned = fixtures_dir / "images" / "exif_orientation_6.jpg"
    want = images.read(turned).size
    cell = base64.b64encode(turned.read_bytes()).decode()
    raw = load(write(tmp_path / "a.tsv", [row | {"image": cell} for row in raw_rows(file)]))
    assert raw.read_image(*raw.images).size == want
    (parquet,) = (fixtures_dir / "hf" / "MMBench" / "en").glob("dev-*.parquet")
    table = pyarrow.parquet.read_table(parquet)
    cell = {"bytes": turned.read_bytes(), "path": turned.name}
    rows = [row | {"image": cell} for row in table.to_pylist()]
    (tmp_path / "en").mkdir()
    table = pyarrow.Table.from_pylist(rows, table.schema)
    pyarrow.parquet.write_table(table, tmp_path / "en" / parquet.name)
    hub = load(tmp_path)
    assert hub.read_image(*hub.images).size == want[::-1]


def test_scenes_follow_the_protocol():
    dataset = load(SCENES, limit=BENCHMARK.scenes_limit)
    assert len(dataset.images) == BENCHMARK.scenes_limit
    assert len({example.key for example in dataset.examples}) == len(dataset.examples)
    groups = collections.defaultdict(list)
    for example in dataset.examples:
        groups[example.group].append(example)
    assert len(groups) == BENCHMARK.scenes_limit
    for rows in groups.values():
        assert len(rows) == len(rows[0].options)
        assert rows[0].key == rows[0].group
        assert len({(row.image, row.split, row.category) for row in rows}) == 1
        assert {row.label for row in rows} == set(range(len(rows)))
        assert len({row.options[row.label] for row in rows}) == 1
    splits = {example.split for example in dataset.examples}
    assert splits == set(SPLITS[:3])
    assert load(SCENES, limit=2).digest() == dataset.first_images(2).digest()
    assert load(SCENES, limit=3).digest() != dataset.first_images(2).digest()
