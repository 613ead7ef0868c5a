"""The paper's numbers, in the units that we measure in.

"Does Visual Token Pruning Improve Calibration? An Empirical Study on Confidence in MLLMs", with
LLaVA-1.5-7B. ``paper.json`` has them as printed: accuracies and overconfidence are in percent
there, fractions here.
"""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

PERCENT = ("accuracy", "overconfidence", "mean_confidence", "accuracy_at_80")
"""Metrics that are printed in percent."""
_NAMES = {
    "overconfidence_percent": "overconfidence",
    "optimal_temperature": "temperature",
}
FULL_BUDGET = 576


@functools.cache
def content() -> Mapping[str, Any]:
    """Return the contents of ``paper.json``."""
    return json.loads((pathlib.Path(__file__).with_name("paper.json")).read_text("utf-8"))


@functools.cache
def table(name: str) -> tuple[Mapping[str, Any], ...]:
    """Return a table's rows: column → value, metrics by our names and as fractions.

    Args:
        name: such as ``table1_pope_scope_default``.
    """
    found = content()[name]
    names = [_NAMES.get(column, column) for column in found["columns"]]
    return tuple(
        {column: _fraction(column, x) for column, x in zip(names, row, strict=True)}
        for row in found["rows"]
    )


def _fraction(column: str, value: Any) -> Any:
    """Return a number in the unit that we measure in."""
    return round(value / 100, 6) if column in PERCENT else value
