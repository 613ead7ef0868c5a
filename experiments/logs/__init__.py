"""Evidence from the logs of other evaluation tools: one reader per format, one type of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from experiments.harness.errors import UsageError
from experiments.logs import csv_rows, helm, inspect_ai, lm_eval
from experiments.logs.rows import Rows

READERS: Mapping[str, Callable[[str], Rows]] = {
    "inspect": inspect_ai.read,
    "lmeval": lm_eval.read,
    "helm": helm.read,
    "csv": csv_rows.read,
}


def read(spec: str) -> Rows:
    """Read a log.

    Args:
        spec: ``<format>:<path>``; the format is a key of READERS.

    Returns:
        Rows.

    Raises:
        UsageError: an unknown format, or no path.
        InputError: a log that cannot be used.
    """
    form, _, path = spec.partition(":")
    if form not in READERS or not path:
        known = ", ".join(f"{name}:PATH" for name in READERS)
        raise UsageError(f"--from={spec}: it is one of {known}")
    return READERS[form](path)
