"""A process that has imported the entry points' libraries and forks a child per command line.

Requests are lines of JSON on stdin: ``module``, ``flags``, ``folder``. The child is what
``python -m module`` is: its own stdout and stderr, files beside the folder, and its own exit code,
which is the answer.
"""

import json
import os
import pathlib
import runpy
import sys
import warnings

from experiments import application, exports, logs, reading, scoring
from experiments.harness import command, pruners
from experiments.reporting import curves, evaluation, figures
from experiments.training import examination, recipe

IMPORTED = (
    *(application, command, curves, evaluation, examination, exports),
    *(figures, logs, reading, recipe, scoring),
)

STREAMS = ("in", "out", "err")


def run(module: str, flags: list[str], folder: pathlib.Path) -> None:
    """Become the process of a command line."""
    for number, name in enumerate(STREAMS):
        file = os.open(folder.with_suffix(f".{name}"), os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
    os.chdir(folder)
    sys.argv = [module, *flags]
    code: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ending:
        code = ending.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def main() -> None:
    """Answer requests until there are no more."""
    pruners.hyperparameters()
    warnings.filterwarnings("ignore", message=r"os\.fork", category=RuntimeWarning)
    warnings.filterwarnings("ignore", message=r".*fork\(\)", category=DeprecationWarning)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            run(request["module"], request["flags"], pathlib.Path(request["folder"]))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


main()
