"""A run folder against itself: its rows, their seal, what was run, what was asked, the numbers.

Every byte of the record files, of records.parquet and of SEALED is covered by a digest, of run.json
its identity by the fingerprint, and every number of results.json is computed again. What has no
second copy in the folder cannot be seen to have changed:

* in run.json the versions, the pictures of a batch and ``flop_alone``;
* in flags.txt what the identity does not hold, such as ``--model``, ``--data`` and ``--out``;
* in the questions the words, category, group, options and references where no score changes.

Nor can a change that somebody made everywhere, digests included.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import importlib.metadata
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from experiments.harness import questions, records
from experiments.harness.errors import InputError
from experiments.harness.records import Record
from experiments.reporting import aggregate
from experiments.reporting.evaluation import Scorer
from experiments.reporting.verification import findings
from experiments.reporting.verification import questions as checked_questions
from experiments.reporting.verification import results as checked_results
from experiments.reporting.verification import rows as checked_rows
from experiments.reporting.verification import run as checked_run
from experiments.reporting.verification.findings import Finding

FLOAT32 = 1e-6  # relative: the same sums by another version of jax or numpy
_COMPUTES = ("jax", "jaxlib", "numpy")


@dataclasses.dataclass(frozen=True)
class _Setting:
    """A setting's folder as it was found.

    Attributes:
        folder: where it is.
        run: contents of its run.json, empty if they are not those of a run.
        rows: key → record, none unless all of them are sound.
        findings: what does not agree in it.
    """

    folder: pathlib.Path
    run: Mapping[str, Any]
    rows: Mapping[str, Record]
    findings: list[Finding]


def verify(
    out: pathlib.Path,
    scorer: Callable[[str], Scorer],
    *,
    tolerance: float | None = None,
    counts: collections.Counter[str] | None = None,
) -> list[Finding]:
    """Check all that a run folder says of itself.

    Args:
        out: the run folder.
        scorer: benchmark's name → benchmark.
        tolerance: relative difference of numbers that is none; None for 0 where jax and numpy are
            those that the run was begun with, else `FLOAT32`.
        counts: is added to: ``settings``, ``files``, ``rows`` and ``numbers`` computed again.

    Returns:
        What does not agree, file by file.

    Raises:
        InputError: the folder is not there or holds no setting.
    """
    counts = collections.Counter() if counts is None else counts
    folders = sorted({file.parent for name in _OF_A_SETTING for file in out.glob(f"*/{name}")})
    if not folders:
        raise InputError(f"{out} holds no setting of a run; name the --out of one")
    settings = [_setting(folder, counts) for folder in folders]
    found = [finding for setting in settings for finding in setting.findings]
    asked, unsound = _asked(out, settings, counts)
    found += asked
    unsound |= {s.folder.name for s in settings if s.findings or not s.run}
    if (out / aggregate.RESULTS).exists():
        scorers, unknown = _scorers(settings, scorer)
        found += unknown
        unsound |= {finding.file.parent.name for finding in unknown}
        if tolerance is None:
            tolerance = 0.0 if all(_same_versions(s.run) for s in settings if s.run) else FLOAT32
        others, numbers = checked_results.compare(out, scorers, unsound, tolerance)
        found += others
        counts.update(files=1, numbers=numbers)
    return found


_OF_A_SETTING = (records.RUN, records.SEALED, "records-*.jsonl")


def _setting(folder: pathlib.Path, counts: collections.Counter[str]) -> _Setting:
    """Check one setting's folder."""
    checked = checked_rows.check(folder)
    run, found = checked_run.read(folder)
    found += checked.findings
    rows: dict[str, Record] = {}
    if not found:
        try:
            rows = records.read_records(folder)
        except InputError as error:
            found.append(Finding(folder, "", f"has rows that are none: {error}"))
        else:
            found += _rows(folder, run, rows)
    failures = sorted(folder.glob("failures-*.jsonl"))
    found += [line for file in failures for line in _failures(file)]
    files = checked.num_files + len(failures) + 2
    counts.update(settings=1, files=files, rows=len(checked.lines))
    return _Setting(folder, run, rows, found)


def _rows(
    folder: pathlib.Path, run: Mapping[str, Any], rows: Mapping[str, Record]
) -> list[Finding]:
    """Compare sound rows with what was run."""
    file, setting, expected = folder / records.RUN, run["fingerprint"][:16], run["expected"]["rows"]
    found = [
        Finding(folder, key, f"is a row of another run, {row.run!r:.80}")
        for key, row in rows.items()
        if row.run != setting
    ]
    if len(rows) != expected:
        found.append(Finding(file, "expected.rows", f"is {expected}, there are {len(rows)}"))
    pictures = len({row.image for row in rows.values()})
    if run["plan"].get("images", pictures) != pictures:
        found.append(Finding(file, "plan.images", f"is not {pictures}, as its rows say"))
    return findings.some(found)


def _failures(file: pathlib.Path) -> Iterator[Finding]:
    """Yield damaged lines about questions that failed."""
    data = findings.content(file)
    if isinstance(data, Finding):
        yield data
        return
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        if records.from_line(line) is None:
            yield Finding(file, f"line {number}", "is damaged: its checksum does not fit")


def _asked(
    out: pathlib.Path, settings: list[_Setting], counts: collections.Counter[str]
) -> tuple[list[Finding], set[str]]:
    """Compare the questions with every sound setting; return the settings without sound ones."""
    read = functools.cache(checked_questions.read)
    there, used = sorted(out.glob("questions-*.jsonl")), set()
    found, unsound = [], set()
    for setting in (setting for setting in settings if setting.run):
        identity, here, place = setting.run["identity"], [], setting.folder / records.RUN
        try:
            file = questions.path(out, identity["data"]["sha256"])
        except InputError as error:
            here = [Finding(place, "identity.data.sha256", str(error))]
        else:
            used.add(file)
            if file in there:
                here = read(file).findings
                if not here and not setting.findings:
                    here = checked_questions.compare(read(file), place, setting.run, setting.rows)
            elif "asked" in identity:  # else it is older than such files
                here = [Finding(file, "", "is not there; the run's own command again writes it")]
        found += here
        unsound |= {setting.folder.name} if here else set()
    found += [Finding(x, "", "is asked for by no setting") for x in there if x not in used]
    counts.update(files=len(there))
    return list(dict.fromkeys(found)), unsound


def _scorers(
    settings: list[_Setting], scorer: Callable[[str], Scorer]
) -> tuple[dict[str, Scorer], list[Finding]]:
    """Return setting → benchmark, and settings of a benchmark that is not known."""
    known, found = {}, []
    for setting in settings:
        name = setting.run["identity"]["benchmark"] if setting.run else ""
        try:
            if name:
                known[setting.folder.name] = scorer(name)
        except InputError as error:
            found.append(Finding(setting.folder / records.RUN, "identity.benchmark", str(error)))
    return known, found


def _same_versions(run: Mapping[str, Any]) -> bool:
    """Return whether what computes is what computed when the run was begun."""
    return all(run["versions"].get(x) == importlib.metadata.version(x) for x in _COMPUTES)
