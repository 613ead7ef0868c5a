"""MMBench's scores (Liu et al. 2023): one letter of two to four, options rotated.

A question is asked once per rotation of its options. Circular accuracy counts the questions all
of whose rotations are right, vanilla accuracy single rows. Letters are found by rules alone; where
these fail the tools can ask another model, here the answer is wrong.
"""

from __future__ import annotations

import collections
import re
import string
from collections.abc import Callable, Mapping, Sequence

from experiments.scoring.answer import Answer, Scores
from experiments.scoring.parts import mean, parts, per_part

CORRECT_BY = "lmms_eval"
"""The tool whose rule `correct` follows."""

_LETTERS = string.ascii_uppercase
_LMMS_EVAL_LETTERS = _LETTERS[:5]
_LMMS_EVAL_FORMS = (
    *("{}.", "{},", "{}:", "{})", "{}).", "({})", "({})."),
    *(":{}", ":{},", ":{}.", ":{})", ":{})."),
)
_VLMEVALKIT_NO_OPTION = "Z"
_VLMEVALKIT_SENTENCE = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)
_VLMEVALKIT_SIGNS = ".()[],:;!*#{}"


def lmms_eval_letter(text: str, options: Sequence[str]) -> str:
    """Find the letter of an answer as lmms-eval does.

    The first of these that holds: exactly one of A–E is a word (but not A among more than three
    words, where it may be the article); exactly one is a word with a certain punctuation, tried
    one after the other; exactly one option's text is in the answer. A–E are looked for whatever
    the question offers.

    Args:
        text: the answer.
        options: texts of the options, A first. lmms-eval also takes the string ``nan`` for one
            where its file has it for a missing option.

    Returns:
        A letter, empty if none is found.

    Source: lmms-eval, lmms_eval/tasks/mmbench/mmbench_evals.py.
    """
    words = text.split()
    bare = _only(words, "{}", _LMMS_EVAL_LETTERS)
    if bare and not (bare == "A" and len(words) > 3):
        return bare
    for form in _LMMS_EVAL_FORMS:
        if letter := _only(words, form, _LMMS_EVAL_LETTERS):
            return letter
    return _named_option(text, options)


def vlmevalkit_letter(text: str, options: Sequence[str]) -> str:
    """Find the letter of an answer as VLMEvalKit does.

    The first of these that holds, once 13 signs have become blanks: exactly one offered letter is
    a word, one of the last four; none is, but Z; the text says ``answer is X``, in any case;
    exactly one option's text is in the answer, which is at most twice as long as all options.
    Unlike lmms-eval it takes A in ``The answer is A``. Its list of refusals that certain
    services answer with is left out.

    Args:
        text: the answer.
        options: texts of the options, A first.

    Returns:
        A letter, ``Z`` for no option, empty if none is found.

    Source: VLMEvalKit, vlmeval/utils/matching_util.py.
    """
    offered = _LETTERS[: len(options)]
    words = "".join(" " if sign in _VLMEVALKIT_SIGNS else sign for sign in text).split()
    letter = _only(words, "{}", offered)
    if letter and words.index(letter) > len(words) - 5:
        return letter
    if _VLMEVALKIT_NO_OPTION in words and not set(offered).intersection(words):
        return _VLMEVALKIT_NO_OPTION
    said = _VLMEVALKIT_SENTENCE.search(text)
    if said and said[1].upper() in offered:
        return said[1].upper()
    return _named_option(text, options) if len(text) <= 2 * sum(map(len, options)) else ""


def correct(answer: Answer) -> bool:
    """Return whether an answer is right by lmms-eval's rule, whatever its other rotations."""
    return lmms_eval_letter(answer.text, answer.options) == answer.right


def vlmevalkit_correct(answer: Answer) -> bool:
    """Return whether an answer is right by VLMEvalKit's rule, whatever its other rotations."""
    return vlmevalkit_letter(answer.text, answer.options) == answer.right


def circular_hits(
    answers: Sequence[Answer], right: Callable[[Answer], bool] = correct
) -> dict[str, bool]:
    """Return of each group whether all its answers are right, however many it has.

    Args:
        answers: of all groups.
        right: whether one is.
    """
    groups = parts(answers, _group)
    return {group: all(map(right, rows)) for group, rows in groups.items()}


def score(answers: Sequence[Answer]) -> Scores:
    """Score answers as two tools do; all accuracies are fractions.

    A group counts with the rotations it has; how many that are is in ``rotations``. The tools
    pass over a group without its unrotated row.

    Args:
        answers: their group is the index of the unrotated row, which also ends that row's key;
            category and split are MMBench's category and its l2-category.

    Returns:
        * lmms_eval: ``circular`` (its table prints 100 times that), also as ``<category>.circular``
          and ``<l2-category>.circular``; ``vanilla`` of the unrotated rows; ``vanilla_all_rows``.
        * vlmevalkit: ``circular``.
        * llava_jax: ``rotations.<n>``, the number of groups with n rows.

        ``circular`` is absent where no group has more than one row, ``vanilla`` where no row is
        unrotated. Nothing at all without answers.
    """
    if not answers:
        return {}
    groups = parts(answers, _group)
    sizes = collections.Counter(map(len, groups.values()))
    unrotated = [answer for answer in answers if answer.key.rpartition("/")[2] == _group(answer)]
    lmms_eval, vlmevalkit = {}, {}
    if max(sizes) > 1:
        firsts = [rows[0] for rows in groups.values()]
        lmms_eval = _circular_numbers(firsts, circular_hits(answers))
        hits = circular_hits(answers, vlmevalkit_correct)
        vlmevalkit["circular"] = mean(firsts, lambda answer: hits[_group(answer)])
    if unrotated:
        lmms_eval["vanilla"] = mean(unrotated, correct)
    lmms_eval["vanilla_all_rows"] = mean(answers, correct)
    return {
        "lmms_eval": lmms_eval,
        "vlmevalkit": vlmevalkit,
        "llava_jax": {f"rotations.{size}": sizes[size] for size in sorted(sizes)},
    }


def _circular_numbers(firsts: Sequence[Answer], hits: Mapping[str, bool]) -> dict[str, float]:
    """Return circular accuracy of groups, given one answer of each, in all and per category."""

    def circular(rows: Sequence[Answer]) -> dict[str, float]:
        return {"circular": mean(rows, lambda answer: hits[_group(answer)])}

    return (
        circular(firsts)
        | per_part(firsts, lambda answer: answer.category, circular)
        | per_part(firsts, lambda answer: answer.split, circular)
    )


def _group(answer: Answer) -> str:
    return answer.group or answer.key


def _only(words: Sequence[str], form: str, letters: str) -> str:
    """Return the letter that is a word in a form, empty unless it is exactly one."""
    found = [letter for letter in letters if form.format(letter) in words]
    return found[0] if len(found) == 1 else ""


def _named_option(text: str, options: Sequence[str]) -> str:
    """Return the letter of the option whose text is in an answer, empty unless exactly one is."""
    answer = text.lower()
    found = [
        letter
        for letter, option in zip(_LETTERS, options, strict=False)
        if option.lower() in answer
    ]
    return found[0] if len(found) == 1 else ""
