"""From the record folders of a run to results.json."""

from __future__ import annotations

import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import calibration.report
from experiments.harness import records
from experiments.reporting import evaluation
from experiments.reporting.evaluation import Scorer
from llava_jax import atomic

RESULTS = "results.json"
METRICS = {*calibration.COLUMNS, *calibration.VALUE_ONLY}
_REALISED = {"visual_tokens", "tflop"}
_ENTRY = {"setting", "run", "records", "mode", "n", "images", "failed", "seed", "splits"}
_SCORED = {"source", "asked", "route", "scores"}


def results(
    out: pathlib.Path,
    folders: Sequence[pathlib.Path],
    scorer: Scorer,
    mode: calibration.report.Mode,
) -> dict[str, Any]:
    """Evaluate the settings of a run folder and write results.json.

    Settings that are sealed and were evaluated before with the same records and mode are taken
    from the last results.json.

    Args:
        out: the run folder.
        folders: settings to report even if rows failed.
        scorer: the benchmark.
        mode: ``default`` or ``paper`` statistics.

    Returns:
        Contents of results.json: ``settings`` and ``over_seeds``.
    """
    sealed = [file.parent for file in sorted(out.glob(f"*/{records.SEALED}"))]
    known = {(e["setting"], e["records"], e["mode"]): e for e in _previous(out)}
    entries = []
    for folder in dict.fromkeys([*folders, *sealed]):
        state = _state(folder)
        if entry := known.get((folder.name, state, mode)) if state else None:
            entries.append(entry)
        elif records.are_there(folder):
            entries.append({"records": state, **evaluation.of_setting(folder, scorer, mode)})
    content = {"settings": entries, "over_seeds": over_seeds(entries)}
    atomic.write(out / RESULTS, content)
    return content


def _previous(out: pathlib.Path) -> list[dict[str, Any]]:
    """Return the settings of the last results.json that have today's metrics."""
    try:
        entries = json.loads((out / RESULTS).read_text("utf-8"))["settings"]
        needed = _ENTRY | _REALISED | _SCORED
        return [e for e in entries if set(e["metrics"]) == METRICS and set(e) >= needed]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _state(folder: pathlib.Path) -> str | None:
    """Return the hash of a sealed folder's records, None if it is not sealed."""
    try:
        return str(json.loads((folder / records.SEALED).read_text("utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def over_seeds(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and standard deviation (ddof = 1) of runs that differ in the seed alone."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in entries:
        if entry["seed"] is not None:
            groups.setdefault((entry["run"], entry["mode"]), []).append(entry)
    own = _ENTRY | {"metrics", "scores", "per_token"}
    return [
        {name: value for name, value in group[0].items() if name not in own}
        | {
            "mode": group[0]["mode"],
            "settings": [entry["setting"] for entry in group],
            "seeds": [entry["seed"] for entry in group],
            "metrics": {
                name: _spread([entry["metrics"][name]["value"] for entry in group])
                for name in group[0]["metrics"]
            },
            "scores": {
                tool: {
                    name: _spread([entry["scores"][tool].get(name) for entry in group])
                    for name in numbers
                }
                for tool, numbers in group[0]["scores"].items()
            },
        }
        for group in groups.values()
        if len(group) > 1
    ]


def _spread(values: Sequence[float | None]) -> dict[str, float | None]:
    """Return mean and standard deviation, nothing if a value is missing."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {"mean": None, "sd": None}
    return {"mean": statistics.fmean(known), "sd": statistics.stdev(known)}
