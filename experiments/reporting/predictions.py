"""From a setting's records to arrays. Axis letters: E examples, C choices."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.harness import records
from experiments.harness.errors import InputError


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
        prediction: int32[E], the choice taken for the answer; None is the likeliest.
    """

    key: tuple[str, ...]
    log_masses: np.ndarray
    valid: np.ndarray
    label: np.ndarray
    answer_log_mass: np.ndarray | None
    image: np.ndarray
    split: np.ndarray
    prediction: np.ndarray | None = None

    def take(self, kept: np.ndarray) -> Predictions:
        """Return the rows of bool[E], their pictures numbered anew."""
        found = {
            name: value[kept] for name, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        _, found["image"] = np.unique(found["image"], return_inverse=True)
        key = tuple(key for key, keep in zip(self.key, kept, strict=True) if keep)
        return dataclasses.replace(self, key=key, **found)


def read_run(folder: pathlib.Path) -> dict[str, Any]:
    """Return the contents of a setting's run.json."""
    return json.loads((folder / records.RUN).read_text("utf-8"))


def load(folder: pathlib.Path, splits: Sequence[str]) -> Predictions:
    """Read a setting's records as first tokens; see ``of_first_token``.

    Raises:
        InputError: contradicting records, or none.
    """
    rows = tuple(records.read_records(folder).values())
    if not rows:
        raise InputError(f"{folder} has no record")
    return of_first_token(rows, splits)


def of_first_token(rows: Sequence[records.Record], splits: Sequence[str]) -> Predictions:
    """Return what first tokens say of the choices.

    Args:
        rows: of questions with choices, in any order.
        splits: names, in the order of the tables.

    Raises:
        InputError: a question is open, or its split has no name here.
    """
    rows = sorted(rows, key=lambda row: row.key)
    for row in rows:
        if row.label is None or row.answer_log_mass is None or not row.log_masses:
            raise InputError(f"the record of {row.key!r} has no choices, or no right one")
    label = np.array([row.label for row in rows], np.int32)
    num_choices = max(int(label.max()) + 1, *(len(row.log_masses) for row in rows))
    log_masses = np.full((len(rows), num_choices), -np.inf, np.float32)
    for masses, row in zip(log_masses, rows, strict=True):
        masses[: len(row.log_masses)] = row.log_masses
    return Predictions(
        key=tuple(row.key for row in rows),
        log_masses=log_masses,
        valid=np.isfinite(log_masses),
        label=label,
        answer_log_mass=np.array([row.answer_log_mass for row in rows], np.float32),
        image=_numbered(rows),
        split=_splits(rows, splits),
    )


def of_text(
    rows: Sequence[records.Record],
    splits: Sequence[str],
    right: Mapping[str, bool],
    *,
    per_token: bool,
) -> Predictions:
    """Return what generated answers say of themselves: the event that the text is right.

    Choice 0 is that it is, with mass c, choice 1 that it is not, with 1 − c; c is the text's
    probability Π pₜ, or its geometric mean over the M tokens, (Π pₜ)^(1/M), the end token
    included. A c of 1 is the float32 below it: the loss of an error is large, not infinite.

    Args:
        rows: in any order.
        splits: names, in the order of the tables.
        right: key → whether the text is right.
        per_token: take the geometric mean.
    """
    rows = sorted(rows, key=lambda row: row.key)
    total = np.array([_log_confidence(row, per_token=per_token) for row in rows])
    confidence = np.minimum(np.exp(total), np.nextafter(np.float32(1), np.float32(0)))
    log_masses = np.stack([np.log(confidence), np.log1p(-confidence)], axis=1)
    return Predictions(
        key=tuple(row.key for row in rows),
        log_masses=log_masses.astype(np.float32),
        valid=np.ones(log_masses.shape, bool),
        label=np.array([0 if right[row.key] else 1 for row in rows], np.int32),
        answer_log_mass=None,
        image=_numbered(rows),
        split=_splits(rows, splits),
        prediction=np.zeros(len(rows), np.int32),
    )


def _log_confidence(row: records.Record, *, per_token: bool) -> float:
    """Return the log of a text's confidence; no smaller than float32 can say."""
    log_probs = row.text_log_probs or (0.0,)
    total = math.fsum(log_probs) / (len(log_probs) if per_token else 1)
    return max(total, math.log(np.finfo(np.float32).tiny))


def _splits(rows: Sequence[records.Record], splits: Sequence[str]) -> np.ndarray:
    """Return int32[E], the number of each row's split."""
    if unknown := {row.split for row in rows}.difference(splits):
        raise InputError(f"records of the split {min(unknown)!r}, which is none of {[*splits]}")
    return np.array([splits.index(row.split) for row in rows], np.int32)


def _numbered(rows: Sequence[records.Record]) -> np.ndarray:
    """Return int32[E], the number of each row's picture."""
    numbers = {image: index for index, image in enumerate(sorted({row.image for row in rows}))}
    return np.array([numbers[row.image] for row in rows], np.int32)
