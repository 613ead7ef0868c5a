"""Ways a run ends: the exit code of each, and its one line on stderr."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable

from absl import flags

from experiments.harness import terminal

flags.disclaim_key_flags()  # as in harness.flags

COMPLETE, USAGE, REFUSED, FAILED_ROWS, INTERRUPTED, CTRL_C = 0, 1, 2, 3, 75, 130
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the errors of a full disk."""


class UsageError(Exception):
    """A flag's value that does not fit the model, the pruners or another flag."""


class InputError(Exception):
    """Weights, data or a run folder that cannot be used; one line that names it."""


class InterruptedRunError(Exception):
    """The run was stopped between two batches and can be resumed."""


def exit_code(body: Callable[[], int | None], *, resume: str = "") -> int:
    """Run a program's body; every expected ending is one line on stderr.

    Args:
        body: returns its exit code, None for 0.
        resume: what a line about an interruption ends with.

    Returns:
        The exit code.
    """
    terminal.say_anything()
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
    except UnicodeError as error:  # a name that the locale has no bytes for
        return end(f"refused: {error}; PYTHONUTF8=1 in the environment makes names UTF-8", REFUSED)
    except OSError as error:
        if error.errno in NO_SPACE:
            return end(f"no space left: {error}{after}", INTERRUPTED)
        return end(f"refused: {error}", REFUSED)


def end(line: str, code: int) -> int:
    """Say how the run ended, in one line that no terminal obeys, and return the code."""
    print(last_line(line), file=sys.stderr)
    return code


def last_line(text: str, resume: str = "") -> str:
    """Return the one line that a run ends with; what no one would read to its end is cut."""
    return _LONG.sub(r"\1…\2", terminal.inert(f"{text}; {resume}" if resume else text))


_LONG = re.compile(r"(\S{500})\S{500,}(\S{500})")
"""A word that nobody would read to its end."""
