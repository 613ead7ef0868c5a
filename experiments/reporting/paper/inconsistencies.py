"""What the paper's own tables say twice, and where they disagree."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from experiments.reporting.paper import published

HOLDS, ROUNDING, BROKEN = "holds", "holds within rounding", "does not hold"


@dataclasses.dataclass(frozen=True)
class Check:
    """Two numbers of the paper that should agree, or be in order.

    Attributes:
        where: in the paper.
        says: what should hold.
        one: number on the left.
        other: number on the right.
        verdict: whether it does.
    """

    where: str
    says: str
    one: float
    other: float
    verdict: str


def checks() -> tuple[Check, ...]:
    """Return every check of the paper's tables among themselves."""
    return (*_printed_twice(), *_bounds(), *_sums(), *_splits(), *_protocols())


def notes() -> tuple[str, ...]:
    """Return what is known of the tables besides, in words."""
    return tuple(published.content()["notes"])


def _equal(where: str, says: str, one: float, other: float, unit: float) -> Check:
    """Compare two numbers that are printed with this unit."""
    apart = round(abs(one - other) / unit, 6)
    verdict = f"differs by {apart:g} in the last place" if apart else HOLDS
    return Check(where, says, one, other, verdict)


def _by_budget(name: str) -> Mapping[int, Mapping[str, float]]:
    return {row["num_keep"]: row for row in published.table(name)}


def _printed_twice() -> Iterator[Check]:
    """Yield numbers that two tables print."""
    first = _by_budget("table1_pope_scope_default")
    for row in published.table("table2_pope_alpha_sweep"):
        if row["alpha"] == 1.0:
            for metric in ("accuracy", "ece"):
                k = row["num_keep"]
                says = f"{metric} of default SCOPE at K = {k} is the same"
                yield _equal("Tables 1, 2", says, first[k][metric], row[metric], 0.001)
    for row in published.table("table3_pope_baselines"):
        if row["pruner"] in ("none", "scope alpha=1"):
            for metric in ("accuracy", "ece", "brier"):
                k = row["num_keep"]
                says = f"{metric} of {row['pruner']} at K = {k} is the same"
                yield _equal("Tables 1, 3", says, first[k][metric], row[metric], 0.001)
    fifth = _by_budget("table5_mme_gap_power")
    for row in published.table("table6_gap_power_across_benchmarks"):
        if row["benchmark"] == "MME":
            for column in ("scope_default", "g3"):
                k = row["num_keep"]
                says = f"MME, {column}, K = {k} is the same"
                yield _equal("Tables 5, 6", says, fifth[k][column], row[column], 1.0)


def _bounds() -> Iterator[Check]:
    """Yield ECE ≥ |overconfidence|, which holds for every binning."""
    names = {"table3_pope_baselines": "Table 3", "table4_scienceqa": "Table 4"}
    for name, where in names.items():
        for row in published.table(name):
            ece, over = row["ece"], abs(row["overconfidence"])
            what = f"{row.get('pruner', 'SCOPE')}, K = {row['num_keep']}"
            short = round(over - ece, 6)
            verdict = HOLDS if short <= 0 else ROUNDING if short <= 0.001 else BROKEN
            yield Check(where, f"ECE ≥ |overconfidence| ({what})", ece, over, verdict)


def _sums() -> Iterator[Check]:
    """Yield confidence − accuracy = overconfidence, and Δ = γ's score − the default's."""
    for row in published.table("table4_scienceqa"):
        apart = round(row["mean_confidence"] - row["accuracy"], 6)
        says = f"confidence − accuracy = overconfidence (K = {row['num_keep']})"
        yield _equal("Table 4", says, apart, row["overconfidence"], 0.001)
    for row in published.table("table6_gap_power_across_benchmarks"):
        apart = round(row["g3"] - row["scope_default"], 6)
        unit = 1.0 if row["benchmark"] == "MME" else 0.1
        says = f"Δ is the difference of the two scores ({row['benchmark']}, K = {row['num_keep']})"
        yield _equal("Table 6", says, apart, row["delta"], unit)


def _splits() -> Iterator[Check]:
    """Yield that the pooled ECE is at most the mean of the splits', as |Σ gaps| is convex."""
    splits = published.content()["section4_6_per_split_ece_scope_default_k128"]
    first = _by_budget("table1_pope_scope_default")
    for i, k in enumerate((published.FULL_BUDGET, 128)):
        mean = round(sum(values[i] for values in splits.values()) / len(splits), 6)
        over = round(first[k]["ece"] - mean, 6)
        verdict = HOLDS if over <= 0 else ROUNDING if over <= 0.001 else BROKEN
        says = f"pooled ECE ≤ mean of the splits' ECE (K = {k})"
        yield Check("Table 1, Section 4.6", says, first[k]["ece"], mean, verdict)


def _protocols() -> Iterator[Check]:
    """Yield numbers under one name that two protocols gave."""
    fourth = _by_budget("table4_scienceqa")
    first = _by_budget("table1_pope_scope_default")
    for row in published.table("table6_gap_power_across_benchmarks"):
        k, score = row["num_keep"], row["scope_default"]
        if row["benchmark"] == "SQA":
            says = f"ScienceQA accuracy of default SCOPE at K = {k}: first token, generated"
            one = round(100 * fourth[k]["accuracy"], 6)
            yield _equal("Tables 4, 6", says, one, score, 0.1)
        if row["benchmark"] == "POPE":
            says = f"POPE of default SCOPE at K = {k}: accuracy, F1"
            yield _equal("Tables 1, 6", says, round(100 * first[k]["accuracy"], 6), score, 0.1)
