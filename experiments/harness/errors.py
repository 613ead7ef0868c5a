"""Ways a run ends: the exit code of each, and its one line on stderr."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Sequence

COMPLETE, USAGE, REFUSED, FAILED_ROWS, INTERRUPTED, CTRL_C = 0, 1, 2, 3, 75, 130
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the errors of a full disk."""


class UsageError(Exception):
    """A flag's value that does not fit the model, the pruners or another flag."""


class InputError(Exception):
    """Weights, data or a run folder that cannot be used; one line that names it."""


class InterruptedRunError(Exception):
    """The run was stopped between two batches and can be resumed."""


def refuse_arguments(argv: Sequence[str]) -> None:
    """Refuse what is left of a command line when its flags are taken out.

    Raises:
        UsageError: anything is.
    """
    if len(argv) > 1:
        raise UsageError(f"unexpected argument {argv[1]!r}; flags look like --name=value")


def exit_code(body: Callable[[], int | None], *, resume: str = "") -> int:
    """Run a program's body; every expected ending is one line on stderr.

    Args:
        body: returns its exit code, None for 0.
        resume: what a line about an interruption ends with.

    Returns:
        The exit code.
    """
    after = f"; {resume}" if resume else ""
    try:
        return body() or COMPLETE
    except UsageError as error:
        return end(f"usage: {error}", USAGE)
    except InputError as error:
        return end(f"refused: {error}", REFUSED)
    except InterruptedRunError as error:
        return end(f"{error}{after}", INTERRUPTED)
    except KeyboardInterrupt:
        return end(f"stopped by Ctrl-C{after}", CTRL_C)
    except BrokenPipeError:  # whoever read the table has gone, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return COMPLETE
    except MemoryError:
        return end(f"out of memory of this machine{after}", INTERRUPTED)
    except OSError as error:
        if error.errno in NO_SPACE:
            return end(f"no space left: {error}{after}", INTERRUPTED)
        return end(f"refused: {error}", REFUSED)


def end(line: str, code: int) -> int:
    """Say how the run ended, in one line that no terminal obeys, and return the code."""
    print(inert(line), file=sys.stderr)
    return code


def inert(text: str) -> str:
    """Return a text whose control characters, and marks of direction, are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say_anything() -> None:
    """Let stdout and stderr escape what their encoding has no letter for."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
