"""Runs of HELM: the probability of the text that a model wrote, and whether it was right."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.harness.errors import InputError
from experiments.logs import json_files, values
from experiments.logs.rows import Rated, Rows, stack_rated

FILE = "per_instance_stats.json"
_Name = tuple[str, int]


def read(path: str) -> Rows:
    """Read a run's folder: ``max_prob`` and ``exact_match`` of the split ``test``.

    Perturbed copies of an instance are left out; its trials, which differ in the examples of the
    prompt, are resampled together. An exact match that a tie left between 0 and 1 is not right,
    as in HELM's own calibration error.

    Args:
        path: of the folder, ``runs/<suite>/<run>``.

    Raises:
        InputError: a damaged file, or a model that gave no probabilities.
    """
    file = pathlib.Path(path) / FILE
    if not file.is_file():
        raise InputError(f"{path}: no {FILE} in it; the folder of a run, runs/<suite>/<run>, has")
    entries = json_files.parse(file.read_bytes(), str(file))
    with json_files.reading(str(file), "statistics as HELM writes them"):
        found = _statistics(entries)
    rows = [_rated(name, stats, str(file)) for name, stats in found.items()]
    if rows and all(row.confidence == 1 for row in rows):
        raise InputError(f"{file}: every max_prob is 1: the model gave no log probabilities")
    return stack_rated(f"helm:{path}", rows)


def _statistics(entries: list[Mapping[str, Any]]) -> Mapping[_Name, dict[str, Any]]:
    """Return the two statistics of each instance and trial, by name."""
    found: dict[_Name, dict[str, Any]] = collections.defaultdict(dict)
    for entry in entries:
        for stat in entry["stats"]:
            name = stat["name"]
            wanted = name["name"] in ("max_prob", "exact_match") and name["split"] == "test"
            if wanted and "perturbation" not in name and "perturbation" not in entry:
                trial = entry["instance_id"], entry["train_trial_index"]
                found[trial][name["name"]] = stat["mean"]
    return found


def _rated(name: _Name, stats: Mapping[str, Any], file: str) -> Rated:
    """Return the row of an instance and trial."""
    where = f"{file}, {name[0]}, trial {name[1]}"
    for needed in ("max_prob", "exact_match"):
        if needed not in stats:
            raise InputError(f"{where}: no {needed}")
    return Rated(
        key=f"{name[0]}/{name[1]}",
        confidence=values.probability(stats["max_prob"], f"{where}: max_prob"),
        correct=values.probability(stats["exact_match"], f"{where}: exact_match") == 1,
        group=str(name[0]),
    )
