"""Rows of one's own: a CSV file with a header, or JSON lines with the same names."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.harness.errors import InputError
from experiments.logs import json_files, values
from experiments.logs.rows import Rated, Rows, Scored, stack, stack_rated

_Row = Mapping[str, Any]
_LONGEST = 2**17  # characters of a cell, csv's own limit
NEEDED = "either confidence and correct, or log_mass_0, log_mass_1, … and label"


def read(path: str) -> Rows:
    """Read rows by their columns' names; others are ignored.

    Either ``confidence`` and ``correct``, or ``log_mass_0``, ``log_mass_1``, … (empty where a
    choice was not offered), ``label`` and optionally ``prediction`` and ``answer_log_mass``.
    Optional in both: ``id``, ``group`` (what is resampled together) and ``split``.

    Args:
        path: of the file; JSON lines if it ends in ``.jsonl``.

    Raises:
        InputError: a damaged file or row.
    """
    file, source = pathlib.Path(path), f"csv:{path}"
    rows = list(json_files.lines(file) if file.suffix == ".jsonl" else _cells(file))
    if not rows:
        raise InputError(f"{file}: no rows")
    names = dict.fromkeys(name for _, row in rows for name in row)
    columns = sorted((n for n in names if n.startswith("log_mass_")), key=lambda n: (len(n), n))
    if ("confidence" in names) == bool(columns):
        raise InputError(f"{file}: columns are {', '.join(names)}; {NEEDED} are needed")
    if "confidence" in names:
        return stack_rated(source, [_rated(row, where) for where, row in rows])
    expected = [f"log_mass_{index}" for index in range(len(columns))]
    if columns != expected or len(columns) < 2:
        raise InputError(f"{file}: columns are {', '.join(columns)}; log_mass_0, log_mass_1, …")
    return stack(source, [_scored(row, columns, where) for where, row in rows])


def _cells(file: pathlib.Path) -> Iterator[tuple[str, _Row]]:
    """Yield where a row is and its cells by name."""
    csv.field_size_limit(_LONGEST)  # of the whole process; a reader of pictures raises it
    with file.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.DictReader(handle)
        try:
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                if None in row:
                    raise InputError(f"{where}: more cells than the header's {len(row) - 1}")
                yield where, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{file}, line {reader.line_num}: damaged: {error}") from None


def _given(row: _Row, name: str) -> Any:
    """Return a cell, None if it is empty or not there."""
    value = row.get(name)
    return None if value is None or str(value).strip() == "" else value


def _common(row: _Row, where: str) -> dict[str, Any]:
    """Return what both kinds of rows have."""
    split, group = _given(row, "split"), _given(row, "group")
    if split is None and "split" in row:
        raise InputError(f"{where}: split is empty; a name is needed, or no such column")
    key = where if (name := _given(row, "id")) is None else str(name)
    return {
        "key": key if split is None else f"{split}/{key}",
        "group": None if group is None else str(group),
        "split": None if split is None else str(split),
    }


def _rated(row: _Row, where: str) -> Rated:
    """Return a row that has a confidence."""
    return Rated(
        **_common(row, where),
        confidence=values.probability(_given(row, "confidence"), f"{where}: confidence"),
        correct=values.correctness(_given(row, "correct"), f"{where}: correct"),
    )


def _scored(row: _Row, columns: list[str], where: str) -> Scored:
    """Return a row that has a log mass per choice."""
    given = [(name, _given(row, name)) for name in columns]
    masses = [None if x is None else values.number(x, f"{where}: {name}") for name, x in given]
    prediction, mass = _given(row, "prediction"), _given(row, "answer_log_mass")
    label = _offered(_given(row, "label"), masses, f"{where}: label")
    if mass is not None and (mass := values.number(mass, f"{where}: answer_log_mass")) > 0:
        raise InputError(f"{where}: answer_log_mass is {mass}; at most 0 is needed, log 1")
    return Scored(
        **_common(row, where),
        log_masses=tuple(masses),
        label=label,
        prediction=None
        if prediction is None
        else _offered(prediction, masses, f"{where}: prediction"),
        answer_log_mass=mass,
    )


def _offered(value: Any, masses: list[float | None], name: str) -> int:
    """Return the index of a choice that the row has."""
    choice = values.choice(value, len(masses), name)
    if masses[choice] is None:
        raise InputError(f"{name} is {value!r}, but log_mass_{choice} is empty")
    return choice
