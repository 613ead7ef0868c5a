"""The claims ledger: every number and every trend of the paper beside ours, with a verdict.

* reproduced: a number is the paper's at the precision that it prints; a trend has the claimed sign
  and p < 0.05;
* inside the interval: the paper's number lies in our 95 % interval;
* not: neither;
* not run: a setting is missing.

Nothing here is typed: numbers come from the tables, trends from paired resamples, and what the
paper's own tables contradict is computed from them.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence

from experiments.reporting import page
from experiments.reporting.documents import Cell, Column, Table, in_markdown, markdown
from experiments.reporting.paper import published
from experiments.reporting.paper.claims import Claim, all_claims
from experiments.reporting.paper.contrasts import Contrast, all_hold
from experiments.reporting.paper.evidence import Evidence
from experiments.reporting.paper.inconsistencies import checks, notes
from experiments.reporting.paper.settings import named
from experiments.reporting.paper.tables import COLUMNS, kept

REPRODUCED, INSIDE, NOT, NOT_RUN = "reproduced", "inside the interval", "not", "not run"
VERDICTS = (REPRODUCED, INSIDE, NOT, NOT_RUN)
LEVEL = 0.05
_SCORE = Column("score", "score", 1, 1)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the ledger.

    Attributes:
        where: in the paper.
        says: what it claims.
        trend: whether it is about a difference or a trend, not a number.
        column: how the number is shown.
        cell: ours, with the paper's.
        p_value: of a trend, two-sided; None for a number.
        verdict: one of `VERDICTS`.
    """

    where: str
    says: str
    trend: bool
    column: Column
    cell: Cell
    p_value: float | None
    verdict: str


def entries(found: Evidence, tables: Sequence[Table]) -> tuple[Entry, ...]:
    """Return the ledger.

    Args:
        found: the runs of the study.
        tables: of it, whose cells hold the paper's numbers; Table 1 is the first.
    """
    numbers = [entry for table in tables for entry in _numbers(table)]
    trends = [_trend(found, claim) for claim in all_claims()]
    return (*numbers, *_ends(tables[0]), *_spreads(found), *trends)


def _numbers(table: Table) -> Iterator[Entry]:
    """Yield an entry for every number of the paper in a table."""
    where = table.title.partition(". ")[0]
    for labels, cells in table.rows:
        name = ", ".join(f"{a} = {b}" for a, b in zip(table.labels, labels, strict=True))
        for column, cell in zip(table.columns, cells, strict=True):
            if cell.paper is not None:
                says = f"{name}: {column.heading} is {column.spell(cell.paper)}"
                yield Entry(where, says, False, column, cell, None, of_number(column, cell))


def _ends(table1: Table) -> Iterator[Entry]:
    """Yield the ends of the paper's intervals of ECE, beside those of ours."""
    place = [column.name for column in table1.columns].index("ece")
    for budget, ends in published.content()["table1_pope_scope_default"]["ece_ci95"].items():
        label = kept(int(budget))
        cell = next(cells[place] for labels, cells in table1.rows if labels == (label,))
        for name, number in zip(("low", "high"), ends, strict=True):
            own = Cell(getattr(cell, name), n=cell.n, images=cell.images, paper=number)
            says = f"K = {label}: the {name} end of ECE's interval is {number}"
            column = COLUMNS["ece"]
            yield Entry("Table 1", says, False, column, own, None, of_number(column, own))


def _spreads(found: Evidence) -> Iterator[Entry]:
    """Yield the standard deviations over three random seeds."""
    for row, numbers in published.content()["table3_pope_baselines"]["std_over_3_seeds"].items():
        budget, pruner = row.split(" ", 1)
        for metric, number in numbers.items():
            column = COLUMNS[metric]
            paper = number / column.factor
            cell = found.cell("pope", metric, **named(pruner, int(budget)))
            own = Cell(cell.sd, n=cell.n, images=cell.images, paper=paper)
            says = f"K = {budget}, {pruner}: the standard deviation of {column.heading} over seeds"
            yield Entry("Table 3", says, False, column, own, None, of_number(column, own))


def of_number(column: Column, cell: Cell) -> str:
    """Return the verdict on a number.

    Args:
        column: how it is printed.
        cell: ours and the paper's.
    """
    if cell.value is None or cell.paper is None or math.isnan(cell.value):
        return NOT_RUN
    if column.spell(cell.value) == column.spell(cell.paper):
        return REPRODUCED
    return INSIDE if _inside(cell, column.unit / 2) else NOT


def _inside(cell: Cell, slack: float) -> bool:
    """Return whether the paper's number, as it is rounded, may lie in our interval."""
    if cell.low is None or cell.high is None or cell.paper is None:
        return False
    return cell.low - slack <= cell.paper <= cell.high + slack


