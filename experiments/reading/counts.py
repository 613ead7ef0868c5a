"""Whether a file has all of a benchmark's questions, and each once."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping

from absl import logging

from experiments.harness.benchmark import Example
from experiments.harness.errors import InputError


def checked(examples: Iterable[Example], known: Mapping[int, str], name: str) -> list[Example]:
    """Return the questions that were read; warn of a number that no known version has.

    Args:
        examples: as read.
        known: number of questions → the version that has them.
        name: of what was read.

    Raises:
        InputError: there are none, or two have a key.
    """
    found = list(examples)
    if not found:
        raise InputError(f"{name} has no questions")
    for key, times in collections.Counter(example.key for example in found).items():
        if times > 1:
            raise InputError(f"{name}: question {key} occurs {times} times")
    if len(found) in known:
        logging.info("%s has %d questions: %s", name, len(found), known[len(found)])
    else:
        versions = "; ".join(f"{count}: {version}" for count, version in known.items())
        logging.warning(
            "%s has %d questions, as no version known here (%s)", name, len(found), versions
        )
    return found
