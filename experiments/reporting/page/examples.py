"""The questions that a page lists, most interesting first, and what each setting said of them.

Axis legend: E examples, C choices, S settings, N tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

import calibration
from experiments.harness import records
from experiments.harness.questions import Question
from experiments.reporting import evaluation
from experiments.reporting.page import overlays
from experiments.reporting.page.naming import Named
from experiments.reporting.runs import Run

NUM_EXAMPLES = 200
"""Questions that a page lists."""
WHOLE = 1000
"""What a probability of 1 is written as."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A question and what each of S settings said.

    Attributes:
        row: its place among the run's rows.
        key: its name.
        image: its picture.
        text: what the user said; empty if the run's questions are not there.
        choices: names of what the probabilities are of.
        right: the right answer in words.
        label: index of the right choice, None if it is none of them.
        probabilities: int[S, C], in parts of WHOLE.
        said: the answer of each setting.
        correct: bool[S].
        masks: bool[N] per setting, None where there is none.
        shown: the setting that is shown beside full tokens, 0 if there are only those.
    """

    row: int
    key: str
    image: str
    text: str
    choices: tuple[str, ...]
    right: str
    label: int | None
    probabilities: np.ndarray
    said: tuple[str, ...]
    correct: np.ndarray
    masks: tuple[np.ndarray | None, ...]
    shown: int


def of(run: Run, named: Sequence[Named], count: int) -> tuple[Example, ...]:
    """Return the questions that pruning changed most.

    Those whose answer became right or wrong in any setting are first, then those where the
    probability of full tokens' answer moved most, then what full tokens got wrong with most
    confidence. A question asked twice about one picture is listed once.

    Args:
        run: the run.
        named: its settings.
        count: questions at most.
    """
    probabilities = np.stack([_probabilities(one) for one in named])
    top = [one.setting.top for one in named]
    answer = np.asarray(top[0].prediction)[None, :, None]
    of_answer = np.take_along_axis(probabilities, answer, axis=2)[:, :, 0]
    correct = np.stack([np.asarray(one.correct) for one in top])
    moved, flipped = np.abs(of_answer - of_answer[0]), correct != correct[0]
    order = np.lexsort((-of_answer[0], correct[0], -moved.max(axis=0), ~flipped.any(axis=0)))
    rows = _distinct(run, order, count)
    keys = [named[0].setting.rows.key[row] for row in rows]
    found = [_read(one, keys) for one in named]
    pruned = (moved + flipped)[1:]  # a flip counts for more than any move
    shown = 1 + np.argmax(pruned, axis=0) if len(pruned) else np.zeros(len(order), int)
    return tuple(
        _example(
            run,
            named,
            row,
            [of_setting[key] for of_setting in found],
            probabilities[:, row],
            int(shown[row]),
        )
        for row, key in zip(rows, keys, strict=True)
    )


def _probabilities(one: Named) -> np.ndarray:
    """Return float[E, C]."""
    rows = one.setting.rows
    with evaluation.on_host():
        scores, valid = jnp.asarray(rows.log_masses), jnp.asarray(rows.valid)
        return np.asarray(calibration.choice_probabilities(scores, valid))


def _distinct(run: Run, order: np.ndarray, count: int) -> list[int]:
    """Return the first rows of an order that ask something else than those before."""
    rows = run.full.rows
    found: dict[tuple[int, str], int] = {}
    for row in order.tolist():
        if len(found) == count:
            break
        key = rows.key[row]
        asked = run.asked[key].text if key in run.asked else key
        found.setdefault((int(rows.image[row]), asked), row)
    return list(found.values())


def _read(one: Named, keys: Sequence[str]) -> dict[str, records.Record]:
    """Return some of a setting's records; the others are not kept in memory."""
    found = records.read_records(one.setting.folder)
    return {key: found[key] for key in keys}


def _example(
    run: Run,
    named: Sequence[Named],
    row: int,
    found: Sequence[records.Record],
    probabilities: np.ndarray,
    shown: int,
) -> Example:
    """Put together what S settings say of one question: probabilities float[S, C]."""
    first, asked = found[0], run.asked.get(found[0].key)
    spoken = run.route == "generate"
    choices = ("its probability",) if spoken else _choices(run, first)
    label = None if spoken else first.label
    settings = [one.setting for one in named]
    predicted = [int(setting.top.prediction[row]) for setting in settings]
    num_tokens = int(settings[0].about["budget"])
    return Example(
        row=row,
        key=first.key,
        image=first.image,
        text=asked.text if asked else "",
        choices=choices,
        right=_right(asked, choices, label),
        label=label,
        probabilities=np.rint(WHOLE * probabilities[:, : len(choices)]).astype(int),
        said=tuple(
            record.text or "" if spoken else choices[place]
            for record, place in zip(found, predicted, strict=True)
        ),
        correct=np.array([bool(setting.top.correct[row]) for setting in settings]),
        masks=tuple(overlays.kept(record.kept, num_tokens) for record in found),
        shown=shown,
    )


def _right(asked: Question | None, choices: Sequence[str], label: int | None) -> str:
    """Return the right answer in words, ? if the run does not tell."""
    if label is not None and label < len(choices):
        return choices[label]
    if asked is None:
        return "?"
    return asked.right or " / ".join(dict.fromkeys(asked.references)) or "?"


def _choices(run: Run, record: records.Record) -> tuple[str, ...]:
    """Return the names of a question's choices, lettered options with their texts."""
    names = tuple(f"choice {place + 1}" for place in range(len(record.log_masses)))
    if record.key not in run.asked:
        return names
    asked = run.asked[record.key]
    if len(asked.choices) != len(names):
        return names
    options = asked.options if len(asked.options) == len(names) else [""] * len(names)
    pairs = zip(asked.choices, options, strict=True)
    return tuple(f"{choice}. {option}" if option else choice for choice, option in pairs)
