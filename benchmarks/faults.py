"""The fault suite in full, and its table.

python -m benchmarks.faults -n 2                  # half an hour on two cores; writes faults.md
python -m benchmarks.faults -k "torn or flipped"  # some of it, printed only
"""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Sequence

import pytest

from benchmarks.harness import machine

FILE = pathlib.Path(__file__).with_name("faults.md")
_HEAD = """# The fault suite

What `tests/faults` injects and what was seen; every count is one that the test made. A few of each
run in CI, all of them by `python -m benchmarks.faults`, which wrote this page.

K kills, D disks, C several processes, W weights, S strangers' files, N numbers, M memory, F command
lines and surroundings, P pruners, G object stores.
"""


class _Collected:
    """Takes what tests say they have shown, and which failed."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, str, str, float]] = []
        self.failed: list[str] = []
        self.passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
        if report.when == "call" and report.passed:
            self.passed += 1
            file = pathlib.Path(report.location[0]).name
            for fault, result in report.user_properties:
                self.shown.append((fault, str(result), file, report.duration))


def main(argv: Sequence[str]) -> int:
    """Run the suite; write the page if all of it ran."""
    found = _Collected()
    flags = ["tests/faults", "-q", "-m", "not few", *argv]
    code = int(pytest.main(flags, plugins=[found]))
    page = _page(found)
    if "-k" in argv:
        print(page)
    else:
        FILE.write_text(page, "utf-8")
    return code


def _page(found: _Collected) -> str:
    about = machine()
    versions = ", ".join(f"{name} {about['versions'][name]}" for name in ("jax", "numpy"))
    lines = [_HEAD, "| fault | shown | test | seconds |", "| --- | --- | --- | --- |"]
    for fault, result, file, seconds in sorted(found.shown, key=_order):
        lines.append(f"| {fault} | {result} | `{file}` | {seconds:.1f} |")
    ending = ", ".join(found.failed) or "none"
    lines += ["", f"{found.passed} tests passed; failed: {ending}.", ""]
    lines.append(f"{about['cores']} cores of {about['cpu']}, Python {about['python']}, {versions}.")
    return "\n".join([*lines, ""])


def _order(row: tuple[str, str, str, float]) -> tuple[str, int, str]:
    """Sort K2 before K10, words behind ids."""
    number = re.search(r"\d+", row[0])
    return re.split(r"\d", row[0])[0], int(number[0]) if number else 0, row[1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
