"""Ask with few visual tokens and with more where the margin is low: tokens against errors.

    python -m experiments.cascade --run=runs/pope --pruner=scope --alpha=0.5 --risk=0.1
    python -m experiments.cascade --run=runs/pope --pruner=random --seed=0 --budget=32,64,128

From stored records alone: one pruner's budgets, rising, and full tokens last. Prints the cascade
beside each budget alone, chance and an oracle, and the cheapest thresholds that keep the error
rates of ``--risk`` with probability 1 − delta. Writes these tables (``.md``, ``.tex``, ``.csv``),
the curve (``cascade_curve.csv``) and its figure (``.png``, ``.svg``, ``.pdf``) into ``<out>``. No
model is loaded. Exit codes: 0 complete, 1 usage, 2 refused.
"""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

from experiments import catalogue
from experiments.harness import program, pruners, terminal
from experiments.harness.errors import UsageError
from experiments.reporting import runs
from experiments.reporting.cascade import curve, figure, stages, tables

_OTHERS = ("seed", "order", "positions")
_RISKS = "0.05,0.1,0.15,0.2"


def start() -> None:
    """Define the flags, report and exit with the code."""
    for library in ("jax", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)
    program.run(_main, define=_define)


def _define() -> None:
    """Define the flags; hyper-parameters are those of all pruners."""
    flags.DEFINE_string("run", "runs/pope", "run folder with finished settings")
    flags.DEFINE_string("pruner", None, "whose budgets are the stages", required=True)
    flags.DEFINE_string("budget", None, "comma-separated stages (default: all that were run)")
    flags.DEFINE_string("risk", _RISKS, "comma-separated error rates to guarantee")
    flags.DEFINE_float("delta", 0.05, "chance that a guaranteed rate is exceeded")
    flags.DEFINE_string("out", None, "folder of tables and figure (default: <run>/cascade)")
    flags.DEFINE_integer("seed", None, "of a stochastic pruner")
    for name in ("order", "positions"):
        flags.DEFINE_string(name, None, "of kept tokens, if the run has several")
    for name, kind in _hyperparameters().items():
        define = {float: flags.DEFINE_float, int: flags.DEFINE_integer, str: flags.DEFINE_string}
        define[kind](name, None, "hyper-parameter, if the run has several")


def _hyperparameters() -> Mapping[str, type]:
    """Return every pruner's hyper-parameters and their kinds."""
    return {n: p.kind for own in pruners.hyperparameters().values() for n, p in own.items()}


def _main() -> None:
    """Report what the flags name."""
    given = flags.FLAGS.flag_values_dict()
    about = {name: given[name] for name in ("pruner", *_OTHERS, *_hyperparameters())}
    risks = _numbers("risk", given["risk"], float)
    for name, share in (*(("risk", risk) for risk in risks), ("delta", given["delta"])):
        if not 0 < share < 1:
            raise UsageError(f"--{name}={share:g} is no share; it lies between 0 and 1")
    run = pathlib.Path(given["run"])
    report(
        run,
        pathlib.Path(given["out"] or run / "cascade"),
        {name: value for name, value in about.items() if value is not None},
        budgets=_numbers("budget", given["budget"], int) if given["budget"] else None,
        risks=risks,
        delta=given["delta"],
    )


def _numbers(name: str, text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    """Return a list flag's values."""
    try:
        return tuple(kind(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"--{name}={text} is no comma-separated list of numbers") from None


def report(
    run: pathlib.Path,
    out: pathlib.Path,
    about: Mapping[str, Any],
    *,
    budgets: tuple[int, ...] | None,
    risks: tuple[float, ...],
    delta: float,
) -> None:
    """Print the tables, then write them, the curve and its figure.

    Args:
        run: the run folder.
        out: folder of the files; it is made.
        about: pruner, and what else tells its settings from others.
        budgets: of the stages; None is all.
        risks: error rates to guarantee.
        delta: chance that one is exceeded.

    Raises:
        InputError: the folder has no comparable settings, or matplotlib is not installed.
        UsageError: the settings are not there, or not told apart.
    """
    asked = stages.of(runs.load(run, catalogue.get), budgets, **about)
    found = curve.of(asked, runs.draws(asked.num_pictures))
    rules, guaranteed, points = tables.of(found, risks, delta=delta)
    print(f"{rules.text()}\n\n{guaranteed.text()}\n")
    out.mkdir(parents=True, exist_ok=True)
    files = [*rules.write(out), *guaranteed.write(out)]
    files += figure.draw(found, out / points.name, points.csv())
    print("\n".join(terminal.inert(str(file)) for file in files))


if __name__ == "__main__":
    start()
