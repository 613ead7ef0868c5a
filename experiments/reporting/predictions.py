"""From a setting's records to arrays. Axis letters: E examples, C choices."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.harness import records


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A setting's evidence as arrays, rows sorted by key.

    Attributes:
        key: E of them.
        log_masses: float32[E, C], −inf where a question has fewer choices.
        valid: bool[E, C].
        label: int32[E].
        answer_log_mass: float32[E].
        image: int32[E], 0 … number of pictures − 1, the unit of resampling.
        split: int32[E], index into the names given.
    """

    key: tuple[str, ...]
    log_masses: np.ndarray
    valid: np.ndarray
    label: np.ndarray
    answer_log_mass: np.ndarray
    image: np.ndarray
    split: np.ndarray


def read_run(folder: pathlib.Path) -> dict[str, Any]:
    """Return the contents of a setting's run.json."""
    return json.loads((folder / records.RUN).read_text())


def load(folder: pathlib.Path, splits: Sequence[str]) -> Predictions:
    """Read a setting's records.

    Args:
        folder: of the setting.
        splits: names, in the order of the tables.

    Raises:
        InputError: contradicting records.
    """
    rows = sorted(records.read_records(folder).values(), key=lambda row: row.key)
    num_choices = max(len(row.log_masses) for row in rows)
    log_masses = np.full((len(rows), num_choices), -np.inf, np.float32)
    for masses, row in zip(log_masses, rows, strict=True):
        masses[: len(row.log_masses)] = row.log_masses
    images = {image: index for index, image in enumerate(sorted({row.image for row in rows}))}
    return Predictions(
        key=tuple(row.key for row in rows),
        log_masses=log_masses,
        valid=np.isfinite(log_masses),
        label=np.array([row.label for row in rows], np.int32),
        answer_log_mass=np.array([row.answer_log_mass for row in rows], np.float32),
        image=np.array([images[row.image] for row in rows], np.int32),
        split=np.array([splits.index(row.split) for row in rows], np.int32),
    )
