"""The paper's tables, ours beside its numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.reporting.documents import Cell, Column, Table
from experiments.reporting.paper import published
from experiments.reporting.paper.evidence import SCORE, Evidence
from experiments.reporting.paper.settings import (
    BENCHMARKS,
    GAMMAS,
    PAPERS_GAMMA,
    SPLITS,
    named,
    scope,
    scope_of,
)

COLUMNS: Mapping[str, Column] = {
    "accuracy": Column("accuracy %", "accuracy", 100, 1),
    "mean_confidence": Column("confidence %", "mean_confidence", 100, 1),
    "overconfidence": Column("overconfidence %", "overconfidence", 100, 1, signed=True),
    "ece": Column("ECE", "ece"),
    "cross_validated_ece": Column("ECE, scaled", "cross_validated_ece"),
    "brier": Column("Brier", "brier"),
    "nll": Column("NLL", "nll"),
    "aurc": Column("AURC", "aurc"),
    "accuracy_at_80": Column("accuracy at 80 %", "accuracy_at_80", 100, 1),
    "temperature": Column("T", "temperature", 1, 2),
}
_OURS = "ours [95 % interval] (the paper's)"


def all_tables(found: Evidence) -> tuple[Table, ...]:
    """Return every table; what was not run is empty beside the paper's numbers.

    Args:
        found: the runs of the study.
    """
    makers = (_table1, _table2, _table3, _table4, _splits, _temperature, _selective, _table6)
    made = [make(found) for make in makers[:4]]
    made += [_table5(found, 1.0), _table5(found, 0.0)]
    made += [make(found) for make in makers[4:]]
    heading = f"Measured: {found.heading}."
    return tuple(dataclasses.replace(table, note=f"{table.note} {heading}") for table in made)


def _row(
    found: Evidence,
    run: str,
    paper: Mapping[str, Any],
    metrics: tuple[str, ...],
    about: Mapping[str, Any],
) -> tuple[Cell, ...]:
    """Return the cells of a setting, the paper's numbers among them."""
    return tuple(found.cell(run, metric, paper.get(metric), **about) for metric in metrics)


def _table1(found: Evidence) -> Table:
    metrics = ("accuracy", "ece", "brier", "nll", "aurc", "temperature")
    rows = published.table("table1_pope_scope_default")
    return Table(
        "table1",
        "Table 1. POPE, default SCOPE",
        ("K",),
        tuple(COLUMNS[metric] for metric in metrics),
        tuple(
            ((kept(k),), _row(found, "pope", row, metrics, scope(k)))
            for row in rows
            for k in [row["num_keep"]]
        ),
        f"{_OURS}. T minimises the NLL; the paper's are multiples of 0.05.",
    )


def kept(budget: int) -> str:
    """Return how a budget is shown: full tokens of another model are not 576."""
    return "all" if budget == published.FULL_BUDGET else str(budget)


def _table2(found: Evidence) -> Table:
    metrics = ("accuracy", "ece")
    rows = published.table("table2_pope_alpha_sweep")
    return Table(
        "table2",
        "Table 2. POPE, SCOPE with the exponent α of saliency",
        ("α", "K"),
        tuple(COLUMNS[metric] for metric in metrics),
        tuple(
            (
                (f"{row['alpha']:g}", str(row["num_keep"])),
                _row(found, "pope", row, metrics, scope(row["num_keep"], row["alpha"])),
            )
            for row in rows
        ),
        f"{_OURS}.",
    )


def _table3(found: Evidence) -> Table:
    metrics = ("accuracy", "ece", "brier", "overconfidence")
    rows = published.table("table3_pope_baselines")
    return Table(
        "table3",
        "Table 3. POPE, pruners compared",
        ("K", "pruner"),
        tuple(COLUMNS[metric] for metric in metrics),
        tuple(
            (
                (kept(row["num_keep"]), row["pruner"]),
                _row(found, "pope", row, metrics, named(row["pruner"], row["num_keep"])),
            )
            for row in rows
        ),
        f"{_OURS}. Random is the mean of three seeds ± standard deviation (ddof = 1); its "
        "interval is about pictures.",
    )


def _table4(found: Evidence) -> Table:
    metrics = ("accuracy", "ece", "mean_confidence", "overconfidence")
    rows = published.table("table4_scienceqa")
    return Table(
        "table4",
        "Table 4. ScienceQA-IMG, default SCOPE",
        ("K",),
        tuple(COLUMNS[metric] for metric in metrics),
        tuple(
            ((kept(k),), _row(found, "scienceqa", row, metrics, scope(k)))
            for row in rows
            for k in [row["num_keep"]]
        ),
        f"{_OURS}.",
    )


def _splits(found: Evidence) -> Table:
    """Return ECE per split (§4.6)."""
    paper = published.content()["section4_6_per_split_ece_scope_default_k128"]
    budgets = (published.FULL_BUDGET, 128)
    return Table(
        "splits",
        "Section 4.6. POPE, ECE of each split",
        ("split",),
        tuple(Column(f"K = {kept(k)}", f"ece at {kept(k)}") for k in budgets),
        tuple(
            (
                (split,),
                tuple(
                    found.cell(f"pope:{split}", "ece", number, **scope(k))
                    for k, number in zip(budgets, paper[split], strict=True)
                ),
            )
            for split in SPLITS
        ),
        f"{_OURS}. The splits share their positive questions.",
    )


