"""SEED-Bench's scores (Li et al. 2023): one letter of four, about pictures and videos.

``seed_all`` and ``all`` mix pictures and videos, whose numbers differ between releases of the
benchmark; compare them only beside the numbers of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.scoring.answer import Answer, Scores
from experiments.scoring.parts import mean, parts, per_part

CORRECT_BY = "lmms_eval"
"""The tool whose rule `correct` follows."""

KINDS = ("image", "video")


def llava_match(text: str, right: str) -> bool:
    """Return whether LLaVA takes an answer for the right letter: if it is that and no more.

    Args:
        text: the answer; outer blanks do not count, LLaVA stores it without.
        right: the right letter.

    Source: LLaVA, scripts/convert_seed_for_submission.py.
    """
    return text.strip() == right


def lmms_eval_letter(text: str) -> str:
    """Return the first character that is no blank, which lmms-eval takes for the letter.

    So ``The answer is C`` is T. Case is ignored when it is compared.

    Args:
        text: the answer.

    Returns:
        The character, empty if there is none.

    Source: lmms-eval, lmms_eval/tasks/seedbench/utils.py.
    """
    return text.strip()[:1]


def correct(answer: Answer) -> bool:
    """Return whether an answer is right by lmms-eval's rule."""
    return lmms_eval_letter(answer.text).upper() == answer.right


def score(answers: Sequence[Answer]) -> Scores:
    """Score answers as two tools do.

    Args:
        answers: their split is ``image`` or ``video``, their category the question's type.

    Returns:
        A part without rows is absent, never 0:

        * llava: ``image``, ``video``, ``all`` and ``<type>.accuracy`` in percent; the numbers of
          rows ``image.n`` and ``video.n``. Its script stops with a KeyError at a type without a
          right answer; that is 0 here.
        * lmms_eval: ``seed_image``, ``seed_video`` and ``seed_all``, fractions.

        Nothing at all without answers.
    """
    if not answers:
        return {}
    kinds = parts(answers, lambda answer: answer.split)
    found = {kind: kinds[kind] for kind in KINDS if kind in kinds}
    named = found | {"all": answers}
    return {
        "llava": {name: _llava_accuracy(rows) for name, rows in named.items()}
        | {f"{kind}.n": len(rows) for kind, rows in found.items()}
        | per_part(
            answers,
            lambda answer: answer.category,
            lambda rows: {"accuracy": _llava_accuracy(rows)},
        ),
        "lmms_eval": {f"seed_{name}": mean(rows, correct) for name, rows in named.items()},
    }


def _llava_accuracy(answers: Sequence[Answer]) -> float:
    return 100 * mean(answers, lambda answer: llava_match(answer.text, answer.right))
