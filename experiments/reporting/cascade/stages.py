"""A cascade of budgets: ask with few visual tokens, and with more where the margin is low.

A pure function of stored records: every stage has answered every question already. A question goes
on to the next stage while its margin, log c − log(1 − c), is at most a threshold, the same for all
stages, and is answered where it stops.

Axis legend: E examples, m stages, T thresholds, G pictures.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.harness.errors import UsageError
from experiments.harness.terminal import inert
from experiments.reporting import runs

_STEP, _END = 1 / 8, 16
THRESHOLDS = np.array([np.inf, *np.arange(_END, -_END - _STEP, -_STEP), -np.inf])
"""Of the margin, the most expensive first; fixed beforehand, as a guarantee needs them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Stages:
    """What each stage said.

    Attributes:
        heading: benchmark, model, data, rows and pictures, in words.
        method: the pruner and its settings, in words.
        names: m of the stages.
        tokens: float[m], visual tokens of a question, the mean over decoder layers.
        margin: float[E, m].
        correct: bool[E, m].
        image: int[E] in [0, G).
    """

    heading: str
    method: str
    names: tuple[str, ...]
    tokens: np.ndarray
    margin: np.ndarray
    correct: np.ndarray
    image: np.ndarray

    @property
    def num_pictures(self) -> int:
        """G."""
        return int(self.image.max()) + 1

    @property
    def asked(self) -> np.ndarray:
        """Tokens of all stages up to each, as none reuses another's: float[m]."""
        return np.cumsum(self.tokens)


def of(run: runs.Run, budgets: Sequence[int] | None = None, **about: Any) -> Stages:
    """Take the stages from a run: one method's budgets, rising, and full tokens.

    Args:
        run: with full tokens and more.
        budgets: of the stages before full tokens; None is all that the run has.
        about: what tells the method from others, such as ``pruner="scope", alpha=0.0``.

    Raises:
        UsageError: nothing fits, a budget was not run, or several settings of one were.
    """
    words = " ".join(f"{name}={value}" for name, value in about.items())
    found: dict[int, list[runs.Setting]] = {}
    for setting in run.find(**about):
        if setting is not run.full:
            found.setdefault(setting.about["budget"], []).append(setting)
    if not found:
        raise UsageError(f"{run.path} has no pruned setting with {words}")
    if missing := sorted(set(budgets or ()) - found.keys()):
        known = ", ".join(map(str, sorted(found)))
        raise UsageError(f"{words} was not run with --budget={missing[0]}; there are {known}")
    stages = [_only(words, found[budget]) for budget in sorted(set(budgets or found))]
    settings = [*stages, run.full]
    return Stages(
        run.heading,
        inert(words),
        (*(f"K = {setting.about['budget']}" for setting in stages), "full tokens"),
        np.array([_tokens(setting) for setting in settings]),
        np.stack([setting.top.margin for setting in settings], axis=1),
        np.stack([setting.top.correct for setting in settings], axis=1),
        run.full.rows.image,
    )


def _only(words: str, settings: Sequence[runs.Setting]) -> runs.Setting:
    """Return the one setting of a budget."""
    if len(settings) == 1:
        return settings[0]
    names = [n for n, x in settings[0].about.items() if any(s.about[n] != x for s in settings)]
    values = ", ".join(sorted({str(setting.about[names[0]]) for setting in settings}))
    raise UsageError(f"several settings have {words}; say which --{names[0]} of {values}")


def _tokens(setting: runs.Setting) -> float:
    """Return the visual tokens of an answer, which methods inside the decoder drop on the way."""
    counts = setting.run.get("plan", {}).get("visual_tokens_per_layer")
    return statistics.fmean(counts) if counts else float(setting.about["budget"])


def stops(margin: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Find where each question stops: at the first stage whose margin is above the threshold.

    Args:
        margin: float[E, m].
        thresholds: float[T]; ∞ goes through to the last stage, −∞ stops at the first.

    Returns:
        int[T, E] in [0, m).
    """
    sure = margin[None, :, :-1] > thresholds[:, None, None]
    last = np.ones((*sure.shape[:2], 1), bool)
    return np.argmax(np.concatenate([sure, last], axis=2), axis=2)


def oracle(correct: np.ndarray) -> np.ndarray:
    """Find where a question should stop: where it is right first, else at once.

    Args:
        correct: bool[E, m].

    Returns:
        int[E] in [0, m); no rule is wrong less often.
    """
    return np.argmax(correct, axis=1)
