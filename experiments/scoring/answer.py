"""What a scorer sees of a question that was answered."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

Scores = Mapping[str, Mapping[str, float]]
"""Tool → name → number; a name with a dot, as ``random.f1``, is a part's."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """A question's answer and what is known of the right one.

    Attributes:
        key: of the question.
        text: what the model said; on the first-token route the likeliest choice.
        right: the right choice, ``yes``, ``no`` or a letter; empty if the question is open.
        split: the part of the benchmark it is reported in.
        category: a finer part; empty if there is none.
        group: questions of one group are scored together: the rotations of a question, the pair
            of a picture; empty if it stands alone.
        options: texts of the lettered options.
        references: right answers of an open question.
    """

    key: str
    text: str
    right: str
    split: str
    category: str = ""
    group: str = ""
    options: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
