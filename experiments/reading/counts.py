"""How many rows the known versions of a benchmark have."""

from __future__ import annotations

from collections.abc import Mapping

from absl import logging


def check(found: int, known: Mapping[int, str], name: str) -> None:
    """Warn of a number of rows that no known version has, or name the version.

    Args:
        found: rows that were read.
        known: number of rows → the version that has them.
        name: of what was read.
    """
    if found in known:
        logging.info("%s has %d rows: %s", name, found, known[found])
        return
    versions = "; ".join(f"{count}: {version}" for count, version in known.items())
    logging.warning("%s has %d rows, as no version known here (%s)", name, found, versions)
