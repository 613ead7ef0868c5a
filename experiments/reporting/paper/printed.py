"""The paper's numbers by run, metric and setting."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.reporting.paper import published
from experiments.reporting.paper.settings import BENCHMARKS, PAPERS_GAMMA, full, named, scope

_Key = tuple[str, str, frozenset[tuple[str, Any]]]


def printed(run: str, metric: str, about: Mapping[str, Any]) -> float | None:
    """Return a number as the paper prints it, None if it does not.

    Where two tables print the same quantity, the first counts.

    Args:
        run: such as ``pope``, ``pope:random`` or ``gamma/mme``.
        metric: its name.
        about: the setting.
    """
    return _index().get((run, metric, frozenset(about.items())))


@functools.cache
def _index() -> Mapping[_Key, float]:
    found: dict[_Key, float] = {}
    for run, metric, about, value in _numbers():
        found.setdefault((run, metric, frozenset(about.items())), value)
    return found


def _numbers() -> Iterator[tuple[str, str, Mapping[str, Any], float]]:
    """Yield run, metric, setting and number."""
    for row in published.table("table1_pope_scope_default"):
        yield from _metrics("pope", scope(row["num_keep"]), row)
    for row in published.table("table2_pope_alpha_sweep"):
        yield from _metrics("pope", scope(row["num_keep"], row["alpha"]), row)
    for row in published.table("table3_pope_baselines"):
        yield from _metrics("pope", named(row["pruner"], row["num_keep"]), row)
    for row in published.table("table4_scienceqa"):
        yield from _metrics("scienceqa", scope(row["num_keep"]), row)
    for row in published.table("table6_gap_power_across_benchmarks"):
        run, k = f"gamma/{BENCHMARKS[row['benchmark']]}", row["num_keep"]
        yield run, "score", scope(k), row["scope_default"]
        yield run, "score", scope(k, *PAPERS_GAMMA), row["scope_default"] + row["delta"]
    yield from _prose()


def _metrics(
    run: str, about: Mapping[str, Any], row: Mapping[str, Any]
) -> Iterator[tuple[str, str, Mapping[str, Any], float]]:
    for metric, value in row.items():
        if metric not in ("num_keep", "alpha", "pruner"):
            yield run, metric, about, value


def _prose() -> Iterator[tuple[str, str, Mapping[str, Any], float]]:
    """Yield the numbers of Sections 4.6 to 4.8."""
    content = published.content()
    for split, values in content["section4_6_per_split_ece_scope_default_k128"].items():
        for about, value in zip((full(), scope(128)), values, strict=True):
            yield f"pope:{split}", "ece", about, value
    for k, value in content["section4_7_temperature_scaled_ece"].items():
        yield "pope", "cross_validated_ece", scope(int(k)), value
    for k, value in content["section4_8_selective_80"]["accuracy_at_80"].items():
        yield "pope", "accuracy_at_80", scope(int(k)), value / 100
