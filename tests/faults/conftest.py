"""How often faults are injected: a few times in every test run, in full behind a marker."""

import pathlib
import pickle

import pytest


def pytest_generate_tests(metafunc):
    """Give ``times`` the two counts of the test's marker ``times(few, full)``."""
    if counts := metafunc.definition.get_closest_marker("times"):
        few, full = counts.args
        values = [
            pytest.param(few, marks=pytest.mark.few),
            pytest.param(full, marks=pytest.mark.full),
        ]
        metafunc.parametrize("times", values)


@pytest.fixture
def passed(record_property):
    """Say what a test has shown, for the table of benchmarks/faults.md."""

    def say(fault, result):
        record_property(fault, result)

    return say


class _Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, sentinel):
        self.sentinel = str(sentinel)

    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path(self.sentinel),))


@pytest.fixture
def sentinel(tmp_path):
    """A file that is there when a stranger's code has run."""
    return tmp_path / "ran"


@pytest.fixture
def pickled(sentinel):
    """Pickle, in a protocol, what writes the sentinel when it is opened."""
    return lambda protocol=None: pickle.dumps(_Hostile(sentinel), protocol=protocol)
