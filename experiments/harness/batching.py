"""Questions to arrays: rows grouped by picture, duplicates merged, shapes kept few.

Axis letters: G pictures, Q questions, T suffix tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from experiments.harness.benchmark import Dataset, Example
from llava_jax import images, prompts

QUESTION_BUCKET, TOKEN_BUCKET = 4, 8
"""Q and T are padded to multiples of these, so that few programs are compiled."""


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
    """Arrays of a few pictures and all their questions.

    Attributes:
        groups: the pictures, in the order of the first axis.
        pixels: float32[G, H, W, 3]; zeros where a picture could not be read.
        suffix_ids: int32[G, Q, T], padded on the right with 0.
        lengths: int32[G, Q]; 1 for questions that are padding.
        unreadable: picture id → why it could not be read.
    """

    groups: tuple[ImageGroup, ...]
    pixels: np.ndarray
    suffix_ids: np.ndarray
    lengths: np.ndarray
    unreadable: dict[str, str]


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


def plan(groups: Sequence[ImageGroup], batch_size: int) -> tuple[tuple[ImageGroup, ...], ...]:
    """Cut the pictures into batches; a function of the whole run, not of what is left of it."""
    return tuple(
        tuple(groups[start : start + batch_size]) for start in range(0, len(groups), batch_size)
    )


def collate(
    groups: tuple[ImageGroup, ...],
    dataset: Dataset,
    tokenizer: prompts.Tokenizer,
    *,
    image_size: int,
    preprocessing: images.Mode,
) -> ImageBatch:
    """Read pictures and tokenise questions: strings and files in, arrays out.

    Args:
        groups: the pictures of a batch.
        dataset: opens them.
        tokenizer: the model's.
        image_size: side of the model's pictures.
        preprocessing: ``pad`` or ``center_crop``.

    Returns:
        The batch; a picture that cannot be read is named in it.
    """
    pixels = np.zeros((len(groups), image_size, image_size, 3), np.float32)
    unreadable = {}
    for index, group in enumerate(groups):
        try:
            picture = dataset.read_image(group.image)
            pixels[index] = images.preprocess(picture, image_size, preprocessing)
        except images.ImageError as error:
            unreadable[group.image] = str(error)
    suffixes = [
        [tokenizer.rest(prompts.vicuna_v1(question[0].user_text)[1]) for question in g.questions]
        for g in groups
    ]
    suffix_ids, lengths = _pad(suffixes)
    return ImageBatch(groups, pixels, suffix_ids, lengths, unreadable)


def _pad(suffixes: Sequence[Sequence[Sequence[int]]]) -> tuple[np.ndarray, np.ndarray]:
    """Pad token ids to int32[G, Q, T] and their lengths to int32[G, Q]."""
    q = _round_up(max(map(len, suffixes)), QUESTION_BUCKET)
    t = _round_up(max(len(ids) for questions in suffixes for ids in questions), TOKEN_BUCKET)
    ids = np.zeros((len(suffixes), q, t), np.int32)
    lengths = np.ones((len(suffixes), q), np.int32)
    for g, questions in enumerate(suffixes):
        for i, suffix in enumerate(questions):
            ids[g, i, : len(suffix)] = suffix
            lengths[g, i] = len(suffix)
    return ids, lengths


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
