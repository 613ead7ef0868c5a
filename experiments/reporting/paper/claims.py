"""What the paper says of its tables: differences and trends, to be tested on ours.

Its sentences are rephrased; each is a sum of numbers that its tables print.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.reporting.paper import published
from experiments.reporting.paper.contrasts import slope_weights
from experiments.reporting.paper.printed import printed
from experiments.reporting.paper.settings import (
    ALPHAS,
    BENCHMARKS,
    PAPERS_GAMMA,
    SPLITS,
    full,
    scope,
)

Terms = Mapping[tuple[tuple[str, Any], ...], float]
"""Setting, as pairs of name and value → its weight in a sum."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence about a sum of settings, Σ wₛ mₛ, or about several that all have one sign.

    Attributes:
        where: in the paper.
        says: in our words.
        metric: of the settings.
        sums: run → terms of a sum; each must have the sign.
        sign: that the paper claims: −1, 1, or 0 for no difference.
    """

    where: str
    says: str
    metric: str
    sums: tuple[tuple[str, Terms], ...]
    sign: int

    def paper(self) -> float | None:
        """Return the sum of the paper's numbers, the weakest of several; None if one is missing."""
        values = [_printed_sum(run, self.metric, terms) for run, terms in self.sums]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        return min(known, key=lambda x: x * (self.sign or 1))


def _printed_sum(run: str, metric: str, terms: Terms) -> float | None:
    numbers = [printed(run, metric, dict(about)) for about in terms]
    if None in numbers:
        return None
    return sum(w * x for w, x in zip(terms.values(), numbers, strict=True) if x is not None)


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> Terms:
    """Return the terms of one − other."""
    return {tuple(one.items()): 1.0, tuple(other.items()): -1.0}


def slope(settings: Mapping[float, Mapping[str, Any]]) -> Terms:
    """Return the terms of the least-squares slope over x: x → setting."""
    weights = slope_weights(list(settings))
    pairs = zip(settings.values(), weights, strict=True)
    return {tuple(about.items()): float(weight) for about, weight in pairs}


def all_claims() -> tuple[Claim, ...]:
    """Return every claim, in the paper's order."""
    return (*_table1(), *_table2(), *_table3(), *_table4(), *_sections(), *_gamma())


def _table1() -> Iterator[Claim]:
    for k in (192, 128, 64):
        says = f"SCOPE with {k} tokens has a lower ECE than all tokens"
        yield Claim("Table 1", says, "ece", (("pope", difference(scope(k), full())),), -1)
    ends = tuple(("pope", difference(scope(128), other)) for other in (full(), scope(32)))
    yield Claim(
        "Table 1, Figure 3a",
        "ECE over the budget is U-shaped: lower at K = 128 than with all tokens and at K = 32",
        "ece",
        ends,
        -1,
    )
    yield Claim(
        "Table 1",
        "128 tokens answer as well as all",
        "accuracy",
        (("pope", difference(scope(128), full())),),
        0,
    )
    for metric, name in (("brier", "Brier score"), ("nll", "NLL"), ("aurc", "AURC")):
        says = f"SCOPE with 128 tokens has a lower {name} than all tokens"
        yield Claim("Table 1", says, metric, (("pope", difference(scope(128), full())),), -1)


def _table2() -> Iterator[Claim]:
    trends = {k: slope({alpha: scope(k, alpha) for alpha in ALPHAS}) for k in (64, 128, 192)}
    for k, terms in trends.items():
        says = f"ECE falls as α falls, at K = {k} (slope over α)"
        yield Claim("Table 2, Figure 2", says, "ece", (("pope", terms),), 1)
    joint = tuple(("pope", terms) for terms in trends.values())
    says = "ECE falls as α falls at all three budgets (smallest slope)"
    yield Claim("Table 2, Figure 2", says, "ece", joint, 1)


def _table3() -> Iterator[Claim]:
    for k in (128, 64):
        for name in ("saliency", "random"):
            other = {"pruner": name, "budget": k}
            says = f"SCOPE at α = 0 has a lower ECE than {name}, K = {k}"
            terms = difference(scope(k, 0.0), other)
            yield Claim("Table 3, Figure 3b", says, "ece", (("pope", terms),), -1)
            says = f"{name} has a higher ECE than all tokens, K = {k}"
            yield Claim("Table 3", says, "ece", (("pope", difference(other, full())),), 1)
    fastv = {"pruner": "fastv", "budget": 128}
    collapse = (("pope", difference(fastv, full())),)
    yield Claim("Table 3", "FastV loses accuracy at K = 128", "accuracy", collapse, -1)
    yield Claim("Table 3", "FastV is overconfident at K = 128", "overconfidence", collapse, 1)
    says = "SCOPE at α = 0, K = 128, is less overconfident than all tokens"
    terms = difference(scope(128, 0.0), full())
    yield Claim("Table 3", says, "overconfidence", (("pope", terms),), -1)


def _table4() -> Iterator[Claim]:
    for k in (128, 64, 32):
        says = f"ScienceQA: {k} tokens have a lower ECE than all"
        terms = difference(scope(k), full())
        yield Claim("Table 4", says, "ece", (("scienceqa", terms),), -1)
    falls = (("scienceqa", slope({k / 64: scope(k) for k in (32, 64, 128, 192)})),)
    says = "ScienceQA: ECE falls with the budget (slope per 64 tokens)"
    yield Claim("Table 4", says, "ece", falls, 1)
    says = "ScienceQA: accuracy rises as the budget falls (slope per 64 tokens)"
    yield Claim("Table 4", says, "accuracy", falls, -1)


def _sections() -> Iterator[Claim]:
    change = difference(scope(128), full())
    for split in SPLITS:
        says = f"128 tokens have a lower ECE than all on the {split} split"
        yield Claim("Section 4.6", says, "ece", ((f"pope:{split}", change),), -1)
    joint = tuple((f"pope:{split}", change) for split in SPLITS)
    says = "128 tokens have a lower ECE than all on every split (weakest)"
    yield Claim("Section 4.6", says, "ece", joint, -1)
    says = "128 tokens have a lower ECE than all after temperature scaling too"
    yield Claim("Section 4.7", says, "cross_validated_ece", (("pope", change),), -1)
    says = "128 tokens answer the most confident 80 % more accurately than all"
    yield Claim("Section 4.8", says, "accuracy_at_80", (("pope", change),), 1)


def _gamma() -> Iterator[Claim]:
    for row in published.table("table6_gap_power_across_benchmarks"):
        name, k = row["benchmark"], row["num_keep"]
        terms = difference(scope(k, *PAPERS_GAMMA), scope(k))
        sign = 1 if (name, k) == ("MME", 64) else 0
        says = f"γ {'raises' if sign else 'does not change'} the score of {name} at K = {k}"
        yield Claim("Table 6", says, "score", ((f"gamma/{BENCHMARKS[name]}", terms),), sign)
