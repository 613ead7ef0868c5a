"""Answers in the form EvalAI's VQA challenge compares them in, and the score of ten people's.

The processing is the VQA challenge's (Goyal et al. 2017): case, punctuation, number words,
articles and contractions do not count. Two versions are in use, which differ in commas, question
marks, genitives and full stops. TextVQA is scored with them.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIOD_OUTSIDE_NUMBER = re.compile(r"(?<!\d)\.(?!\d)")
_MAX_PERIODS = 32  # re.UNICODE, which both tools pass where the number belongs

_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}

_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
you've
"""
"""Words that are mended if exactly one apostrophe is missing. The tools' tables also have four
capitalised words, which a text in lower case never holds, and two that are mended to themselves."""


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:at] + word[at + 1 :] for at, letter in enumerate(word) if letter == "'"]


_CONTRACTIONS = {
    broken: word for word in _CONTRACTED.split() for broken in _without_one_apostrophe(word)
} | {"somebody'd": "somebodyd"}  # the wrong way round in both tools


def strip_punctuation(text: str, *, keep_period_after_digit: bool = False) -> str:
    """Remove punctuation, or put a blank in its place.

    Each of 21 signs goes without trace if it touches a blank somewhere in the text, or if the
    text has a comma between digits, else it becomes a blank. Of the full stops, the first 32
    without a digit behind them go.

    Args:
        text: in any case.
        keep_period_after_digit: full stops with a digit before them stay, as in ``3.``.

    Source: LLaVA, llava/eval/m4c_evaluator.py, which means to keep those full stops, but its
    pattern does not; VLMEvalKit's, process_punctuation in vlmeval/smp, does.
    """
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    stripped = text
    for sign in _PUNCTUATION:
        trace = "" if in_number or f"{sign} " in text or f" {sign}" in text else " "
        stripped = stripped.replace(sign, trace)
    period = _PERIOD_OUTSIDE_NUMBER if keep_period_after_digit else _PERIOD
    return period.sub("", stripped, count=_MAX_PERIODS)


def normal_words(text: str) -> str:
    """Return the words in lower case, one blank between them, numbers and contractions mended.

    ``none`` and ``zero`` to ``ten`` become digits, articles go, and a contraction without its
    apostrophe gets it back.

    Args:
        text: without punctuation.

    Source: LLaVA, llava/eval/m4c_evaluator.py; the same in VLMEvalKit.
    """
    numbered = (_NUMBERS.get(word, word) for word in text.lower().split())
    words = (word for word in numbered if word not in _ARTICLES)
    return " ".join(_CONTRACTIONS.get(word, word) for word in words)


def evalai_form(text: str) -> str:
    """Return an answer as LLaVA and lmms-eval compare it.

    Commas and question marks go first, and ``'s`` becomes a word, so ``1,000`` is ``1000`` and
    ``cafe's`` is ``cafe 's``.

    Args:
        text: an answer, the model's or a person's.

    Source: LLaVA, llava/eval/m4c_evaluator.py; lmms-eval, _task_utils/vqa_eval_metric.py.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return normal_words(strip_punctuation(_one_line(text)))


def vlmevalkit_form(text: str) -> str:
    """Return an answer as VLMEvalKit compares it.

    Unlike `evalai_form` it leaves ``'s`` alone, treats commas and question marks as other
    punctuation, and keeps a full stop that ends a number: ``3.`` is not ``3``.

    Args:
        text: an answer, the model's or a person's.

    Source: VLMEvalKit, vlmeval/dataset/utils/vqa_eval.py.
    """
    return normal_words(strip_punctuation(_one_line(text), keep_period_after_digit=True))


def soft_score(given: str, references: Sequence[str]) -> float:
    """Return the mean over people of min(1, #{others who gave the answer} / 3).

    Of ten people, one who agrees is worth 0.3, two 0.6, three 0.9, four and more 1.

    Args:
        given: the model's answer, in the form that is compared.
        references: the people's, in the same form; 0 if there are none.

    Source: Antol et al. 2015, §4; LLaVA, llava/eval/m4c_evaluator.py, which insists on ten.
    """
    if not references:
        return 0.0
    agreeing = references.count(given)
    others = (agreeing - (reference == given) for reference in references)
    return statistics.fmean(min(1.0, count / 3) for count in others)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
