"""TextVQA's scores (Singh et al. 2019): a few words against those of ten people."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from experiments.scoring.answer import Answer, Scores
from experiments.scoring.evalai import evalai_form, soft_score, vlmevalkit_form
from experiments.scoring.parts import mean

CORRECT_BY = "lmms_eval"
"""The tool whose rule `correct` follows."""


def llava_score(text: str, references: Sequence[str]) -> float:
    """Return the soft score by LLaVA and by lmms-eval, whose rules are the same.

    Args:
        text: the model's answer.
        references: ten people's.

    Source: LLaVA, llava/eval/m4c_evaluator.py; lmms-eval, lmms_eval/tasks/textvqa/utils.py.
    """
    return _score(text, references, evalai_form)


def vlmevalkit_score(text: str, references: Sequence[str]) -> float:
    """Return the soft score by VLMEvalKit, which differs in the form that answers are put in.

    Args:
        text: the model's answer.
        references: ten people's.

    Source: VLMEvalKit, vlmeval/dataset/utils/vqa_eval.py, method vqa_score.
    """
    return _score(text, references, vlmevalkit_form)


def correct(answer: Answer) -> bool:
    """Return whether an answer's soft score by lmms-eval is at least 0.5: two people agree."""
    return _llava_points(answer) >= 0.5


def score(answers: Sequence[Answer]) -> Scores:
    """Score answers as three tools do: by the mean soft score.

    Args:
        answers: with ten references each.

    Returns:
        * llava: ``accuracy`` in percent.
        * lmms_eval: ``exact_match``, a fraction.
        * vlmevalkit: ``accuracy`` in percent.

        Nothing at all without answers.
    """
    if not answers:
        return {}

    def vlmevalkit(answer: Answer) -> float:
        return vlmevalkit_score(answer.text, answer.references)

    return {
        "llava": {"accuracy": 100 * mean(answers, _llava_points)},
        "lmms_eval": {"exact_match": mean(answers, _llava_points)},
        "vlmevalkit": {"accuracy": 100 * mean(answers, vlmevalkit)},
    }


def _llava_points(answer: Answer) -> float:
    return llava_score(answer.text, answer.references)


def _score(text: str, references: Sequence[str], form: Callable[[str], str]) -> float:
    return soft_score(form(text), [form(reference) for reference in references])
