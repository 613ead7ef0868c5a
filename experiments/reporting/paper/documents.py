"""Everything that is written about the paper's study, from its records."""

from __future__ import annotations

import collections
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import calibration
import experiments.reporting
from calibration.report import Mode
from experiments.harness import records
from experiments.reporting import page, runs, tournament
from experiments.reporting.cascade import curve, figure, stages
from experiments.reporting.cascade import tables as cascade_tables
from experiments.reporting.documents import Table
from experiments.reporting.evaluation import Scorer
from experiments.reporting.paper import figures, ledger, tables
from experiments.reporting.paper.evidence import Evidence
from experiments.reporting.paper.settings import scope
from experiments.reporting.verification.findings import Finding
from llava_jax import atomic

MADE = "made.json"
"""What the documents were made from, and the sha256 of each."""
_RISKS, _DELTA = (0.08, 0.1, 0.12), 0.05  # error rates of the cascade, and the chance of more
_PREFIX = {"tables": "", "gamma": "gamma/", "tournament": "tournament/"}


def load(out: pathlib.Path, scorer: Callable[[str], Scorer], mode: Mode) -> Evidence:
    """Load the finished runs of a study's folder.

    Args:
        out: with a folder for each part, in which there is one for each benchmark.
        scorer: benchmark's name → benchmark.
        mode: ``default`` or ``paper`` statistics; the options A to D are of the latter.
    """
    folders = {}
    for full in sorted(out.glob(f"*/*/{runs.FULL}/{records.SEALED}")):
        folder = full.parent.parent
        benchmark, _, options = folder.name.partition("_")
        if folder.parent.name in _PREFIX and (mode == "paper" or not options):
            folders[_PREFIX[folder.parent.name] + benchmark] = folder
    return Evidence({name: runs.load(folder, scorer, mode) for name, folder in folders.items()})


Show = Callable[[Evidence, Sequence[page.Table]], pathlib.Path]
"""Writes a page of the runs, with these tables before them."""


def write(
    out: pathlib.Path, scorer: Callable[[str], Scorer], mode: Mode, show: Show
) -> tuple[list[pathlib.Path], str]:
    """Write tables, figures, ledger and page, unless the same records made them before.

    Args:
        out: of the study.
        scorer: benchmark's name → benchmark.
        mode: ``default`` or ``paper`` statistics.
        show: writes the page.

    Returns:
        The files, and what the ledger says in one line.
    """
    inputs = _inputs(out, mode)
    if known := _made_before(out, inputs):
        return [out / name for name in known["files"]], known["summary"]
    found = load(out, scorer, mode)
    made = tables.all_tables(found)
    run = [table for table in made if _has_numbers(table)]
    files = [file for table in run for file in table.write(out / "tables")]
    files += figures.all_figures(found, out / "figures")
    if pope := found.runs.get("pope"):
        files += _cascade(pope, out)
    if pruners := found.runs.get("tournament/pope"):
        files += [f for table in tournament.tables(pruners) for f in table.write(out / "tables")]
    claims = ledger.entries(found, made)
    contents = {
        "ledger.md": ledger.render(claims, found.heading),
        "ledger.csv": ledger.to_csv(claims),
    }
    for name, content in contents.items():
        atomic.write(out / name, content)
        files.append(out / name)
    files.append(show(found, [*map(_shown, run), ledger.shown(claims)]))
    digests = {str(file.relative_to(out)): _sha256(file) for file in files}
    summary = ledger.summary(claims)
    atomic.write(out / MADE, {"inputs": inputs, "summary": summary, "files": digests})
    return files, summary


def _cascade(pope: runs.Run, out: pathlib.Path) -> list[pathlib.Path]:
    """Write what a budget by need would do: default SCOPE, more tokens where the margin is low."""
    about = {name: value for name, value in scope(0).items() if name != "budget"}
    asked = stages.of(pope, **about)
    found = curve.of(asked, runs.draws(asked.num_pictures))
    rules, guaranteed, points = cascade_tables.of(found, _RISKS, delta=_DELTA)
    drawn = figure.draw(found, out / "figures" / points.name, points.csv())
    return [*rules.write(out / "tables"), *guaranteed.write(out / "tables"), *drawn]


def _shown(table: Table) -> page.Table:
    """Return a table as the page takes it, intervals below their numbers."""
    head, *rows = table.lines
    cells = tuple(tuple(word.replace(" [", "\n[", 1) for word in row) for row in rows)
    return page.Table(table.title, tuple(head), cells, table.note)


def _has_numbers(table: Table) -> bool:
    """Return whether anything of a table was run."""
    return any(cell.value is not None for _, cells in table.rows for cell in cells)


def _inputs(out: pathlib.Path, mode: Mode) -> dict[str, Any]:
    """Return what the documents depend on: the records by their seals, and this program."""
    seals = sorted(out.glob(f"*/*/*/{records.SEALED}"))
    return {
        "mode": mode,
        "program": _program(),
        "seals": {str(file.parent.relative_to(out)): _sha256(file) for file in seals},
    }


def check(out: pathlib.Path, counts: collections.Counter[str]) -> list[Finding]:
    """Compare a study's documents with the digests that were kept when they were made.

    Args:
        out: of the study.
        counts: is added to: ``files``.
    """
    file = out / MADE
    try:
        known = json.loads(file.read_text("utf-8"))
        files = {str(name): str(digest) for name, digest in known["files"].items()}
        inputs = known["inputs"] == _inputs(out, known["inputs"]["mode"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [Finding(file, "", f"does not say what was made: {error!r}")]
    counts.update(files=1 + len(files))
    found = [
        Finding(out / name, "", "is not what was made: its sha256 is another")
        for name, digest in files.items()
        if not (out / name).is_file() or _sha256(out / name) != digest
    ]
    if not inputs:
        found.append(Finding(file, "inputs", "were other records, or another version of this code"))
    return found


def _program() -> str:
    """Return the sha256 of this package and of the statistics that it uses."""
    total = hashlib.sha256()
    for package in (experiments.reporting, calibration):
        for file in sorted(pathlib.Path(package.__path__[0]).rglob("*.py")):
            total.update(file.read_bytes())
    return total.hexdigest()


def _made_before(out: pathlib.Path, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """Return what was written last, if it is of these inputs and nobody changed it."""
    try:
        known = json.loads((out / MADE).read_text("utf-8"))
        same = known["inputs"] == inputs and isinstance(known["summary"], str)
        if same and all(_sha256(out / name) == x for name, x in known["files"].items()):
            return known
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # nothing, or nothing of ours: it is written anew
    return None


def _sha256(file: pathlib.Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
