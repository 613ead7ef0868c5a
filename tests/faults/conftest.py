"""How often faults are injected: a few times in every test run, in full behind a marker."""

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
