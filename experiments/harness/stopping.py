"""SIGTERM and Ctrl-C while a run answers: it stops between two batches, asked again at once.

A signal's Python handler must wait until the interpreter has its turn, and a model's pass or a
compilation may take minutes; so a thread hears of signals through a pipe, as they come.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

from experiments.harness.errors import CTRL_C, InterruptedRunError, last_line

_HEARD = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Turns signals into a stop between two batches; a context.

    SIGTERM (a preemption) and the first Ctrl-C ask for it, the second Ctrl-C ends the process:
    what was counted is on the disk.
    """

    def __init__(self, resume: str):
        self._resume = resume
        self._asked: signal.Signals | None = None
        self._pressed = False  # Ctrl-C, before or after a SIGTERM

    def __enter__(self) -> Stop:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        self._previous_fd = signal.set_wakeup_fd(self._write)
        self._previous = {number: signal.signal(number, _wait) for number in _HEARD}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._write)  # ends the thread
        self._thread.join()
        os.close(self._read)

    def check(self) -> None:
        """Stop here if that was asked for.

        Raises:
            InterruptedRunError: SIGTERM came.
            KeyboardInterrupt: Ctrl-C came.
        """
        if self._asked == signal.SIGINT:
            raise KeyboardInterrupt
        if self._asked:
            raise InterruptedRunError("stopped by SIGTERM")

    def _listen(self) -> None:
        while numbers := os.read(self._read, 1):
            number = signal.Signals(numbers[0])
            if number not in _HEARD:
                continue
            if number == signal.SIGINT and self._pressed:
                line = last_line("stopped by Ctrl-C", self._resume)
                print(f"\n{line}", file=sys.stderr, flush=True)
                os._exit(CTRL_C)
            if number == signal.SIGINT:
                line = "stopping after this batch; Ctrl-C again stops at once"
                print(f"\n{line}", file=sys.stderr, flush=True)
                self._pressed = True
            self._asked = number


def _wait(number: int, frame: FrameType | None) -> None:
    """Do nothing: the thread knows."""
