"""Each benchmark's own number on every resample of its pictures, as lmms-eval computes it.

Every such number is made of sums over pictures, so a resample of pictures is a weighted sum:
POPE's F1 of hits, alarms and misses; MME's total of what each subtask's questions and pictures
earned; MMBench's circular accuracy of groups of rotations; the others are means.

Axis legend: R resamples, G pictures, F sums.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from experiments.reporting import runs
from experiments.scoring import mmbench, mme, pope, textvqa
from experiments.scoring.answer import Answer
from experiments.scoring.yes_no import NO, YES

Added = Iterator[tuple[int, Sequence[float]]]
"""What a picture, by its number, gains: F sums."""
SCORE = "score"
"""The benchmark's own number among the names of metrics; the others are `calibration`'s."""
_SUBTASKS = (*mme.PERCEPTION, *mme.COGNITION)


@functools.cache
def samples(run: runs.Run, setting: runs.Setting) -> np.ndarray:
    """Return a setting's score on its rows, then on every resample of its pictures.

    POPE is the pooled F1, MME perception + cognition, MMBench circular accuracy, TextVQA the soft
    accuracy, the others accuracy; all but MME in percent.

    Args:
        run: with its questions.
        setting: of the run.

    Returns:
        float64[1+R].
    """
    total = runs.draws(run.num_images) @ sums(run, setting)
    return np.asarray(of_sums(run.benchmark, total), np.float64)


@functools.cache
def sums(run: runs.Run, setting: runs.Setting) -> np.ndarray:
    """Return what each picture adds to a setting's score: float64[G, F]."""
    added, _ = _BENCHMARKS.get(run.benchmark, (_right, _ratio))
    found = list(added(run, run.answers(setting), setting.rows.image))
    total = np.zeros((run.num_images, len(found[0][1])))
    for image, gained in found:
        total[image] += gained
    return total


def of_sums(benchmark: str, total: Any) -> Any:
    """Return the score of each row of sums: float[R, F] → float[R], for numpy and for jax."""
    _, score = _BENCHMARKS.get(benchmark, (_right, _ratio))
    return score(total)


def _right(run: runs.Run, answers: Sequence[Answer], images: np.ndarray) -> Added:
    """Yield whether each answer is right."""
    for answer, image in zip(answers, images, strict=True):
        yield image, (float(run.scorer.correct(answer)), 1.0)


def _soft(run: runs.Run, answers: Sequence[Answer], images: np.ndarray) -> Added:
    """Yield the share of people who agree with each answer."""
    del run
    for answer, image in zip(answers, images, strict=True):
        yield image, (textvqa.llava_score(answer.text, answer.references), 1.0)


def _ratio(total: Any) -> Any:
    """Return 100 a / n of float[R, 2]."""
    return 100 * total[:, 0] / total[:, 1].clip(1)


def _yes(run: runs.Run, answers: Sequence[Answer], images: np.ndarray) -> Added:
    """Yield whether each answer is a hit, an alarm or a miss of yes."""
    del run
    for answer, image in zip(answers, images, strict=True):
        said = (answer.right, pope.lmms_eval_yes_no(answer.text))
        yield image, [float(said == kind) for kind in ((YES, YES), (NO, YES), (YES, NO))]


def _f1(total: Any) -> Any:
    """Return 100 · 2 h / (2 h + a + m) of float[R, 3]; 0 without a hit."""
    hits, alarms, misses = total.T
    return 200 * hits / (2 * hits + alarms + misses).clip(1)


def _circular(run: runs.Run, answers: Sequence[Answer], images: np.ndarray) -> Added:
    """Yield whether all rotations of each question are right, with its first one's picture."""
    del run
    hits = mmbench.circular_hits(answers)
    first = {}
    for answer, image in zip(answers, images, strict=True):
        first.setdefault(answer.group or answer.key, image)
    for group, hit in hits.items():
        yield first[group], (float(hit), 1.0)


def _subtasks(run: runs.Run, answers: Sequence[Answer], images: np.ndarray) -> Added:
    """Yield what each pair earns its subtask: right answers, both right, and one pair."""
    del run
    pairs: dict[tuple[str, str], list[tuple[bool, int]]] = {}
    for answer, image in zip(answers, images, strict=True):
        pairs.setdefault((answer.split, answer.group), []).append((mme.correct(answer), image))
    for (subtask, _), pair in pairs.items():
        if len(pair) == 2 and subtask in _SUBTASKS:
            gained = np.zeros((len(_SUBTASKS), 3))
            right = [each for each, _ in pair]
            gained[_SUBTASKS.index(subtask)] = sum(right) / 2, all(right), 1
            yield pair[0][1], gained.ravel().tolist()


def _mme(total: Any) -> Any:
    """Return Σ 100 (acc + acc⁺) over the subtasks of float[R, 14 · 3]; an absent one earns 0."""
    earned = total.reshape(len(total), len(_SUBTASKS), 3)
    return (100 * (earned[..., 0] + earned[..., 1]) / earned[..., 2].clip(1)).sum(axis=1)


_BENCHMARKS: dict[
    str,
    tuple[
        Callable[[runs.Run, Sequence[Answer], np.ndarray], Added],
        Callable[[Any], Any],
    ],
] = {
    "pope": (_yes, _f1),
    "mme": (_subtasks, _mme),
    "mmbench": (_circular, _ratio),
    "textvqa": (_soft, _ratio),
}
