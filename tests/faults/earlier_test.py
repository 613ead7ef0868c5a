"""Run folders that earlier versions wrote are still read, and still the same runs."""

import dataclasses
import json
import pathlib
import shutil

import pytest

from experiments import pope
from experiments.harness import command, records
from experiments.harness.stopwatch import Stopwatch
from experiments.reporting import aggregate

EARLIER = pathlib.Path(__file__).parent / "earlier"


@pytest.fixture(params=sorted(folder.name for folder in EARLIER.iterdir()))
def earlier(request, config, tmp_path):
    """A run of POPE's first picture that an earlier version finished, and its flags."""
    shutil.copytree(EARLIER / request.param, tmp_path / "run")
    return dataclasses.replace(
        config, pruners=("saliency",), hyperparameters={}, seeds=(0,), limit=1
    )


def run(config):
    work = command.prepare(pope.BENCHMARK, config, Stopwatch(exact=False))
    return command.answer(work)


def test_a_finished_run_is_finished(earlier, passed):
    """Its identity is what the same flags, data and weights give today."""
    outcome = run(earlier)
    assert outcome.answered == outcome.failed == outcome.missing == 0
    assert [folder.name for folder in outcome.folders] == ["none", "saliency_k4"]
    found = aggregate.results(earlier.folder, outcome.folders, pope.BENCHMARK, "default")
    assert [entry["n"] for entry in found["settings"]] == [18, 18]
    passed("upgrade", "a run folder of each earlier version is the same run, nothing asked again")


def test_an_unfinished_run_goes_on(earlier):
    folder = earlier.folder / "saliency_k4"
    (folder / "SEALED").unlink()
    (file,) = records.files(folder)
    whole = file.read_bytes()
    file.write_bytes(whole[: whole[:-1].rindex(b"\n") + 20])
    assert run(earlier).answered == 1
    last, was = (json.loads(content.splitlines()[-1]) for content in (file.read_bytes(), whole))
    assert last["key"] == was["key"]
    assert last["kept"] == was["kept"]
    assert last["log_masses"] == pytest.approx(was["log_masses"], abs=1e-5)
