"""results.json against the records: every number computed again."""

from __future__ import annotations

import pathlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, get_args

import calibration.report
from experiments.harness import records
from experiments.harness.errors import InputError
from experiments.reporting import aggregate, evaluation
from experiments.reporting.evaluation import Scorer
from experiments.reporting.verification import findings
from experiments.reporting.verification.findings import Finding

_MEASURED = {"n", "images", "failed", "metrics", "splits", "scores", "per_token", "over_seeds"}
"""Parts of an entry that come from records and questions; the others come from run.json."""


def compare(
    out: pathlib.Path,
    scorers: Mapping[str, Scorer],
    unsound: Collection[str],
    tolerance: float,
) -> tuple[list[Finding], int]:
    """Compute results.json again and compare number by number.

    Args:
        out: the run folder.
        scorers: setting → its benchmark.
        unsound: settings that are not to be measured, as their files do not agree.
        tolerance: relative difference of numbers that is none.

    Returns:
        (findings, numbers that were compared).
    """
    file = out / aggregate.RESULTS
    stored, found = findings.mapping(file)
    entries = stored.get("settings")
    if found and not stored:
        return found, 0
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        return [*found, Finding(file, "settings", "is no list of settings")], 0
    fresh, count = [], 0
    for index, entry in enumerate(entries):
        place = f"settings[{index}]"
        again = _again(out, entry, scorers, unsound)
        if isinstance(again, str):
            found.append(Finding(file, place, again))
        elif again:
            fresh.append(again)
            found += _different(file, f"{place} {again['setting']} ", entry, again, tolerance)
            count += _numbers(again)
    if len(fresh) == len(entries):
        again = {"over_seeds": aggregate.over_seeds(fresh)}
        rest = {name: value for name, value in stored.items() if name != "settings"}
        found += _different(file, "", rest, records.canonical_copy(again), tolerance)
        count += _numbers(again)
    return found, count


def _again(
    out: pathlib.Path,
    entry: Mapping[str, Any],
    scorers: Mapping[str, Scorer],
    unsound: Collection[str],
) -> dict[str, Any] | str:
    """Return a setting's entry as its folder gives it, nothing if it gives none, or why."""
    name: Any = entry.get("setting")
    mode: Any = entry.get("mode")
    if not isinstance(name, str) or name not in {*scorers, *unsound}:
        return f"is of the setting {name!r:.80}, which has no folder here"
    if name in unsound:
        return {}
    if mode not in get_args(calibration.report.Mode):
        return f"has the mode {mode!r:.80}"
    folder = out / name
    sealed = entry.get("records") is not None
    state = findings.mapping(folder / records.SEALED)[0].get("sha256") if sealed else None
    try:
        own = evaluation.of_setting(folder, scorers[name], mode)
        return records.canonical_copy({"records": state, **own})
    except _CANNOT_BE_MEASURED as error:
        return f"cannot be computed again: {error}"


_CANNOT_BE_MEASURED = (
    InputError,
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
)
"""What a folder may lead to that agrees with itself and was written by somebody else."""


def _different(
    file: pathlib.Path, place: str, stored: Any, fresh: Any, tolerance: float
) -> list[Finding]:
    """Return where a part of results.json is not what was computed again."""
    leaves = list(_leaves("", stored, fresh))
    found = [
        Finding(file, f"{place}{name}", f"is {_short(one)}, {_source(name)} {_short(other)}")
        for name, one, other in leaves
        if one is not _ABSENT and not _same(one, other, tolerance)
    ]
    if lacking := [name for name, one, _ in leaves if one is _ABSENT]:
        what = f"is without {', '.join(lacking):.80}; the run's own command again computes it"
        found.append(Finding(file, place.rstrip(), what))
    return findings.some(found)


def _leaves(name: str, stored: Any, fresh: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, stored and computed value of every leaf that either has."""
    if isinstance(stored, dict) and isinstance(fresh, dict):
        for key in dict.fromkeys([*fresh, *stored]):
            inner = f"{name}.{key}" if name else str(key)
            yield from _leaves(inner, stored.get(key, _ABSENT), fresh.get(key, _ABSENT))
    elif isinstance(stored, list) and isinstance(fresh, list) and len(stored) == len(fresh):
        for index, (one, other) in enumerate(zip(stored, fresh, strict=True)):
            yield from _leaves(f"{name}[{index}]", one, other)
    else:
        yield name, stored, fresh


_ABSENT = object()


def _same(one: Any, other: Any, tolerance: float) -> bool:
    if type(one) is float and type(other) is float:
        return abs(one - other) <= tolerance * max(abs(one), abs(other))
    return type(one) is type(other) and one == other


def _source(name: str) -> str:
    """Say where a value comes from."""
    top = name.partition(".")[0].partition("[")[0]
    if top in _MEASURED:
        return "its records give"
    return "its seal has" if top == "records" else "its run.json has"


def _short(value: Any) -> str:
    return "not there" if value is _ABSENT else f"{value!r:.80}"


def _numbers(value: Any) -> int:
    """Count the numbers of a part of results.json."""
    if isinstance(value, dict):
        return sum(map(_numbers, value.values()))
    if isinstance(value, list):
        return sum(map(_numbers, value))
    return type(value) in (int, float)
