"""POPE's scores (Li et al. 2023): yes or no, in three splits.

LLaVA's paper reports ``mean_f1``, the unweighted mean of the splits' F1; lmms-eval's table the
pooled ``f1``. The positive answer is yes throughout.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from experiments.scoring.answer import Answer, Scores
from experiments.scoring.parts import mean, parts, per_part
from experiments.scoring.yes_no import NO, UNKNOWN, YES, vlmevalkit_yes_no

CORRECT_BY = "lmms_eval"
"""The tool whose rule `correct` follows."""

_LLAVA_NO = {"No", "not", "no"}


def llava_yes_no(text: str) -> str:
    """Read an answer as LLaVA does: no if the first sentence has a word of denial, else yes.

    The sentence ends at the first full stop, commas are dropped, words are what blanks separate,
    and ``No``, ``not`` and ``no`` deny. So the empty answer, ``NO``, ``no!`` and ``Nope`` are yes.

    Args:
        text: the answer.

    Returns:
        ``yes`` or ``no``.

    Source: LLaVA, llava/eval/eval_pope.py (the rule of POPE's own script).
    """
    sentence = text.partition(".")[0].replace(",", "")
    return NO if _LLAVA_NO.intersection(sentence.split(" ")) else YES


def lmms_eval_yes_no(text: str) -> str:
    """Read an answer as lmms-eval does: the text itself in lower case, without outer blanks.

    Args:
        text: the answer.

    Returns:
        Anything; all but ``yes`` and ``no`` is wrong, ``yes.`` too.

    Source: lmms-eval, lmms_eval/tasks/pope/utils.py.
    """
    return text.lower().strip()


def correct(answer: Answer) -> bool:
    """Return whether an answer is right by lmms-eval's rule."""
    return lmms_eval_yes_no(answer.text) == answer.right


def score(answers: Sequence[Answer]) -> Scores:
    """Score answers as three tools do, pooled and per split.

    A ratio of nothing, as the precision where nobody said yes, is 0, as in lmms-eval and
    VLMEvalKit; LLaVA's script stops there.

    Args:
        answers: their split is ``random``, ``popular`` or ``adversarial``.

    Returns:
        ``accuracy``, ``precision``, ``recall`` and ``f1``, pooled and as ``random.f1`` etc.:

        * llava: fractions; ``yes_ratio`` of the answers, ``mean_accuracy``, ``mean_f1``.
        * lmms_eval: fractions; an answer that is neither yes nor no is wrong but no miss. Its
          ``yes_ratio`` is left out: a bug makes it count the labels.
        * vlmevalkit: percent; an unknown answer is a miss if yes is right.
        * llava_jax: ``other_rate``, the share of answers that are neither to lmms-eval.

        Nothing at all without answers.
    """
    if not answers:
        return {}
    llava = _llava(answers) | per_part(answers, _split, _llava)
    if by_split := [_llava(rows) for rows in parts(answers, _split).values()]:
        for name in ("accuracy", "f1"):
            llava[f"mean_{name}"] = statistics.fmean(numbers[name] for numbers in by_split)
    return {
        "llava": llava,
        "lmms_eval": _lmms_eval(answers) | per_part(answers, _split, _lmms_eval),
        "vlmevalkit": _vlmevalkit(answers) | per_part(answers, _split, _vlmevalkit),
        "llava_jax": {"other_rate": mean(answers, _is_other)},
    }


def _split(answer: Answer) -> str:
    return answer.split


def _is_other(answer: Answer) -> bool:
    return lmms_eval_yes_no(answer.text) not in (YES, NO)


def _llava(answers: Sequence[Answer]) -> dict[str, float]:
    yes_ratio = mean(answers, lambda answer: llava_yes_no(answer.text) == YES)
    return _ratios(answers, llava_yes_no, {NO}) | {"yes_ratio": yes_ratio}


def _lmms_eval(answers: Sequence[Answer]) -> dict[str, float]:
    return _ratios(answers, lmms_eval_yes_no, {NO})


def _vlmevalkit(answers: Sequence[Answer]) -> dict[str, float]:
    ratios = _ratios(answers, vlmevalkit_yes_no, {NO, UNKNOWN})
    return {name: 100 * ratio for name, ratio in ratios.items()}


def _ratios(
    answers: Sequence[Answer], verdict: Callable[[str], str], negative: set[str]
) -> dict[str, float]:
    """Return accuracy, precision, recall and F1; the verdicts in ``negative`` can be misses."""
    said = [(answer.right, verdict(answer.text)) for answer in answers]
    hits, alarms = said.count((YES, YES)), said.count((NO, YES))
    misses = sum(right == YES and word in negative for right, word in said)
    precision, recall = _ratio(hits, hits + alarms), _ratio(hits, hits + misses)
    return {
        "accuracy": sum(right == word for right, word in said) / len(said),
        "precision": precision,
        "recall": recall,
        "f1": _ratio(2 * precision * recall, precision + recall),
    }


def _ratio(some: float, of: float) -> float:
    return some / of if of else 0.0
