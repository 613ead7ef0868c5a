"""Flags are there before jax is, and say what the pruners' classes say."""

import subprocess
import sys

import pruning
from experiments.harness import pruners


def test_hyperparameters_are_read_as_the_classes_define_them():
    want = {name: pruning.hyperparameters(pruning.get(name)) for name in pruning.names()}
    found = pruners.hyperparameters()
    assert list(found) == list(want)
    for name, fields in found.items():
        assert {field: value.default for field, value in fields.items()} == want[name]
        for value in fields.values():
            assert value.default is None or type(value.default) is value.kind


def test_the_command_line_needs_no_jax():
    code = """
import sys
from experiments import pope
from experiments.harness import flags
flags.define(pope.BENCHMARK)
flags.FLAGS(["pope", "--pruner=scope", "--alpha=0,1"])
assert flags.run_config(pope.BENCHMARK).hyperparameters == {"alpha": (0.0, 1.0)}
slow = {"jax", "flax", "optax", "chex", "transformers", "datasets"} & sys.modules.keys()
assert not slow, slow
"""
    subprocess.run([sys.executable, "-c", code], check=True)
