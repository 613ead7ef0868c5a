"""GQA's scores (Hudson & Manning 2019): a word or two, equal to the one right answer or not."""

from __future__ import annotations

import string
from collections.abc import Sequence

from experiments.scoring.answer import Answer, Scores
from experiments.scoring.parts import mean

CORRECT_BY = "lmms_eval"
"""The tool whose rule `correct` follows."""

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def llava_prediction(text: str) -> str:
    """Return an answer as LLaVA compares it: in lower case, without full stops at its end.

    Other punctuation stays, so ``yes!`` is not yes; so does a blank before the full stops.

    Args:
        text: the answer; outer blanks do not count, LLaVA stores it without.

    Source: LLaVA, scripts/convert_gqa_for_eval.py; GQA's eval.py then compares for equality.
    """
    return text.strip().rstrip(".").lower()


def lmms_eval_prediction(text: str) -> str:
    """Return an answer as lmms-eval compares it: in lower case, without ASCII punctuation.

    Both sides are treated so: ``t-shirt`` is ``tshirt``, and not ``t shirt``.

    Args:
        text: the answer; outer blanks do not count, those beside punctuation do.

    Source: lmms-eval, lmms_eval/api/metrics.py, exact_match with both its options on.
    """
    return text.strip().lower().translate(_NO_PUNCTUATION)


def vlmevalkit_prediction(text: str) -> str:
    """Return an answer as VLMEvalKit compares it: in lower case, punctuation and all.

    Args:
        text: the answer; outer blanks do not count.

    Source: VLMEvalKit, vlmeval/dataset/utils/vqa_eval.py, method accuracy.
    """
    return text.strip().lower()


def correct(answer: Answer) -> bool:
    """Return whether an answer is right by lmms-eval's rule."""
    return lmms_eval_prediction(answer.text) in map(lmms_eval_prediction, answer.references)


def score(answers: Sequence[Answer]) -> Scores:
    """Score answers as three tools do.

    Args:
        answers: with the right answer as their reference.

    Returns:
        * llava: ``accuracy`` in percent.
        * lmms_eval: ``exact_match``, a fraction.
        * vlmevalkit: ``accuracy`` in percent.

        Nothing at all without answers.
    """
    if not answers:
        return {}

    def llava(answer: Answer) -> bool:
        return llava_prediction(answer.text) in answer.references

    def vlmevalkit(answer: Answer) -> bool:
        return vlmevalkit_prediction(answer.text) in map(vlmevalkit_prediction, answer.references)

    return {
        "llava": {"accuracy": 100 * mean(answers, llava)},
        "lmms_eval": {"exact_match": mean(answers, correct)},
        "vlmevalkit": {"accuracy": 100 * mean(answers, vlmevalkit)},
    }
