"""Generated answers from a smaller cache: what changes, what a run says of it, what is refused."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from experiments import catalogue, pope
from experiments.harness import command as harness
from experiments.harness import memory, plan, records
from experiments.harness.errors import InputError, UsageError
from experiments.harness.stopwatch import Stopwatch
from experiments.reporting import aggregate
from experiments.reporting.verification import folder as run_folder

SAID = {"route": "generate", "max_new_tokens": 4, "hyperparameters": {}}
SNAPKV = {"kv_eviction": "snapkv", "kv_budget": 16, "kv_window": 8}
WINDOW = {"kv_eviction": "window", "kv_budget": 16}


def prepare(config, out="run", **change):
    config = dataclasses.replace(config, out=f"{config.out}-{out}", **SAID | change)
    return harness.prepare(pope.BENCHMARK, config, Stopwatch(exact=False))


def answer(config, **change):
    """Run to the end; return each setting's rows by key, full tokens first."""
    outcome = harness.answer(prepare(config, **change))
    assert outcome.missing == outcome.failed == 0
    return [records.read_records(folder) for folder in outcome.folders]


def log_probs(rows):
    """Return the probabilities of the first tokens [E], and of the later ones [E, M − 1]."""
    found = np.array([rows[key].text_log_probs for key in sorted(rows)])
    return found[:, 0], found[:, 1:]


@pytest.mark.parametrize(
    ("pruner", "how"), [("scope", SNAPKV), ("none", WINDOW)], ids=["snapkv", "window"]
)
def test_only_later_tokens_change(config, pruner, how):
    whole = answer(config, out="whole", pruners=(pruner,))
    some = answer(config, out="some", pruners=(pruner,), **how)
    for full, less in zip(whole, some, strict=True):
        assert full.keys() == less.keys()
        for key, row in full.items():
            assert row.token == less[key].token
            np.testing.assert_allclose(row.log_masses, less[key].log_masses, atol=1e-5)
        (first, later), (same, other) = log_probs(full), log_probs(less)
        np.testing.assert_allclose(first, same, atol=1e-5)
        assert (abs(later - other)[:, 0] > 1e-4).all()


def test_a_pruner_between_layers_with_a_recent_window(config):
    """The layers below the cut share a picture's prefix, those above it do not."""
    whole = answer(config, out="whole", pruners=("pyramiddrop",))[1]
    some = answer(config, out="some", pruners=("pyramiddrop",), **WINDOW)[1]
    (first, later), (same, other) = log_probs(whole), log_probs(some)
    np.testing.assert_allclose(first, same, atol=1e-5)
    assert (abs(later - other)[:, 0] > 1e-4).all()


def test_an_answer_does_not_depend_on_what_else_is_asked(config):
    """The start that all questions of a run share observes the prompt too, wherever it ends."""
    work = prepare(config, pruners=("none",), **SNAPKV)
    assert (work.inputs.plan.common_ids, work.inputs.plan.prompt_ids != ()) == ((), True)
    assert prepare(config, out="whole").inputs.plan.common_ids != ()
    harness.answer(work)
    every = records.read_records(work.folders[0].path)
    few = answer(config, out="few", pruners=("none",), limit=1, **SNAPKV)[0]
    assert 0 < len(few) < len(every)
    for key, row in few.items():
        np.testing.assert_allclose(row.text_log_probs, every[key].text_log_probs, atol=1e-5)


def test_a_run_says_what_is_evicted_and_only_then(config):
    plain, snapkv, window = (
        prepare(config, out=str(i), pruners=("none",), **how)
        for i, how in enumerate(({}, SNAPKV, WINDOW))
    )
    runs = [
        json.loads((work.folders[0].path / records.RUN).read_text())
        for work in (plain, snapkv, window)
    ]
    asked = [run["identity"]["asked"] for run in runs]
    assert asked[1] == asked[0] | SNAPKV
    assert asked[2] == asked[0] | WINDOW
    assert not any(name.startswith("kv_") for name in asked[0])
    assert len({run["fingerprint"] for run in runs}) == 3
    folder = pathlib.Path(snapkv.inputs.config.out)
    outcome = harness.answer(snapkv)
    entry = aggregate.results(folder, outcome.folders, pope.BENCHMARK, "default")["settings"][0]
    assert entry["asked"] == asked[1]
    assert list(run_folder.verify(folder, catalogue.get)) == []
    with pytest.raises(InputError, match=r"identity\.asked\.kv_budget: 16 → 17"):
        prepare(config, out="1", pruners=("none",), **SNAPKV | {"kv_budget": 17})


def test_a_plan_says_what_is_evicted_and_has_room_for_it(config):
    work = prepare(config, pruners=("none",), **SNAPKV)
    text = plan.describe(work.inputs.plan, work.settings, work.inputs.source, "some data")
    assert text.endswith(
        "its cache: 16 prompt tokens in every layer and key-value head, those at which a "
        "question's last 8 tokens look most"
    )
    whole = dataclasses.replace(work.inputs.plan, eviction=None)
    less = memory.estimate(whole, work.settings, work.inputs.source, 1)
    assert work.need.batch > less.batch


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_budget": 9}, "--kv_budget is of --kv_eviction=snapkv or window"),
        (SNAPKV | {"route": "first_token", "max_new_tokens": None}, "is of --route=generate"),
        (SNAPKV | {"kv_budget": None}, "--kv_eviction=snapkv needs --kv_budget"),
        (SNAPKV | {"kv_budget": 8}, "a budget of 8 prompt tokens .* at least 9"),
        (WINDOW | {"kv_budget": 4}, "a budget of 4 prompt tokens .* at least 5"),
        (
            WINDOW | {"kv_budget": 999},
            r"--kv_budget=999 evicts nothing: the longest prompt has \d+",
        ),
    ],
)
def test_flags_that_do_not_go_together(config, change, message):
    with pytest.raises(UsageError, match=message):
        prepare(config, **{"pruners": ("none",)} | change)


def test_the_command_line(command, tmp_path):
    flags = ["--route=generate", "--kv_eviction=snapkv", "--kv_budget=16", "--max_new_tokens=2"]
    flags += ["--limit=1", "--offline", "--out=run", f"--cache={tmp_path}/cache"]
    code, out, err = command(tmp_path, *flags)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert err.startswith("usage: --kv_eviction=snapkv --kv_budget=16: ")
    assert "snapkv keeps 32 anyway, so a budget of at least 33" in err
    flags.append("--kv_window=8")
    code, out, err = command(tmp_path, *flags)
    assert code == 0, err
    assert "kv_budget 16, kv_eviction snapkv, kv_window 8" in out.splitlines()[0]
    before = (tmp_path / "run" / "none" / "records-00000-of-00001.jsonl").read_bytes()
    again = [f"--flagfile={tmp_path}/run/none/flags.txt", f"--cache={tmp_path}/cache"]
    code, out, err = command(tmp_path, *again)
    assert code == 0, err
    assert "complete, nothing to do" in out
    assert (tmp_path / "run" / "none" / "records-00000-of-00001.jsonl").read_bytes() == before
    run = json.loads((tmp_path / "run" / "none" / "run.json").read_text())
    assert run["identity"]["asked"]["kv_budget"] == 16
