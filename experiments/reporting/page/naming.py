"""What the page calls the settings of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.reporting.runs import Setting, method


@dataclasses.dataclass(frozen=True)
class Named:
    """A setting and its names.

    Attributes:
        setting: the setting.
        method: all but the budget, such as ``random, seed 1``.
        label: the budget too, such as ``random, seed 1, K = 64``.
    """

    setting: Setting
    method: str
    label: str


def ordered(settings: Sequence[Setting]) -> tuple[Named, ...]:
    """Name settings and sort them by method and budget, full tokens first.

    Args:
        settings: full tokens first.
    """
    abouts = [setting.about for setting in settings]
    full, *others = (Named(s, *_names(s.about, abouts)) for s in settings)
    full = dataclasses.replace(full, method="full tokens", label="full tokens")
    return full, *sorted(others, key=lambda n: (n.method, n.setting.about["budget"], n.label))


def by_method(named: Sequence[Named]) -> dict[str, list[int]]:
    """Return method → places of its settings, budgets rising, full tokens left out."""
    found: dict[str, list[int]] = {}
    for place, one in enumerate(named[1:], 1):
        found.setdefault(one.method, []).append(place)
    return found


def _names(about: Mapping[str, Any], abouts: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return method and label: the pruner, and the values in which its settings differ."""
    name, others = method(about, abouts), [x for x in abouts if x["pruner"] == about["pruner"]]
    if any(other["seed"] != about["seed"] for other in others):
        name += f", seed {about['seed']}"
    return name, f"{name}, K = {about['budget']}"
