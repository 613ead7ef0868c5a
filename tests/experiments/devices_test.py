"""The same flags on a mesh, on two processes that know of each other, on one model over both."""

import dataclasses
import json
import signal
import socket
import time

import numpy as np
import pytest

from experiments import application, pope
from experiments.harness import command as harness
from experiments.harness import devices, records
from experiments.harness.errors import INTERRUPTED, UsageError
from experiments.harness.stopwatch import Stopwatch
from llava_jax import testing

FLAGS = ("--limit=3", "--pruner=scope,random", "--budget=4", "--cache_gib=0", "--verbosity=-1")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four") / "heads"
    testing.write_checkpoint(folder, num_key_value_heads=4)
    return folder


def read(folder):
    done = sorted(path.parent for path in folder.glob("*/SEALED"))
    return {setting.name: records.read_records(setting) for setting in done}


def differ_by(got, want):
    """Return the largest difference of a log mass; all else of the records is equal."""
    assert got.keys() == want.keys()
    largest = 0.0
    for name in want:
        assert got[name].keys() == want[name].keys()
        for key, theirs in want[name].items():
            ours = got[name][key]
            assert ours.kept == theirs.kept
            assert ours.token == theirs.token
            largest = max(largest, *np.abs(np.subtract(ours.log_masses, theirs.log_masses)))
    return largest


def run(config):
    return harness.answer(harness.prepare(pope.BENCHMARK, config, Stopwatch(exact=False)))


def test_a_mesh_gives_the_records_of_one_device(config, model):
    """Pictures are divided, the decoder is; the pruner inside the decoder works on both."""
    own = dataclasses.replace(
        config, model=str(model), pruners=("scope", "fastv"), hyperparameters={}, seeds=(0,)
    )
    run(own)
    shared = dataclasses.replace(own, out=own.out + "-mesh", mesh="data:2,model:4")
    work = harness.prepare(pope.BENCHMARK, shared, Stopwatch(exact=False))
    assert work.inputs.plan.images_per_batch == 2
    assert harness.answer(work).missing == 0
    assert differ_by(read(shared.folder), read(own.folder)) <= 1e-5
    want, got = (
        json.loads((place.folder / "scope_k4_alpha1_gamma1_multiply/run.json").read_text())
        for place in (own, shared)
    )
    assert want["fingerprint"] == got["fingerprint"], "how it is computed is not what is asked"


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("data:4,model:4", "takes 16 devices; 8 are here"),
        ("model:8", "4 key-value heads"),
        ("rows:2", "'rows:2'"),
        ("data:0", "without devices"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(config, model, flag, named):
    with pytest.raises(UsageError, match=named):
        run(dataclasses.replace(config, model=str(model), mesh=flag))


@pytest.mark.parametrize(("how", "most"), [("int8", 0.02), ("int4", 0.1)])
def test_quantised_weights_answer_nearly_as_the_models(config, how, most, capsys):
    """The embedded model on its own pictures: mean absolute difference of probabilities."""
    own = dataclasses.replace(
        config, model="pocket", data="scenes", limit=4, pruners=("none",), hyperparameters={}
    )
    other = dataclasses.replace(own, out=f"{own.out}-{how}", quantize=how)
    run(own)
    assert application.report(pope.BENCHMARK, other, run(other)) == 0
    assert f"quantization {how}" in capsys.readouterr().out
    plain, small = (
        json.loads((place.folder / "none/run.json").read_text()) for place in (own, other)
    )
    assert small["identity"]["quantization"] == how
    assert plain["fingerprint"] != small["fingerprint"]
    ((want, got),) = zip(read(own.folder).values(), read(other.folder).values(), strict=True)
    masses = [np.array([rows[key].log_masses for key in want]) for rows in (want, got)]
    probabilities = [np.exp(m) / np.exp(m).sum(-1, keepdims=True) for m in masses]
    assert 0 < np.abs(np.subtract(*probabilities)).mean() < most


def test_a_process_alone_joins_nobody(config, monkeypatch):
    for name in devices._CLUSTER:
        monkeypatch.delenv(name, raising=False)
    assert not devices._in_a_cluster({})
    assert not devices._in_a_cluster(
        {"SLURM_STEP_NUM_TASKS": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    )
    assert devices._in_a_cluster({"SLURM_STEP_NUM_TASKS": "2"})
    assert devices._in_a_cluster({"TPU_WORKER_HOSTNAMES": "a,b"})
    assert devices.find(config) == devices.Place()


def test_nobody_to_join_is_one_line(tmp_path, command):
    code, out, err = command(tmp_path, "--distributed=on")
    assert (code, out) == (1, "")
    assert "JAX_COORDINATOR_ADDRESS=host:port" in err
    assert err.count("\n") == 1


def test_a_missing_shard_is_named_by_the_first(config, capsys):
    alone = run(dataclasses.replace(config, num_processes=2))
    first = dataclasses.replace(alone, place=devices.Place(count=2))
    assert application.report(pope.BENCHMARK, config, first) == INTERRUPTED
    assert "processes 1 failed, or write to another folder" in capsys.readouterr().err
    other = dataclasses.replace(alone, place=devices.Place(index=1, count=2))
    assert application.report(pope.BENCHMARK, config, other) == 0
    assert "process 0 of 2 reports" in capsys.readouterr().out


@pytest.fixture
def together(launch, model):
    """Start two processes that find each other over loopback."""

    def start(folder, *flags, devices="2"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        env = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_CPU_DEVICES": devices}
        own = (f"--model={model}", *FLAGS, "--num_processes=2", *flags)
        return [launch(folder, *own, f"--process_id={i}", env=env) for i in range(2)]

    return start


def finish(processes):
    ended = [process.communicate(timeout=280) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    assert "process 0 of 2 reports" in ended[1][0]
    assert "accuracy" in ended[0][0]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, command, model):
    """The records of one process with one device."""
    folder = tmp_path_factory.mktemp("alone")
    assert command(folder, f"--model={model}", *FLAGS, "--out=one")[0] == 0
    return read(folder / "one")


@pytest.mark.parametrize("mesh", [(), ("--mesh=model:4",)])
def test_two_processes_over_loopback(tmp_path, together, alone, mesh):
    """A model each, the pictures divided; or one model over all devices, one of them writing."""
    finish(together(tmp_path, *mesh, "--out=two"))
    assert differ_by(read(tmp_path / "two"), alone) <= 1e-5
    shards = {path.name for path in (tmp_path / "two" / "none").glob("records-*.jsonl")}
    apart = {"records-00000-of-00002.jsonl", "records-00001-of-00002.jsonl"}
    assert shards == ({"records-00000-of-00001.jsonl"} if mesh else apart)


def test_a_killed_process_loses_nothing(tmp_path, together, alone):
    processes = together(tmp_path, "--out=two")
    shard = tmp_path / "two" / "none" / "records-00001-of-00002.jsonl"
    while not (shard.is_file() and shard.stat().st_size):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGKILL)
    processes[0].send_signal(signal.SIGKILL)  # as whoever started both does
    for process in processes:
        process.communicate()
    left = shard.read_text().splitlines()
    finish(together(tmp_path, "--out=two"))
    assert shard.read_text().splitlines()[: len(left)] == left
    assert differ_by(read(tmp_path / "two"), alone) <= 1e-5
