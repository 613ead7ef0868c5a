"""Devices whose memory is full: smaller batches with the same answers, or what would help."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import pope
from experiments.harness import answering, batching, command, errors, memory, plan, records
from experiments.harness.benchmark import Example
from experiments.harness.grid import settings
from experiments.harness.source import Source, find
from experiments.harness.stopwatch import Stopwatch

FULL = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12345678 bytes."
LOG_MASS = 1e-5


@pytest.fixture
def small(config):
    return dataclasses.replace(
        config, data="scenes", limit=8, pruners=("saliency",), hyperparameters={}, seeds=(0,)
    )


@pytest.fixture
def eight_a_batch(monkeypatch):
    monkeypatch.setattr(memory, "images_per_batch", lambda *_: 8)


def run(config):
    work = command.prepare(pope.BENCHMARK, config, Stopwatch(exact=False))
    return command.answer(work)


def exhausted_calls(monkeypatch, numbers, message=FULL):
    """Make some of the calls that answer a batch fail; return the pictures of every call."""
    answer, sizes = answering.answer, []

    def answer_or_fail(shared, orders, features, batch, setting):
        sizes.append(len(batch.groups))
        if len(sizes) in numbers:
            raise jax.errors.JaxRuntimeError(message)
        return answer(shared, orders, features, batch, setting)

    monkeypatch.setattr(answering, "answer", answer_or_fail)
    return sizes


@pytest.mark.parametrize(
    "failures", [{1, 2, 3}, *(pytest.param(x, marks=pytest.mark.full) for x in ({1}, {2}, {2, 3}))]
)
def test_a_full_memory_halves_the_batch(small, monkeypatch, eight_a_batch, failures, caplog):
    """The answers are those of a run with one picture a batch, none twice and none missing."""
    with monkeypatch.context() as one:
        one.setattr(memory, "images_per_batch", lambda *_: 1)
        want = run(dataclasses.replace(small, out=small.out + "-one"))
    sizes = exhausted_calls(monkeypatch, failures)
    with caplog.at_level("WARNING", logger="absl"):
        outcome = run(small)
    rows = len(command.read(pope.BENCHMARK, small).examples)
    assert outcome.answered == outcome.expected == 2 * rows
    for ours, theirs in zip(outcome.folders, want.folders, strict=True):
        found, others = records.read_records(ours), records.read_records(theirs)
        lines = [line for file in records.files(ours) for line in file.read_bytes().splitlines()]
        assert len(lines) == len(found) == rows
        assert (ours / "SEALED").is_file()
        for key, row in found.items():
            assert row.kept == others[key].kept
            np.testing.assert_allclose(row.log_masses, others[key].log_masses, atol=LOG_MASS)
    whole = max(sizes)
    halved = [whole // 2 ** (i + 1) for i in range(len(failures))]
    assert caplog.text.count("the device is full") == len(failures)
    assert f"from here {halved[0]} pictures a batch" in caplog.text
    after = sizes[max(failures) :]
    assert max(after) <= halved[-1], "the smaller size is kept"


def test_features_of_a_halved_batch_are_kept_under_their_own_picture(
    small, monkeypatch, eight_a_batch
):
    """A later run that takes them from the cache has the same answers."""
    cached = dataclasses.replace(small, cache_gib=1.0)
    with monkeypatch.context() as full:
        exhausted_calls(full, {1, 2})
        first = run(cached)
    again = run(dataclasses.replace(cached, out=small.out + "-again"))
    for ours, theirs in zip(first.folders, again.folders, strict=True):
        found, others = records.read_records(ours), records.read_records(theirs)
        for key, row in found.items():
            np.testing.assert_allclose(row.log_masses, others[key].log_masses, atol=LOG_MASS)


@pytest.mark.full
def test_halving_is_shown(small, monkeypatch, eight_a_batch, passed):
    sizes = exhausted_calls(monkeypatch, {1, 2, 3})
    assert run(small).answered
    assert sizes[:3] == [sizes[0], sizes[0] // 2, sizes[0] // 4]
    passed("M1", f"{sizes[0]} → {sizes[3]} pictures a batch after 3 failures, same answers (1e-5)")


def test_one_picture_that_does_not_fit_ends_with_remedies(
    small, monkeypatch, eight_a_batch, capsys, passed
):
    work = command.prepare(pope.BENCHMARK, small, Stopwatch(exact=False))
    one = memory.estimate(*work.planned, images=1)
    assert one.batch < work.need.batch
    exhausted_calls(monkeypatch, set(range(1, 10)))
    code = errors.exit_code(lambda: run(small) and None, resume="resume")
    assert code == errors.INTERRUPTED
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "out of memory" in line)
    assert str(one).partition(";")[0] in line
    assert "weights 0.529 MiB" in line
    for remedy in ("--dtype", "--budget", "free the device"):
        assert remedy in line
    passed("M2", "exit 75 with the estimate and three remedies")


def test_weights_that_do_not_fit_end_alike(small, monkeypatch, capsys):
    def load(self):
        raise jax.errors.JaxRuntimeError(FULL)

    monkeypatch.setattr(Source, "load", load)
    assert errors.exit_code(lambda: run(small) and None) == errors.INTERRUPTED
    assert "out of memory with one picture a batch: weights" in capsys.readouterr().err


def test_another_error_of_the_device_is_not_hidden(small, monkeypatch, eight_a_batch):
    sizes = exhausted_calls(monkeypatch, {1}, "INTERNAL: a real defect")
    with pytest.raises(jax.errors.JaxRuntimeError, match="a real defect"):
        run(small)
    assert len(sizes) == 1


def test_the_estimate_is_said_before_a_run(small, caplog, monkeypatch):
    with caplog.at_level("INFO", logger="absl"):
        run(small)
    assert "memory: weights 0.529 MiB, a batch at most" in caplog.text
    caplog.clear()
    monkeypatch.setattr(memory, "_available", lambda: 1000)
    with caplog.at_level("WARNING", logger="absl"):
        run(dataclasses.replace(small, out=small.out + "-tight"))
    assert "; 0.000954 MiB are there" in caplog.text


def test_the_estimate_grows_with_what_is_asked(small, tiny):
    source = find(str(tiny), None, offline=True)
    grid = settings(16, small)
    example = Example("s/1", "x", "Is there a cat?", (("Yes",), ("No",)), 0, "s")
    work = plan.make(batching.group_by_image([example]), grid, source)
    one, two = (memory.estimate(work, grid, source, images) for images in (1, 2))
    assert one.weights == two.weights
    assert one.batch < two.batch < 2.5 * one.batch
