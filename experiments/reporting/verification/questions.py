"""The questions of a run against what its records and its run.json say of them.

Words of a question, its category, group and options have no second copy: a change in them is seen
only where it breaks the line or changes which rows ask the same, or a score.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from experiments.harness import records
from experiments.harness.questions import Question
from experiments.harness.records import Record
from experiments.reporting.verification import findings
from experiments.reporting.verification.findings import Finding

_LISTS = ("choices", "options", "references")
_FIELDS = {f.name: list if f.name in _LISTS else str for f in dataclasses.fields(Question)}


@dataclasses.dataclass(frozen=True)
class Asked:
    """The questions of a file.

    Attributes:
        file: where they are.
        lines: key → number of its line, from 1.
        questions: key → question, in the order of the file.
        findings: lines that are no question.
    """

    file: pathlib.Path
    lines: Mapping[str, int]
    questions: Mapping[str, Question]
    findings: list[Finding]


def read(file: pathlib.Path) -> Asked:
    """Read a questions file, whatever it holds."""
    data = findings.content(file)
    if isinstance(data, Finding):
        return Asked(file, {}, {}, [data])
    lines: dict[str, int] = {}
    asked: dict[str, Question] = {}
    found = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line and number == data.count(b"\n") + 1:
            continue  # behind the last newline
        question = _question(line)
        if isinstance(question, str) or question.key in lines:
            what = question if isinstance(question, str) else "has the key of a line before it"
            found.append(Finding(file, f"line {number}", what))
        else:
            lines[question.key], asked[question.key] = number, question
    if not data.endswith(b"\n"):
        found.append(Finding(file, "", "does not end with a newline"))
    return Asked(file, lines, asked, findings.some(found))


def _question(line: bytes) -> Question | str:
    """Return the question of a line, or what is wrong with it."""
    try:
        row = json.loads(line)
        written = json.dumps(row, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        return f"is no JSON: {error}"
    if not isinstance(row, dict) or {k: type(v) for k, v in row.items()} != _FIELDS:
        return "has not just the fields of a question"
    if not all(isinstance(word, str) for name in _LISTS for word in row[name]):
        return "has a list of other than words"
    if written != line:
        return f"is not as it was written from byte {findings.first_difference(line, written)} on"
    fields: dict[str, Any] = {k: tuple(v) if k in _LISTS else v for k, v in row.items()}
    return Question(**fields)


def compare(
    asked: Asked, file: pathlib.Path, run: Mapping[str, Any], rows: Mapping[str, Record]
) -> list[Finding]:
    """Compare the questions with a setting that answered them.

    Args:
        asked: the questions.
        file: the setting's run.json.
        run: its contents.
        rows: key → its record.
    """
    expected, usual, found = run["expected"], _usual(asked.questions.values()), []
    if len(asked.questions) != expected["rows"]:
        what = f"has {len(asked.questions)} questions, {expected['rows']} were asked"
        found.append(Finding(asked.file, "", what))
    for key in sorted(rows.keys() - asked.questions.keys()):
        found.append(Finding(asked.file, key, "was answered and is not among the questions"))
    for key, question in asked.questions.items():
        different = _differences(question, rows[key], usual) if key in rows else ["has no answer"]
        place = f"line {asked.lines[key]} ({key})"
        found += [Finding(asked.file, place, what) for what in different]
    digest = hashlib.sha256(records.canonical(_order(asked.questions.values()))).hexdigest()
    if found or digest == expected["sha256"]:
        return findings.some(found)
    if findings.is_misspelt(expected["sha256"], digest):
        return [Finding(file, "expected.sha256", findings.unlike(expected["sha256"], digest))]
    what = "would be asked in another order than they were: the words of one have changed"
    return [Finding(asked.file, "questions", what)]


def _usual(asked: Iterable[Question]) -> dict[int, tuple[str, ...]]:
    """Return number of choices → the choices that most questions with so many have."""
    counts = collections.Counter(question.choices for question in asked)
    return {len(choices): choices for choices, _ in reversed(counts.most_common())}


def _differences(
    question: Question, row: Record, usual: Mapping[int, tuple[str, ...]]
) -> Iterator[str]:
    """Yield where a question contradicts its record, or the other questions."""
    for name in ("image", "split"):
        one, other = getattr(question, name), getattr(row, name)
        if one != other:
            yield f"has the {name} {one!r:.80}, its record {other!r:.80}"
    choices, label = question.choices, row.label
    if len(choices) != len(row.log_masses):
        yield f"has {len(choices)} choices, its record measures {len(row.log_masses)}"
    if choices != usual[len(choices)]:
        yield f"has the choices {choices!r:.80}, other questions {usual[len(choices)]!r:.80}"
    if label is None or label < len(choices):
        right = "" if label is None else choices[label]
        right = right if len(right) == 1 else right.lower()  # a letter, or yes or no
        if question.right != right:
            yield f"has the right choice {question.right!r:.80}, its record says {right!r:.80}"


def _order(asked: Iterable[Question]) -> list[str]:
    """Return the keys as a run asks them: picture by picture, those that ask the same together."""
    grouped: dict[str, dict[Any, list[str]]] = {}
    for question in asked:
        same = grouped.setdefault(question.image, {})
        same.setdefault((question.text, question.choices), []).append(question.key)
    return [key for same in grouped.values() for keys in same.values() for key in keys]
