"""Where a run's time goes, stage by stage; printed with --verbosity=1."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TypeVar

import jax

T = TypeVar("T")


class Stopwatch:
    """Adds up the seconds of named stages.

    A device computes while Python goes on, so that a stage's time is known only if its result is
    waited for. That costs overlap; it is done only where ``exact`` is true.

    Attributes:
        exact: wait for results.
    """

    def __init__(self, *, exact: bool):
        self.exact = exact
        self._begun = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self._calls: dict[str, int] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a with-block to a stage."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - begun
            self._calls[name] = self._calls.get(name, 0) + 1

    def ready(self, value: T) -> T:
        """Return a value, computed by now if times are exact."""
        return jax.block_until_ready(value) if self.exact else value

    def table(self) -> str:
        """Return seconds, share and calls of every stage, the largest first."""
        total = time.perf_counter() - self._begun
        seconds = self._seconds | {"everything else": total - sum(self._seconds.values())}
        rows = sorted(seconds.items(), key=lambda item: -item[1])
        lines = [f"{'stage':<24}{'seconds':>9}{'share':>8}{'calls':>8}"]
        lines += [
            f"{name:<24}{value:>9.3f}{value / total:>8.1%}{self._calls.get(name, 1):>8}"
            for name, value in rows
        ]
        return "\n".join([*lines, f"{'all':<24}{total:>9.3f}"])