def _trend(found: Evidence, claim: Claim) -> Entry:
    """Test a claim."""
    tested = [found.contrast(run, claim.metric, terms) for run, terms in claim.sums]
    known = [contrast for contrast in tested if contrast is not None]
    column = dataclasses.replace(COLUMNS.get(claim.metric, _SCORE), signed=True)
    paper = claim.paper()
    if len(known) < len(tested):
        return Entry(claim.where, claim.says, True, column, Cell(paper=paper), None, NOT_RUN)
    weakest = min(known, key=lambda contrast: contrast.value * (claim.sign or 1))
    run = found.run(claim.sums[known.index(weakest)][0])
    assert run is not None
    cell = Cell(
        value=weakest.value,
        low=weakest.low,
        high=weakest.high,
        n=run.num_rows,
        images=run.num_images,
        paper=paper,
    )
    p_value = all_hold(known, claim.sign) if len(known) > 1 else weakest.p_value
    verdict = of_trend(column, claim.sign, known, cell)
    return Entry(claim.where, claim.says, True, column, cell, p_value, verdict)


def of_trend(column: Column, sign: int, contrasts: Sequence[Contrast], cell: Cell) -> str:
    """Return the verdict on a claim about the sign of one or several sums.

    Args:
        column: how the paper prints what is summed.
        sign: that the paper claims; 0 for no difference, which no data can show: such a claim is
            at best inside the interval.
        contrasts: tested; each must have the sign.
        cell: the weakest of them, and the paper's.
    """
    if sign and all_hold(contrasts, sign) < LEVEL:
        return REPRODUCED
    return INSIDE if _inside(cell, column.unit) else NOT  # of two rounded numbers


def summary(found: Sequence[Entry]) -> str:
    """Return the verdicts counted, numbers and trends apart."""
    lines = []
    for kind, trend in (("numbers", False), ("differences and trends", True)):
        own = [entry for entry in found if entry.trend is trend]
        counts = Counter(entry.verdict for entry in own)
        words = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
        lines.append(f"{len(own)} {kind}: {words}" if own else f"0 {kind}")
    return "; ".join(lines)


def render(found: Sequence[Entry], heading: str) -> str:
    """Return the ledger as Markdown: trends first, then numbers, then the paper against itself.

    Args:
        found: the ledger.
        heading: which model and data it was.
    """
    parts = [f"# Claims ledger\n\n{in_markdown(heading)}\n\n{summary(found)}.\n\n{_KEY}"]
    for title, trend in (("Differences and trends", True), ("Numbers", False)):
        own = [_words(entry) for entry in found if entry.trend is trend]
        parts.append(f"## {title}\n\n{markdown([_HEAD, *own], len(_HEAD))}")
    own = [[c.where, c.says, f"{c.one:g}", f"{c.other:g}", c.verdict] for c in checks()]
    head = ["where", "should hold", "one", "other", "verdict"]
    parts.append(f"## The paper against itself\n\n{markdown([head, *own], len(head))}")
    parts.append("\n".join(f"* {in_markdown(note)}" for note in notes()))
    return "\n\n".join(parts) + "\n"


def shown(found: Sequence[Entry]) -> page.Table:
    """Return the ledger as the page takes it, trends first."""
    rows = [tuple(_words(e)) for trend in (True, False) for e in found if e.trend is trend]
    note = f"{summary(found)}. {_KEY.replace('*', '')}"
    return page.Table("Claims ledger", tuple(_HEAD), tuple(rows), note)


_HEAD = ["where", "claim", "paper", "ours", "95 % interval", "p", "verdict"]
_KEY = (
    "Numbers are reproduced if they are the paper's at its precision; differences and trends if "
    f"they have the claimed sign and p < {LEVEL}: two-sided, by exchanging the settings within "
    "pictures, not corrected for the number of claims; of several sums, the weakest. *Inside the "
    "interval*: the paper's number lies in our 95 % interval, by paired resamples of pictures."
)


def _words(entry: Entry) -> list[str]:
    """Return a row of the ledger as words."""
    cell, spell = entry.cell, entry.column.spell
    interval = "" if cell.low is None else f"[{spell(cell.low)}, {spell(cell.high)}]"
    p_value = "" if entry.p_value is None else f"{entry.p_value:.3f}"
    numbers = [spell(cell.paper), spell(cell.value), interval, p_value]
    return [entry.where, entry.says, *numbers, entry.verdict]


def to_csv(found: Sequence[Entry]) -> str:
    """Return one line per claim, all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = ("paper", "value", "low", "high", "sd", "n", "images")
    writer.writerow(["where", "claim", "quantity", *fields, "p", "verdict"])
    for entry in found:
        numbers = [getattr(entry.cell, name) for name in fields] + [entry.p_value]
        words = ["" if number is None else number for number in numbers]
        writer.writerow([entry.where, entry.says, entry.column.name, *words, entry.verdict])
    return text.getvalue()
