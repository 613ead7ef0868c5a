"""The two answers of a yes-or-no question, and VLMEvalKit's way to read them."""

from __future__ import annotations

from experiments.scoring.evalai import strip_punctuation

YES, NO = "yes", "no"
UNKNOWN = "unknown"
"""VLMEvalKit's name for an answer that is neither."""


def vlmevalkit_yes_no(text: str) -> str:
    """Read an answer as VLMEvalKit does without a judge: by which of the two words it contains.

    Args:
        text: the answer.

    Returns:
        ``yes`` or ``no`` if exactly that one is a word of it, in any case and after its
        punctuation is removed, else ``unknown``.

    Source: VLMEvalKit, vlmeval/dataset/utils/yorn.py. Where a judge model is configured, it
    decides the unknown ones there.
    """
    words = strip_punctuation(text.lower(), keep_period_after_digit=True).split()
    said = {YES, NO}.intersection(words)
    return said.pop() if len(said) == 1 else UNKNOWN
