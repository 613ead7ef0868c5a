"""Durable answers are counted on stderr; between two of their batches a run may be stopped."""

from __future__ import annotations

import sys
from collections.abc import Callable

import tqdm

from experiments.harness.stopping import Stop


class Progress:
    """A context in which answers are counted, and signals become stops.

    Args:
        total: answers to come.
        then: is called once, behind the first batch.
        resume: what a line about an interruption ends with.
    """

    def __init__(self, total: int, then: Callable[[], None], resume: str):
        interval = 0.5 if sys.stderr.isatty() else 15.0
        self._bar = tqdm.tqdm(
            total=total, unit="answer", mininterval=interval, file=sys.stderr, leave=True
        )
        self._stop = Stop(resume)
        self._then = [then]

    def __enter__(self) -> Progress:
        self._stop.__enter__()
        return self

    def __exit__(self, *ending: object) -> None:
        self._stop.__exit__(*ending)
        self._bar.close()

    def advance(self, rows: int) -> None:
        """Count rows made durable.

        Raises:
            InterruptedRunError: SIGTERM came.
            KeyboardInterrupt: Ctrl-C came.
        """
        self._bar.update(rows)
        while self._then:
            self._then.pop()()
        self._stop.check()
