"""Another tool's questions through the harness: once for each picture, and never twice."""

import dataclasses
import pathlib

import pytest

from experiments import gqa
from experiments.harness import records
from experiments.harness.benchmark import Request
from experiments.harness.config import RunConfig
from experiments.harness.errors import InputError
from experiments.harness.source import Source
from experiments.plugins.answerer import Answerer, Asked
from llava_jax import testing
from llava_jax.engine import Engine


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    testing.write_checkpoint(folder)
    fields = dict.fromkeys(field.name for field in dataclasses.fields(RunConfig))
    own = {"model": str(folder), "pruners": ("scope",), "budgets": (4,), "seeds": (0,)}
    own |= {"order": "raster", "positions": "contiguous", "preprocessing": "pad", "offline": True}
    return RunConfig(**fields | own | {"hyperparameters": {"alpha": (1.0,)}})


@pytest.fixture(scope="module")
def asked():
    """Return questions about three pictures, those of one picture apart."""
    data = gqa.BENCHMARK.scenes(Request("scenes", 3))
    rows = sorted(data.examples, key=lambda row: row.key[-1])

    def one(row):
        return Asked(row.key, row.user_text, lambda: data.read_image(row.image))

    return [one(row) for row in rows]


def counted(monkeypatch, owner, name):
    calls, whole = [], getattr(owner, name)

    def count(*args, **kwargs):
        calls.append(args)
        return whole(*args, **kwargs)

    monkeypatch.setattr(owner, name, count)
    return calls


def test_a_picture_is_encoded_and_prefilled_once(config, asked, monkeypatch):
    names = ("encode", "begin", "prefill")
    calls = {name: counted(monkeypatch, Engine, name) for name in names}
    loads = counted(monkeypatch, Source, "load")
    answerer = Answerer(config, None)
    found = answerer.answer("tiny", asked, 2)
    assert set(found) == {question.key for question in asked}
    assert {name: len(args) for name, args in calls.items()} == {
        "encode": 3,
        "begin": 1,
        "prefill": 1 + 3,  # one is compiled for ahead of the first picture
    }
    answerer.answer("other", asked[:1], 2)
    assert len(loads) == 1


def test_answers_do_not_depend_on_what_else_is_asked(config, asked):
    answerer = Answerer(config, None)
    together = answerer.answer("tiny", asked, 2)
    alone = answerer.answer("tiny", asked[5:6], 2)[asked[5].key]
    assert alone.text == together[asked[5].key].text
    assert alone.kept == together[asked[5].key].kept


def test_the_pruner_decides_what_is_seen(config, asked):
    pruned = Answerer(config, None).answer("tiny", asked[:1], 1)
    full = Answerer(dataclasses.replace(config, pruners=("none",), hyperparameters={}), None)
    full = full.answer("tiny", asked[:1], 1)
    counts = [records.unpack_mask(row[asked[0].key].kept, 16).sum() for row in (pruned, full)]
    assert counts == [4, 16]


def test_records_are_kept_and_not_made_again(config, asked, tmp_path, monkeypatch):
    first = Answerer(config, tmp_path).answer("tiny", asked, 2)
    (folder,) = (tmp_path / "tiny").glob("scope_*")
    assert records.read_records(folder) == first
    assert (folder / records.SEALED).is_file()
    assert len(list((tmp_path / "tiny").glob("questions-*.jsonl"))) == 1
    monkeypatch.setattr(Source, "load", None)  # nothing is left to do
    assert Answerer(config, tmp_path).answer("tiny", asked, 2) == first
    with pytest.raises(InputError, match=r"holds another run: .*max_new_tokens: 2 → 3"):
        Answerer(config, tmp_path).answer("tiny", asked, 3)


def test_without_a_folder_nothing_is_left(config, asked, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    Answerer(config, None).answer("tiny", asked[:1], 1)
    assert not list(pathlib.Path(tmp_path).iterdir())


def test_a_pruner_inside_the_decoder_generates_too(config, asked):
    config = dataclasses.replace(config, pruners=("fastv",), hyperparameters={})
    (row,) = Answerer(config, None).answer("tiny", asked[:1], 2).values()
    assert 1 <= len(row.text_log_probs) <= 2
