"""Every wrong input of the manifest does what the manifest says."""

import json
import pathlib
import re
import shutil

import pytest

from experiments import gqa, mmbench, mme, pope, scienceqa, seed, textvqa
from experiments.harness.benchmark import Request
from experiments.harness.errors import InputError
from experiments.reading import opening
from llava_jax import images

BENCHMARKS = {
    "pope": pope,
    "sqa": scienceqa,
    "mme": mme,
    "mmbench": mmbench,
    "textvqa": textvqa,
    "seed": seed,
    "gqa": gqa,
}
BESIDE = {"gqa": "gqa", "textvqa": "textvqa", "seed": "seed_bench"}
"""Benchmarks whose entries are single files; the rest of such a folder is in order."""


def entries(fixtures_dir):
    return json.loads((fixtures_dir / "broken" / "manifest.json").read_text())["entries"]


def benchmark_of(entry):
    return BENCHMARKS[re.match("[a-z]+", entry["path"])[0]].BENCHMARK


def given(entry, fixtures_dir, folder):
    """Return what --data names: the entry, with the files it needs beside it."""
    path = fixtures_dir / "broken" / entry["path"]
    name = path.parent.name
    if path.is_dir() or name not in BESIDE:
        return path
    shutil.copytree(fixtures_dir / "raw" / BESIDE[name], folder)
    return pathlib.Path(shutil.copy(path, folder))


def names(message, needle):
    """Return whether a message has a string; one of digits stands alone."""
    edge = r"(?<!\d){}(?!\d)" if needle.isdigit() else "{}"
    return re.search(edge.format(re.escape(needle)), message)


@pytest.mark.golden
def test_expected_outcomes(fixtures_dir, tmp_path, caplog, opened):
    for number, entry in enumerate(entries(fixtures_dir)):
        data = given(entry, fixtures_dir, tmp_path / str(number))
        caplog.clear()
        try:
            asked = opening.load(benchmark_of(entry), Request(data=str(data)))
            dataset, message = opened(asked), ""
        except InputError as error:
            dataset, message = None, str(error)
        assert "\n" not in message
        expect = entry["expect"]
        if expect == "error_or_warn":
            assert dataset is None or caplog.text, entry["path"]
            message += caplog.text
        elif expect != "ok_or_error":
            assert (dataset is None) == (expect == "error"), (entry["path"], message)
        if dataset and "n" in entry:
            assert len(dataset.examples) == entry["n"], entry["path"]
        message = message.replace(str(data if data.is_dir() else data.parent), "")
        for needle in entry.get("must_contain", []):
            assert names(message, needle), (entry["path"], needle, message)


@pytest.mark.golden
def test_rows_without_a_picture_are_counted_if_they_may_be_skipped(fixtures_dir, tmp_path):
    skipping = [entry for entry in entries(fixtures_dir) if "skip_mode" in entry]
    for number, entry in enumerate(skipping):
        data = given(entry, fixtures_dir, tmp_path / str(number))
        dataset = opening.load(benchmark_of(entry), Request(data=str(data)))
        assert dataset.digest(allow_missing=True)
        skipped = 0
        for example in dataset.examples:
            try:
                dataset.read_image(example.image)
            except images.ImageError:
                skipped += 1
        want = entry["skip_mode"]
        found = {"n_scored": len(dataset.examples) - skipped, "n_skipped": skipped}
        assert found == want, entry["path"]
    assert skipping
