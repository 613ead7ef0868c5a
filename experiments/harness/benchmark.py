"""What a benchmark is: questions about pictures, each with the spellings of its answers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence

from PIL import Image

from experiments.harness.errors import InputError


@dataclasses.dataclass(frozen=True)
class Example:
    """One question.

    Attributes:
        key: unique within the benchmark, such as ``random/17``.
        image: id of its picture.
        user_text: what the user says, post prompt included.
        choices: per answer, the spellings whose first token counts for it.
        label: index of the right answer.
        split: the part of the benchmark it is reported in.
    """

    key: str
    image: str
    user_text: str
    choices: tuple[tuple[str, ...], ...]
    label: int
    split: str


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A benchmark's questions and how to open their pictures.

    Attributes:
        examples: in the benchmark's order.
        read_image: image id → RGB picture; raises ImageError.
        image_digest: image id → hex digest of its content, None if it is not there.
        source: what was read, for people.
    """

    examples: tuple[Example, ...]
    read_image: Callable[[str], Image.Image]
    image_digest: Callable[[str], str | None]
    source: str

    @property
    def images(self) -> tuple[str, ...]:
        """Image ids in order of first appearance."""
        return tuple(dict.fromkeys(example.image for example in self.examples))

    def first_images(self, limit: int | None) -> Dataset:
        """Return the questions of the first ``limit`` pictures (all if None)."""
        kept = set(self.images[:limit])
        examples = tuple(example for example in self.examples if example.image in kept)
        return dataclasses.replace(self, examples=examples)

    def digest(self, *, allow_missing: bool = False) -> str:
        """Return a sha256 over every question and every picture's content.

        Raises:
            InputError: a picture is not there, unless that is allowed.
        """
        total = hashlib.sha256()
        for example in self.examples:
            total.update(json.dumps(list(vars(example).values())).encode())
        first = {example.image: example.key for example in reversed(self.examples)}
        for image in self.images:
            content = self.image_digest(image)
            if content is None and not allow_missing:
                raise InputError(f"question {first[image]}: picture {image} is not there")
            total.update(f"{image} {content}\n".encode())
        return total.hexdigest()


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark by name.

    Attributes:
        name: also the default run folder's.
        load: ``--data`` and how many pictures (None: all) → its questions; raises InputError.
        splits: names in the order of the tables.
        default_limit: pictures when ``--limit`` is not given, by ``--data``.
        lettered: whether questions have options A, B, C, …
    """

    name: str
    load: Callable[[str, int | None], Dataset]
    splits: Sequence[str]
    default_limit: Callable[[str], int | None]
    lettered: bool = False
