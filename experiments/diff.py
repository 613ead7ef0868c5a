"""Say which rows moved between two runs, or between two settings of them.

    python -m experiments.diff runs/a runs/b
    python -m experiments.diff runs/a/none runs/b/none --tolerance=1e-5 --csv=moved.csv

Two run folders are compared setting by setting of the same name, two settings' folders with each
other. A row moved if any of its evidence is another: bit for bit, or by more than ``--tolerance``.
Differences are second − first. No model is loaded. Exit codes: 0 no row moved, 1 usage, 2 refused,
3 rows moved, or are in one of the two only.
"""

from __future__ import annotations

import logging
import math
import pathlib
from collections.abc import Iterator, Sequence

from absl import flags

from experiments import catalogue
from experiments.harness import program, records, terminal
from experiments.harness.errors import InputError, UsageError
from experiments.reporting import moves
from llava_jax import atomic

SAME, MOVED = 0, 3
_FIRST = 20
"""Changed answers that are named without ``--all``."""


def start() -> None:
    """Define the flags, compare the two folders that are named and exit with the code."""
    logging.getLogger("jax").setLevel(logging.WARNING)
    tolerance = flags.DEFINE_float(
        "tolerance", 0.0, "of log masses, up to which a row did not move", lower_bound=0.0
    )
    everything = flags.DEFINE_bool("all", False, f"name all changed answers, not {_FIRST}")
    table = flags.DEFINE_string("csv", None, "file for all rows that moved")

    def main(words: list[str]) -> int:
        if len(words) != 2:
            raise UsageError(f"two folders are compared, not {len(words)}")
        one, other = map(pathlib.Path, words)
        most = None if everything.value else _FIRST
        return report(one, other, float(tolerance.value or 0.0), most, table.value)

    program.run(main, words="two run folders, or two settings' folders")


def report(
    one: pathlib.Path, other: pathlib.Path, tolerance: float, most: int | None, csv: str | None
) -> int:
    """Print what moved, write it if that is asked for, and return the exit code.

    Args:
        one: a run folder, or a setting's.
        other: of the same kind.
        tolerance: of log masses.
        most: changed answers of a pair that are named; None names all.
        csv: file for the rows that moved, None for none.

    Raises:
        InputError: a folder is no run.
        UsageError: one is a run folder, the other a setting's.
    """
    settings, alone = _pairs(one, other)
    pairs = []
    for first, second in settings:
        pairs.append(moves.compare(first, second, catalogue.get, tolerance))
        print("\n".join(map(terminal.inert, _lines(pairs[-1], most))) + "\n")
    for name, where in alone:
        print(terminal.inert(f"{name} is in {where} only"))
    moved = sum(pair.differs for pair in pairs)
    print(f"{len(pairs)} settings compared, {moved} with rows that moved; {len(alone)} in one only")
    if csv:
        atomic.write(pathlib.Path(csv), moves.table(pairs))
    return MOVED if moved or alone else SAME


def _pairs(
    one: pathlib.Path, other: pathlib.Path
) -> tuple[list[tuple[pathlib.Path, pathlib.Path]], list[tuple[str, pathlib.Path]]]:
    """Return the settings to compare, and those that one run alone has, with the run."""
    alone = [(folder / records.RUN).is_file() for folder in (one, other)]
    if all(alone):
        return [(one, other)], []
    if any(alone):
        setting, run = (one, other) if alone[0] else (other, one)
        raise UsageError(f"{setting} is a setting's folder and {run} is none; give two of a kind")
    found = [
        {f.parent.name: f.parent for f in out.glob(f"*/{records.RUN}")} for out in (one, other)
    ]
    for out, names in zip((one, other), found, strict=True):
        if not names:
            raise InputError(f"{out} holds no setting of a run; name the --out of one")
    first, second = found
    both = [(first[name], second[name]) for name in sorted(first.keys() & second.keys())]
    rest = [(name, one) for name in sorted(first.keys() - second)]
    return both, rest + [(name, other) for name in sorted(second.keys() - first)]


def _lines(pair: moves.Pair, most: int | None) -> Iterator[str]:
    """Yield what is to be said of two settings."""
    yield " → ".join(dict.fromkeys(pair.names))
    yield from (f"  {line}" for line in pair.identity)
    for keys, which in zip(pair.only, ("first", "second"), strict=True):
        if keys:
            yield f"  {len(keys)} rows are in the {which} only, such as {keys[0]}"
    evidence = [move for move in pair.moves if move.evidence]
    kept = sum(move.kept for move in pair.moves)
    yield f"  {pair.num_same} rows are the same, {len(evidence)} moved; {kept} kept other tokens"
    if evidence:
        yield f"  largest change of the right answer's log probability: {_largest(evidence)}"
        confidence = max((abs(m.confidence) for m in evidence), key=_known)
        yield f"  largest change of the confidence: {confidence:.3g}"
    flips = [move for move in evidence if move.flipped]
    if flips:
        yield f"  {len(flips)} answers changed:"
        yield from (f"    {m.key}: {m.said[0]!r} → {m.said[1]!r}" for m in flips[:most])
        if flips[most or len(flips) :]:
            yield f"    and {len(flips) - len(flips[:most])} more; --all names them"
    if pair.metrics:
        yield from _metrics(pair)


def _largest(evidence: Sequence[moves.Move]) -> str:
    """Spell the largest change of the right answer's log probability, and whose it is."""
    known = [(abs(m.log_prob), m.key) for m in evidence if m.log_prob is not None]
    return "none is known" if not known else "{:.3g} ({})".format(*max(known))


def _known(value: float) -> float:
    return -1.0 if math.isnan(value) else value


def _metrics(pair: moves.Pair) -> Iterator[str]:
    """Yield a line per metric with both values and their difference."""
    yield f"  {'':10}{'first':>12}{'second':>12}{'difference':>12}"
    for name, values in pair.metrics.items():
        cells = ["–" if value is None else f"{value:.6f}" for value in values]
        known = [value for value in values if value is not None]
        change = f"{known[1] - known[0]:+.6f}" if len(known) == 2 else "–"
        yield f"  {name:10}{cells[0]:>12}{cells[1]:>12}{change:>12}"


if __name__ == "__main__":
    start()
