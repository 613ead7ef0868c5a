"""Durable answers are counted on stderr; between two of their batches a run may be stopped."""

from __future__ import annotations

import collections
import concurrent.futures
import sys
from collections.abc import Callable

import tqdm

from experiments.harness.stopping import Stop

_AHEAD = 8  # batches that may be written and not yet be on the disk


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


class Durable:
    """Counts rows when they are on the disk, which is waited for beside the next answers.

    A context; its end waits for all.

    Args:
        count: is told of rows, in the order in which they were written; may raise to stop there.
    """

    def __init__(self, count: Callable[[int], None]):
        self._count = count
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "sync")
        self._waiting: collections.deque[tuple[int, concurrent.futures.Future[None]]] = (
            collections.deque()
        )

    def __enter__(self) -> Durable:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            while self._waiting and kind is None:
                self._count_first()
        finally:
            self._pool.shutdown()

    def add(self, rows: int, sync: Callable[[], None]) -> None:
        """Count rows that were written, once ``sync`` has come back.

        Raises:
            InterruptedRunError: the disk is full.
        """
        self._waiting.append((rows, self._pool.submit(sync)))
        while len(self._waiting) > _AHEAD or (self._waiting and self._waiting[0][1].done()):
            self._count_first()

    def _count_first(self) -> None:
        rows, synced = self._waiting.popleft()
        synced.result()
        self._count(rows)