def _temperature(found: Evidence) -> Table:
    """Return ECE after cross-validated temperature scaling (§4.7)."""
    paper = published.content()["section4_7_temperature_scaled_ece"]
    metrics = ("ece", "cross_validated_ece", "temperature")
    return Table(
        "temperature",
        "Section 4.7. POPE, five-fold cross-validated temperature",
        ("K",),
        tuple(COLUMNS[metric] for metric in metrics),
        tuple(
            (
                (kept(int(k)),),
                _row(found, "pope", {"cross_validated_ece": x}, metrics, scope(int(k))),
            )
            for k, x in paper.items()
        ),
        f"{_OURS}. ECE of the pooled out-of-fold rows.",
    )


def _selective(found: Evidence) -> Table:
    """Return accuracy at 80 % coverage and AURC (§4.8)."""
    paper = published.content()["section4_8_selective_80"]
    metrics = ("accuracy_at_80", "aurc")
    return Table(
        "selective",
        "Section 4.8. POPE, selective prediction",
        ("K",),
        tuple(COLUMNS[metric] for metric in metrics),
        tuple(
            (
                (kept(int(k)),),
                _row(
                    found,
                    "pope",
                    {"accuracy_at_80": paper["accuracy_at_80"][k] / 100, "aurc": paper["aurc"][k]},
                    metrics,
                    scope(int(k)),
                ),
            )
            for k in paper["aurc"]
        ),
        f"{_OURS}. The 80 % with the largest margin are answered.",
    )


def _table5(found: Evidence, alpha: float) -> Table:
    rows = published.table("table5_mme_gap_power")
    paper = ("g1", "g2", "g3", "g4")
    about = [scope_of(alpha, gamma) for gamma in GAMMAS]
    heads = [f"γ = {gamma:g}" for gamma in GAMMAS]
    own = paper if alpha == 1.0 else ()

    def cells(row: Mapping[str, Any]) -> Iterator[Cell]:
        for i, setting in enumerate(about):
            number = row[own[i]] if own else None
            yield found.cell("gamma/mme", SCORE, number, **setting, budget=row["num_keep"])
        number = row["scope_default"] if own else None  # stands in one of the two tables
        yield found.cell("gamma/mme", SCORE, number, **scope(row["num_keep"]))

    return Table(
        "table5" if alpha == 1.0 else "table5_alpha0",
        f"Table 5. MME, perception + cognition, by the exponent γ of the gap at α = {alpha:g}",
        ("K",),
        tuple(Column(head, head, 1, 0) for head in [*heads, "default"]),
        tuple(((str(row["num_keep"]),), tuple(cells(row))) for row in rows),
        f"{_OURS}. The paper's four γ are not legible: its columns stand in their order.",
    )


def _table6(found: Evidence) -> Table:
    rows = published.table("table6_gap_power_across_benchmarks")
    own = tuple((alpha, gamma) for alpha in (1.0, 0.0) for gamma in GAMMAS)

    def cells(row: Mapping[str, Any]) -> Iterator[Cell]:
        run, k = f"gamma/{BENCHMARKS[row['benchmark']]}", row["num_keep"]
        yield found.cell(run, SCORE, row["scope_default"], **scope(k))
        for alpha, gamma in own:
            paper = row["delta"] if (alpha, gamma) == PAPERS_GAMMA else None
            yield difference(found, run, SCORE, scope(k, alpha, gamma), scope(k), paper)

    return Table(
        "table6",
        "Table 6. The exponent γ of the gap on seven benchmarks",
        ("benchmark", "K"),
        (
            Column("default", SCORE, 1, 1),
            *(
                Column(f"Δ γ = {g:g}, α = {a:g}", f"delta gamma {g:g} alpha {a:g}", 1, 1, True)
                for a, g in own
            ),
        ),
        tuple(((row["benchmark"], str(row["num_keep"])), tuple(cells(row))) for row in rows),
        f"{_OURS}. Δ: from default SCOPE, paired. The paper's γ, its third, stands at "
        f"γ = {PAPERS_GAMMA[1]:g}.",
    )


def difference(
    found: Evidence,
    run: str,
    metric: str,
    one: Mapping[str, Any],
    other: Mapping[str, Any],
    paper: float | None = None,
) -> Cell:
    """Return the paired difference one − other of two settings.

    Args:
        found: the runs of the study.
        run: name of one.
        metric: its name.
        one: setting.
        other: setting.
        paper: what the paper has there.
    """
    terms = {tuple(one.items()): 1.0, tuple(other.items()): -1.0}
    of, tested = found.run(run), found.contrast(run, metric, terms)
    if tested is None or of is None:
        return Cell(paper=paper)
    own = {"value": tested.value, "low": tested.low, "high": tested.high}
    return Cell(**own, n=of.num_rows, images=of.num_images, paper=paper)
