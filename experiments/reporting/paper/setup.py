"""Is this LLaVA-1.5? What a correct set-up scores with all tokens, before any table is believed."""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.reporting import runs
from experiments.reporting.paper import scores

MATCHES, DIFFERS = "matches LLaVA-1.5-7B", "does not match LLaVA-1.5-7B"
# benchmark, route → quantity, and the range of published and reported values.
# Sources: LLaVA-1.5's paper and evaluation logs, lmms-eval's table of results.
RANGES = {
    ("pope", "first_token"): ("accuracy", 0.869, 0.870),
    ("pope", "generate"): ("F1", 85.6, 86.2),
    ("mme", "generate"): ("perception + cognition", 1855.0, 1866.0),
    ("scienceqa", "generate"): ("accuracy", 66.8, 69.5),
    ("gqa", "generate"): ("accuracy", 61.9, 62.0),
    ("mmbench", "generate"): ("circular accuracy", 64.1, 64.7),
    ("textvqa", "generate"): ("soft accuracy", 58.2, 58.2),
    ("seed", "generate"): ("accuracy of all rows", 58.6, 60.5),
}


@dataclasses.dataclass(frozen=True)
class Check:
    """A benchmark's number with all tokens beside what LLaVA-1.5-7B scores.

    Attributes:
        benchmark: its name.
        quantity: that is compared.
        value: ours.
        low: end of its 95 % interval.
        high: end of its 95 % interval.
        least: smallest published value.
        most: largest published value.
    """

    benchmark: str
    quantity: str
    value: float
    low: float
    high: float
    least: float
    most: float

    @property
    def matches(self) -> bool:
        """Whether ours is as near to the published range as half its own interval is wide."""
        slack = (self.high - self.low) / 2
        return self.least - slack <= self.value <= self.most + slack

    def __str__(self) -> str:
        verdict = MATCHES if self.matches else DIFFERS
        return (
            f"{self.benchmark}: {self.quantity} {self.value:.4g} [{self.low:.4g}, {self.high:.4g}] "
            f"with all tokens; published {self.least:g} to {self.most:g}: {verdict}"
        )


def check(run: runs.Run) -> Check | None:
    """Compare a run's full tokens with what is published; None if nothing is.

    Args:
        run: of a benchmark.
    """
    if (run.benchmark, run.route) not in RANGES:
        return None
    quantity, least, most = RANGES[run.benchmark, run.route]
    first = run.route == "first_token"
    found = run.full.samples("accuracy") if first else scores.samples(run, run.full)
    low, high = np.percentile(found[1:], [2.5, 97.5])
    return Check(run.benchmark, quantity, float(found[0]), float(low), float(high), least, most)
