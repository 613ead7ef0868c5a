"""The golden values of the official selectors, for the tests of every method."""

import importlib.util
import json
import sys

import numpy as np
import pytest


def load(folder, name):
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Golden:
    """A folder of golden values and the two modules that come with it."""

    def __init__(self, folder):
        self.folder = folder
        self.manifest = json.loads((folder / "manifest.json").read_text())
        self.inputs = load(folder, "golden_inputs")
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "golden_inputs", self.inputs)
            self.check = load(folder, "check_golden")

    def cases(self, file):
        """Yield name, case, inputs and the stored arrays of every case."""
        with np.load(self.folder / f"{file}.npz") as stored:
            for name, case in self.manifest[file].items():
                inputs = {key: self.inputs.build(spec) for key, spec in case["inputs"].items()}
                yield name, case, inputs, lambda array, name=name: stored[f"{name}/{array}"]

    def assert_accepted(self, where, case, arrays, stored, replays):
        """Check every rule that is not optional; an order of several images has a row for each."""
        rules = [rule for rule in case["accept"] if not rule.get("optional")]
        assert rules, f"{where}: nothing to compare"
        for rule in rules:
            got, want = arrays[rule["array"]], stored(rule["array"])
            by_row = got.ndim == 2 and rule["kind"] in ("certificate", "set_overlap")
            rows = range(len(got)) if by_row else [...]
            for row in rows:
                replay = replays(rule["array"], 0 if row is ... else row)
                accepted = self.check.accepts(rule, got[row], want[row], replay)
                assert accepted, f"{where}, row {row}: {rule}"


@pytest.fixture(scope="session")
def golden(golden_dir):
    return Golden(golden_dir / "pruners")
