"""What is fuzzed: a class per reader. It writes bytes where the reader looks, and judges.

A target is called with bytes; what it raises is a finding. ``seeds`` are bytes to begin with.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from benchmarks.fuzz import logs, questions, records, weights


class Target(Protocol):
    """One reader."""

    longest: int
    """Bytes of an input, at most."""

    def seeds(self) -> Iterator[bytes]:
        """Yield inputs that are right, and a few that are not."""

    def __call__(self, data: bytes) -> None:
        """Read; raise unless the input is taken or refused as it should be."""


TARGETS: Mapping[str, Callable[[pathlib.Path], Target]] = {
    "records": records.Records,
    "questions": questions.Questions,
    "predictions": questions.Predictions,
    "logs": logs.Logs,
    "names": weights.Names,
    "weights": weights.Weights,
}
"""Name → the target, given a folder of its own."""
