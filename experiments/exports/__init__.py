"""Logs of other evaluation tools, written from a finished setting; no model is loaded.

inspect:FILE.eval   inspect's log, see ``inspect_ai``
lmms:FOLDER         lmms-eval's samples and results, see ``lmms_eval``
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping

from experiments.exports import inspect_ai, lmms_eval
from experiments.exports.finished import Finished
from experiments.harness.errors import UsageError

WRITERS: Mapping[str, Callable[[Finished, pathlib.Path], pathlib.Path]] = {
    "inspect": inspect_ai.write,
    "lmms": lmms_eval.write,
}
"""Format → writes a finished setting and returns what was written."""


def writer(spec: str) -> Callable[[Finished], pathlib.Path]:
    """Return what writes ``format:PATH``.

    Args:
        spec: such as ``inspect:x.eval``.

    Raises:
        UsageError: no such format, or no path behind it.
    """
    name, _, place = spec.partition(":")
    if name not in WRITERS or not place:
        known = ", ".join(f"{name}:PATH" for name in WRITERS)
        raise UsageError(f"--to={spec} is not one of {known}")
    return lambda finished: WRITERS[name](finished, pathlib.Path(place))
