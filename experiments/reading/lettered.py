"""Questions with options A, B, …: what is asked, which answers count, which one is right."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.harness.benchmark import LETTERS, Example, Request, letters
from experiments.harness.errors import InputError
from llava_jax import prompts

_ALWAYS = {"abcd": 4}
"""Value of ``--options`` → letters that count whatever a question offers."""


def example(
    key: str,
    image: str,
    question: str,
    options: Sequence[str],
    label: int | str,
    split: str,
    request: Request,
    *,
    post: str = prompts.OPTION_LETTER,
    category: str = "",
    group: str = "",
    where: str = "",
) -> Example:
    """Return a question with its options below it.

    Args:
        key: of the question.
        image: id of its picture.
        question: what stands above the options.
        options: their texts, without letters.
        label: the right option's letter in any case, or its index.
        split: the part of the benchmark it is reported in.
        request: whose ``options`` say which letters count.
        post: what stands below the options.
        category: a finer part.
        group: of questions that are scored together.
        where: the question for people, its key if empty.

    Raises:
        InputError: there are no options or more than ten, or none of them is the right one.
    """
    where = where or f"question {key}"
    if not 0 < len(options) <= len(LETTERS):
        raise InputError(f"{where}: {len(options)} options, not 1 to {len(LETTERS)}")
    index = _index(label)
    if not 0 <= index < len(options):
        raise InputError(f"{where}: answer {label!r} is none of its {len(options)} options")
    text = prompts.with_options(question, options) + post
    choices = letters(_ALWAYS.get(request.options, len(options)))
    return Example(key, image, text, choices, index, split, category, group, tuple(options))


def _index(label: int | str) -> int:
    """Return the index of the right option, −1 if the label is no letter and no index."""
    if isinstance(label, str):
        letter = label.strip().upper()
        return LETTERS.index(letter) if letter in set(LETTERS) else -1
    return label if type(label) is int else -1
