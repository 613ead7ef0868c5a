"""Questions to arrays: rows grouped by picture, duplicates merged, shapes kept few.

Axis letters: G pictures, Q questions, T suffix tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from experiments.harness.benchmark import Example
from llava_jax.anyres import Layout

_LEAST_STEP = 4  # of the buckets that Q and T are padded to; few shapes, few programs


@dataclasses.dataclass(frozen=True)
class ImageGroup:
    """A picture and its distinct questions.

    Attributes:
        image: its id.
        questions: per distinct user text, the rows that ask it.
    """

    image: str
    questions: tuple[tuple[Example, ...], ...]

    @property
    def rows(self) -> tuple[Example, ...]:
        """All rows of the picture."""
        return tuple(row for question in self.questions for row in question)


@dataclasses.dataclass(frozen=True)
class ImageBatch:
    """Arrays of a few pictures' questions.

    Attributes:
        groups: the pictures, in the order of the first axis.
        suffix_ids: int32[G, Q, T], padded on the right with 0.
        lengths: int32[G, Q]; 1 for questions that are padding.
        layout: of the pictures' tiles; None of a LLaVA-1.5.
    """

    groups: tuple[ImageGroup, ...]
    suffix_ids: np.ndarray
    lengths: np.ndarray
    layout: Layout | None = None

    def part(self, where: slice) -> ImageBatch:
        """Return the batch of some of the pictures."""
        parts = self.groups[where], self.suffix_ids[where], self.lengths[where]
        return ImageBatch(*parts, self.layout)


def group_by_image(examples: Iterable[Example]) -> tuple[ImageGroup, ...]:
    """Group rows by picture and merge rows that ask the same question.

    Args:
        examples: in the benchmark's order.

    Returns:
        Pictures in order of first appearance, their questions likewise.
    """
    grouped: dict[str, dict[tuple[str, tuple[tuple[str, ...], ...]], list[Example]]] = {}
    for example in examples:
        questions = grouped.setdefault(example.image, {})
        questions.setdefault((example.user_text, example.choices), []).append(example)
    return tuple(
        ImageGroup(image, tuple(map(tuple, questions.values())))
        for image, questions in grouped.items()
    )


def collate(
    groups: tuple[ImageGroup, ...],
    suffixes: Mapping[str, Sequence[int]],
    layout: Layout | None = None,
) -> ImageBatch:
    """Put the questions of some pictures into arrays.

    Args:
        groups: the pictures of a batch.
        suffixes: user text → its tokens.
        layout: of the pictures' tiles, that all of them have; None of a LLaVA-1.5.
    """
    tokens = [[suffixes[question[0].user_text] for question in g.questions] for g in groups]
    q, t = padded(max(map(len, tokens)), max(len(ids) for row in tokens for ids in row))
    ids = np.zeros((len(groups), q, t), np.int32)
    lengths = np.ones((len(groups), q), np.int32)
    for g, questions in enumerate(tokens):
        for i, suffix in enumerate(questions):
            ids[g, i, : len(suffix)] = suffix
            lengths[g, i] = len(suffix)
    return ImageBatch(groups, ids, lengths, layout)


def padded(questions: int, tokens: int) -> tuple[int, int]:
    """Return Q and T rounded up to their buckets: 1, 2, 4, 8, 12, … and 4, 8, … 32, 40, 48, …."""
    few = 1 << (questions - 1).bit_length()  # a power of two; three more questions cost a lot
    return min(few, _bucket(questions, 16)), _bucket(tokens, 8)


def _bucket(count: int, per_octave: int) -> int:
    """Round up to a multiple of 4, or of that part of the next power of two where that is more."""
    step = max(_LEAST_STEP, (1 << (count - 1).bit_length()) // per_octave)
    return -(-count // step) * step
