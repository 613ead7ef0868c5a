"""Tables for the terminal: one row per setting, its 95 % interval below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.harness.terminal import inert

# (heading, metric, factor, digits): the paper's columns, accuracy and overconfidence in points.
COLUMNS = (
    ("acc %", "accuracy", 100, 1),
    ("conf %", "mean_confidence", 100, 1),
    ("over", "overconfidence", 100, 1),
    ("ECE", "ece", 1, 3),
    ("Brier", "brier", 1, 3),
    ("NLL", "nll", 1, 3),
    ("AURC", "aurc", 1, 3),
    ("acc@80 %", "accuracy_at_80", 100, 1),
    ("T", "temperature", 1, 2),
    ("T grid", "temperature_grid", 1, 2),
    ("cv ECE", "cross_validated_ece", 1, 3),
    ("mass", "answer_mass", 1, 3),
)


def render(entries: Sequence[Mapping[str, Any]], splits: Sequence[str]) -> str:
    """Return the pooled table and, if several splits have rows, one table per split.

    Args:
        entries: of results.json.
        splits: names, in order.
    """
    parts = [_table("all", [(e, e["metrics"]) for e in entries])]
    filled = [split for split in splits if any(split in e["splits"] for e in entries)]
    for split in filled if len(filled) > 1 else ():  # one alone is all
        having = [e for e in entries if split in e["splits"]]
        own = [({**e, "n": e["splits"][split]["n"]}, e["splits"][split]) for e in having]
        parts.append(_table(split, own))
    return "\n\n".join(parts)


def _table(title: str, rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    """Return a table of (entry, metrics), with tokens if an entry says how many there were."""
    counted = any(entry.get("visual_tokens") for entry, _ in rows)
    lines = [[title, "n", *["tokens"] * counted, *(heading for heading, *_ in COLUMNS)]]
    for entry, metrics in rows:
        own = [entry["setting"], str(entry["n"]), *[_tokens(entry)] * counted]
        lines.append([*own, *(_value(metrics, column) for column in COLUMNS)])
        lines.append([""] * len(own) + [_interval(metrics, column) for column in COLUMNS])
    return _align(lines)


def _tokens(entry: Mapping[str, Any]) -> str:
    """Return the visual tokens that stood behind an answer, the mean over decoder layers."""
    count = entry.get("visual_tokens")
    return "–" if count is None else f"{count:.1f}".removesuffix(".0")


def _align(lines: Sequence[Sequence[str]]) -> str:
    """Pad cells to columns, the first to the left and the others to the right."""
    lines = [[inert(cell) for cell in line] for line in lines]  # names may be a stranger's
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = []
    for first, *others in lines:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        rows.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(rows)


def _value(metrics: Mapping[str, Any], column: tuple[str, str, int, int]) -> str:
    _, name, factor, digits = column
    value = metrics[name]["value"]
    return "–" if value is None else f"{factor * value:.{digits}f}"


def _interval(metrics: Mapping[str, Any], column: tuple[str, str, int, int]) -> str:
    _, name, factor, digits = column
    low, high = metrics[name]["low"], metrics[name]["high"]
    if low is None or high is None:
        return ""
    return f"[{factor * low:.{digits}f}, {factor * high:.{digits}f}]"


def render_scores(entries: Sequence[tuple[str, Mapping[str, Mapping[str, float]]]]) -> str:
    """Return what each tool says of each setting, parts (names with a dot) left out.

    Args:
        entries: name of a setting and its scores, tool → name → number.
    """
    names = dict.fromkeys(
        (tool, name)
        for _, scores in entries
        for tool, numbers in scores.items()
        for name in numbers
        if "." not in name
    )
    lines = [["scores by", *(tool for tool, _ in names)], ["", *(name for _, name in names)]]
    for setting, scores in entries:
        values = (scores.get(tool, {}).get(name) for tool, name in names)
        lines.append([setting, *("–" if x is None else f"{x:.4g}" for x in values)])
    return _align(lines)


def render_over_seeds(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return mean ± standard deviation of settings run with several seeds; empty if none was."""
    if not entries:
        return ""
    lines = [["over seeds", *(heading for heading, *_ in COLUMNS)]]
    for entry in entries:
        name = f"{entry['pruner']} K={entry['budget']}, {len(entry['seeds'])} seeds"
        lines.append([name, *(_spread(entry["metrics"], column) for column in COLUMNS)])
    return _align(lines)


def _spread(metrics: Mapping[str, Any], column: tuple[str, str, int, int]) -> str:
    _, name, factor, digits = column
    mean, sd = metrics[name]["mean"], metrics[name]["sd"]
    return "–" if mean is None else f"{factor * mean:.{digits}f} ± {factor * sd:.{digits}f}"
