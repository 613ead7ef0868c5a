"""ScienceQA's scores (Lu et al. 2022): one letter of two to five."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from experiments.scoring.answer import Answer, Scores
from experiments.scoring.parts import mean

CORRECT_BY = "lmms_eval"
"""The tool whose rule `correct` follows."""

FAILED = -1
_LETTERS = string.ascii_uppercase
_LLAVA_LETTERS = _LETTERS[:5]
_LLAVA_SENTENCE = re.compile("The answer is ([A-Z]).")


def llava_letter(text: str) -> str:
    """Read a letter as LLaVA does, whatever the question offers.

    In this order: the text is a letter A–E; it starts with one, a full stop and a blank; or
    exactly once it says ``The answer is X`` and one more character, whichever that is. Hence
    ``A.``, ``(A)`` and ``a`` have no letter.

    Args:
        text: the answer; outer blanks do not count, LLaVA stores it without.

    Returns:
        A letter, empty if there is none.

    Source: LLaVA, llava/eval/eval_science_qa.py.
    """
    text = text.strip()
    if len(text) == 1 and text in _LLAVA_LETTERS:
        return text
    if text[:1] in _LLAVA_LETTERS and text[1:3] == ". ":
        return text[:1]
    said = _LLAVA_SENTENCE.findall(text)
    return said[0] if len(said) == 1 else ""


def llava_index(text: str, num_options: int) -> int:
    """Return which option LLaVA takes an answer for.

    Args:
        text: the answer.
        num_options: of the question.

    Returns:
        The option's index, -1 if the answer has no letter or the question no such option.

    Source: LLaVA, llava/eval/eval_science_qa.py.
    """
    letter = llava_letter(text)
    return _LETTERS.index(letter) if _is_offered(letter, num_options) else FAILED


def lmms_eval_match(text: str, right: str) -> bool:
    """Return whether lmms-eval takes an answer for the right letter.

    It is if it equals the letter in either case, or starts with the capital and a full stop.
    Unlike LLaVA it takes ``a`` and ``A.``, and no sentence.

    Args:
        text: the answer; outer blanks do not count.
        right: the right letter.

    Source: lmms-eval, lmms_eval/tasks/scienceqa/utils.py.
    """
    text = text.strip()
    return text.lower() == right.lower() or text.startswith(f"{right}.")


def correct(answer: Answer) -> bool:
    """Return whether an answer is right by lmms-eval's rule."""
    return lmms_eval_match(answer.text, answer.right)


def score(answers: Sequence[Answer]) -> Scores:
    """Score answers as two tools do.

    Args:
        answers: with their options; of the questions with a picture for ScienceQA-IMG.

    Returns:
        * llava: ``accuracy`` in percent.
        * lmms_eval: ``exact_match``, a fraction.
        * llava_jax: ``invalid_choice_rate``, the share of answers that have a letter, as LLaVA
          reads it, which is no option of the question.

        Nothing at all without answers.
    """
    if not answers:
        return {}

    def llava(answer: Answer) -> bool:
        index = llava_index(answer.text, len(answer.options))
        return index != FAILED and _LETTERS[index] == answer.right

    def invalid(answer: Answer) -> bool:
        letter = llava_letter(answer.text)
        return letter != "" and not _is_offered(letter, len(answer.options))

    return {
        "llava": {"accuracy": 100 * mean(answers, llava)},
        "lmms_eval": {"exact_match": mean(answers, correct)},
        "llava_jax": {"invalid_choice_rate": mean(answers, invalid)},
    }


def _is_offered(letter: str, num_options: int) -> bool:
    return letter != "" and letter in _LETTERS[:num_options]
