"""MME's scores (Fu et al. 2023): yes or no, two questions a picture, fourteen subtasks.

A subtask's score is accuracy + accuracy⁺ in percent, at most 200: acc of its questions, acc⁺ of
its pictures, both of whose questions must be right. Perception is the sum of ten subtasks, at
most 2000, cognition of four, at most 800.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence

from experiments.scoring.answer import Answer, Scores
from experiments.scoring.parts import mean, parts
from experiments.scoring.yes_no import NO, YES, vlmevalkit_yes_no

CORRECT_BY = "lmms_eval"
"""The tool whose rule `correct` follows."""

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = (
    "commonsense_reasoning",
    "numerical_calculation",
    "text_translation",
    "code_reasoning",
)
OTHER = "other"


def official_yes_no(text: str) -> str:
    """Read an answer as MME's own tool does: by its first four characters in lower case.

    With ``yes`` in them it is yes, else with ``no`` in them no: ``eyes`` is yes, ``nowhere`` no.

    Args:
        text: the answer.

    Returns:
        ``yes``, ``no`` or ``other``.

    Source: MME, eval_tool/calculation.py.
    """
    start = text.lower()[:4]
    if YES in start:
        return YES
    return NO if NO in start else OTHER


def lmms_eval_yes_no(text: str) -> str:
    """Read an answer as lmms-eval does: as MME's own tool, and ``y`` and ``n`` alone count too.

    Before that outer blanks and all full stops go.

    Args:
        text: the answer.

    Returns:
        ``yes``, ``no`` or ``other``.

    Source: lmms-eval, lmms_eval/tasks/mme/utils.py.
    """
    text = text.lower().strip().replace(".", "")
    return {"y": YES, "n": NO}.get(text) or official_yes_no(text)


def correct(answer: Answer) -> bool:
    """Return whether an answer is right by lmms-eval's rule."""
    return lmms_eval_yes_no(answer.text) == answer.right


def score(answers: Sequence[Answer]) -> Scores:
    """Score answers as three tools do.

    Only pictures with exactly two answers count: the tools cannot do without the pair. A sum is
    of the subtasks that are there, and compares with a published one only if all are; a sum of
    none is absent, and the total with it.

    Args:
        answers: their split is the subtask, their group the picture.

    Returns:
        Numbers on MME's scale, and those of a subtask as ``count.score``, ``count.acc`` and
        ``count.acc_plus``, the last two in percent:

        * official: ``perception``, ``cognition``, ``total``.
        * lmms_eval: ``perception``, ``cognition``. A subtask of no known name is in neither; a
          bug there adds it to the cognition.
        * vlmevalkit: ``perception``, ``reasoning``, which is the cognition.
        * llava_jax: ``unpaired``, how many answers do not count.

        Nothing at all without answers.
    """
    if not answers:
        return {}
    pairs = _pairs(answers)
    official = _numbers(pairs, official_yes_no, "cognition")
    if "perception" in official and "cognition" in official:
        official["total"] = official["perception"] + official["cognition"]
    return {
        "official": official,
        "lmms_eval": _numbers(pairs, lmms_eval_yes_no, "cognition"),
        "vlmevalkit": _numbers(pairs, vlmevalkit_yes_no, "reasoning"),
        "llava_jax": {"unpaired": len(answers) - 2 * sum(map(len, pairs.values()))},
    }


def _pairs(answers: Sequence[Answer]) -> dict[str, list[list[Answer]]]:
    """Return the two answers of each picture, per subtask."""
    pairs = {}
    for subtask, rows in parts(answers, lambda answer: answer.split).items():
        pictures = parts(rows, lambda answer: answer.group).values()
        if complete := [picture for picture in pictures if len(picture) == 2]:
            pairs[subtask] = complete
    return pairs


def _numbers(
    pairs: Mapping[str, Sequence[Sequence[Answer]]], verdict: Callable[[str], str], cognition: str
) -> dict[str, float]:
    """Return the two sums, each if there is something to sum, and every subtask's numbers.

    Args:
        pairs: of each subtask, one of a picture.
        verdict: of an answer's text.
        cognition: what the second sum is called.
    """
    subtasks = {subtask: _subtask(pictures, verdict) for subtask, pictures in pairs.items()}
    numbers = {}
    for name, summed in (("perception", PERCEPTION), (cognition, COGNITION)):
        if scores := [subtasks[task]["score"] for task in summed if task in subtasks]:
            numbers[name] = sum(scores)
    for subtask, found in subtasks.items():
        numbers |= {f"{subtask}.{name}": value for name, value in found.items()}
    return numbers


def _subtask(
    pictures: Sequence[Sequence[Answer]], verdict: Callable[[str], str]
) -> dict[str, float]:
    """Return acc, acc⁺ and their sum."""

    def right(answer: Answer) -> bool:
        return verdict(answer.text) == answer.right

    acc = 100 * mean(list(itertools.chain.from_iterable(pictures)), right)
    acc_plus = 100 * statistics.fmean(all(map(right, picture)) for picture in pictures)
    return {"acc": acc, "acc_plus": acc_plus, "score": acc + acc_plus}
