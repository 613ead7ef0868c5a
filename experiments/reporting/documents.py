"""A table as text, Markdown, LaTeX and CSV: every number with its interval and its n."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import pathlib
import textwrap
from collections.abc import Iterator, Sequence

from experiments.harness.terminal import inert
from llava_jax import atomic

_WIDTH = 100


@dataclasses.dataclass(frozen=True)
class Column:
    """What stands below a heading.

    Attributes:
        heading: for people.
        name: of the quantity, for programs.
        factor: numbers are shown multiplied by it.
        digits: behind the point.
        signed: show a plus.
    """

    heading: str
    name: str
    factor: float = 1.0
    digits: int = 3
    signed: bool = False

    @property
    def unit(self) -> float:
        """One in the last place that is shown, in the unit of the quantity."""
        return 10.0**-self.digits / self.factor

    def spell(self, value: float | None) -> str:
        """Return a number as it is shown, a dash for none."""
        if value is None or math.isnan(value):
            return "–"
        rounded = round(self.factor * value, self.digits) + 0.0  # no minus before a zero
        return f"{rounded:{'+' if self.signed else ''}.{self.digits}f}"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number; in the units of its quantity, whatever the column's factor.

    Attributes:
        value: None where nothing was run, or there is no number.
        low: end of its 95 % interval, None where it has none.
        high: end of its 95 % interval.
        n: rows that it is of.
        images: pictures that those are about.
        sd: standard deviation over seeds (ddof = 1).
        paper: what the paper has there.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    images: int | None = None
    sd: float | None = None
    paper: float | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: of its files.
        title: one line.
        labels: headings of the leading columns of words.
        columns: of numbers.
        rows: labels and cells of each row.
        note: what a reader must know.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[Cell, ...]], ...]
    note: str = ""

    @property
    def lines(self) -> list[list[str]]:
        """Headings and rows as words: the value, its interval or spread, and the paper's number."""
        head = [*self.labels, *(column.heading for column in self.columns)]
        return [head, *([*labels, *self._spelled(cells)] for labels, cells in self.rows)]

    def _spelled(self, cells: Sequence[Cell]) -> Iterator[str]:
        for column, cell in zip(self.columns, cells, strict=True):
            words = [column.spell(cell.value)]
            if cell.low is not None and cell.high is not None:
                words.append(f"[{column.spell(cell.low)}, {column.spell(cell.high)}]")
            if cell.sd is not None:
                unsigned = dataclasses.replace(column, signed=False)
                words.append(f"± {unsigned.spell(cell.sd)}")
            if cell.paper is not None:
                words.append(f"({column.spell(cell.paper)})")
            yield " ".join(words)

    def markdown(self) -> str:
        """Return a heading, the table and its note."""
        body = markdown(self.lines, len(self.labels))
        title, note = in_markdown(self.title), in_markdown(self.note)
        return f"## {title}\n\n{body}\n\n{note}".rstrip() + "\n"

    def text(self) -> str:
        """Return the table for a terminal: words to the left, numbers to the right."""
        lines = [[inert(cell) for cell in line] for line in self.lines]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = [
            "  ".join(
                cell.ljust(width) if place < len(self.labels) else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        note = textwrap.fill(inert(self.note), _WIDTH)
        return "\n".join([inert(self.title), "", *rows, "", note])

    def latex(self) -> str:
        """Return a float that needs the package booktabs."""
        head, *rows = [" & ".join(map(_in_latex, line)) + r" \\" for line in self.lines]
        kinds = "l" * len(self.labels) + "r" * len(self.columns)
        body = "\n".join([r"\toprule", head, r"\midrule", *rows, r"\bottomrule"])
        caption = _in_latex(" ".join(filter(None, [f"{self.title}.", self.note])))
        return (
            f"\\begin{{table}}\n\\centering\\small\n\\begin{{tabular}}{{{kinds}}}\n{body}\n"
            f"\\end{{tabular}}\n\\caption{{{caption}}}\n\\label{{tab:{self.name}}}\n\\end{{table}}\n"
        )

    def csv(self) -> str:
        """Return one line per number, all digits, with n, pictures, interval and the paper's."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        fields = [field.name for field in dataclasses.fields(Cell)]
        writer.writerow([*(_plain(label) for label in self.labels), "quantity", *fields])
        for labels, cells in self.rows:
            for column, cell in zip(self.columns, cells, strict=True):
                numbers = ["" if x is None else x for x in dataclasses.astuple(cell)]
                writer.writerow([*map(_plain, labels), column.name, *numbers])
        return text.getvalue()

    def write(self, folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
        """Write ``<folder>/<name>.md``, ``.tex`` and ``.csv``; the folder is made."""
        folder.mkdir(parents=True, exist_ok=True)
        contents = {".md": self.markdown(), ".tex": self.latex(), ".csv": self.csv()}
        files = tuple(folder / f"{self.name}{end}" for end in contents)
        for file, content in zip(files, contents.values(), strict=True):
            atomic.write(file, content)
        return files


def markdown(lines: Sequence[Sequence[str]], words: int) -> str:
    """Return a table in Markdown.

    Args:
        lines: the headings, then the rows.
        words: leading columns that are words; the others are numbers, to the right.
    """
    head, *rows = [[in_markdown(word) for word in line] for line in lines]
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *rows])


def in_markdown(text: str) -> str:
    """Escape what would end a cell or begin markup."""
    text = inert(text)
    for character in "\\`*_|<>#":
        text = text.replace(character, f"\\{character}")
    return text


_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{"–": "--", "±": r"$\pm$", "α": r"$\alpha$", "γ": r"$\gamma$", "→": r"$\to$", "≤": r"$\le$"},
    **{"Δ": r"$\Delta$", "×": r"$\times$", "−": r"$-$", "≥": r"$\ge$"},
}


def _in_latex(text: str) -> str:
    """Escape what TeX would obey, and spell the letters it lacks."""
    return "".join(_LATEX.get(character, character) for character in inert(text))


def _plain(text: str) -> str:
    """Return a word that no spreadsheet takes for a formula."""
    text = inert(text)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
