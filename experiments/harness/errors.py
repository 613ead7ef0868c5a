"""Ways a run ends, and the exit code of each."""

from __future__ import annotations

COMPLETE, USAGE, REFUSED, FAILED_ROWS, INTERRUPTED, CTRL_C = 0, 1, 2, 3, 75, 130


class UsageError(Exception):
    """A flag's value that does not fit the model, the pruners or another flag."""


class InputError(Exception):
    """Weights, data or a run folder that cannot be used; one line that names it."""


class InterruptedRunError(Exception):
    """The run was stopped between two batches and can be resumed."""
