"""An entry point as a program: its command line is parsed, it runs, and it ends with its code."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from absl import app, flags

from experiments.harness import terminal
from experiments.harness.errors import (
    CTRL_C,
    INTERRUPTED,
    UsageError,
    exit_code,
    last_line,
)

flags.disclaim_key_flags()  # as in harness.flags


def run(
    main: Callable[..., int | None],
    *,
    define: Callable[[], None] = lambda: None,
    resume: str = "",
    words: str = "",
) -> None:
    """Parse the command line, run a program and exit with its code.

    Args:
        main: reads the parsed flags and returns the exit code, None for 0; takes the list of words
            if there may be any.
        define: defines flags that are not there yet.
        resume: what a line about an interruption ends with.
        words: what the words of the command line name, such as ``run folders``; at least one is
            then needed. Without it there may be flags only.
    """
    terminal.say_anything()
    _end_on_signals(resume)
    if code := exit_code(define):
        sys.exit(code)

    found: list[str] = []

    def parse(argv: Sequence[str]) -> None:
        if code := exit_code(lambda: found.extend(_parse(argv, words))):
            sys.exit(code)

    def begin(_: object) -> int:
        body = functools.partial(main, found) if words else main
        return _leave(exit_code(body, resume=resume))

    app.run(begin, flags_parser=parse)


def _end_on_signals(resume: str) -> None:
    """Make SIGTERM and Ctrl-C end the process at once, wherever no batch is waited for.

    As an exception a signal would be lost where Python is called back, as when jax frees memory;
    and what is on the disk is whole whenever a process ends.
    """
    endings = {
        signal.SIGTERM: ("stopped by SIGTERM", INTERRUPTED),
        signal.SIGINT: ("stopped by Ctrl-C", CTRL_C),
    }
    for number, (line, code) in endings.items():
        said = f"{last_line(line, resume)}\n".encode(sys.stderr.encoding, "backslashreplace")
        signal.signal(number, functools.partial(_leave_at_once, said, code))


def _leave_at_once(line: bytes, code: int, number: int, frame: FrameType | None) -> None:
    os.write(2, line)  # print may be what was interrupted
    os._exit(code)


def _parse(argv: Sequence[str], words: str) -> list[str]:
    """Parse a command line's flags and return its words.

    Raises:
        UsageError: it cannot be parsed, has words and may not, or lacks them.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            rest = flags.FLAGS(argv)
    except (flags.Error, ValueError) as error:
        raise UsageError(_in_plain_words(str(error))) from None
    except RecursionError:  # of absl, looking for names like it
        raise UsageError(f"a flag's name is too long: {max(argv, key=len)}") from None
    if warning := said.getvalue():  # of a flag file that includes itself
        raise UsageError(warning.strip())
    if len(rest) > 1 and not words:
        raise UsageError(f"unexpected argument {rest[1]!r}; flags look like --name=value")
    if len(rest) == 1 and words:
        raise UsageError(f"name the {words}")
    for name, value in flags.FLAGS.flag_values_dict().items():
        if "\0" in str(value):
            raise UsageError(f"--{name} holds a NUL character, which no name or number has")
    return rest[1:]


_PYTHONS_WORDS = {
    r"^ERROR:: ": "",
    r"invalid literal for int\(\) with base 10: (.*)": r"\1 is no integer",
    r"could not convert string to float: (.*)": r"\1 is no number",
    r"\('Non-boolean argument to boolean flag', (.*)\)": r"\1 is neither true nor false",
    r"('\S+' codec can't decode)": r"a flag file is no text: \1",
    r"^flag (--\w+)=None: .*": r"\1=… is needed",
}


def _in_plain_words(text: str) -> str:
    """Return what is wrong with a command line as a user would say it."""
    for pattern, words in _PYTHONS_WORDS.items():
        text = re.sub(pattern, words, text, flags=re.DOTALL)
    return text


def _leave(code: int) -> int:
    """Return an exit code; a program that was stopped ends here and waits for no thread."""
    if code in (INTERRUPTED, CTRL_C):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
