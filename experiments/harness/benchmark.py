"""What a benchmark is: questions about pictures, where they come from and how they are scored."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from PIL import Image

from experiments.harness.errors import InputError
from experiments.harness.questions import Question
from experiments.scoring.answer import Answer, Scores

if TYPE_CHECKING:
    from experiments.reading.tables import Tables

YES_NO = (("Yes", "yes"), ("No", "no"))
"""The paper sums both spellings of an answer (§3.2)."""
LETTERS = "ABCDEFGHIJ"
SCENES = "scenes"
"""The embedded world, as ``--data`` names it."""


def letters(count: int) -> tuple[tuple[str, ...], ...]:
    """Return the choices of a question with lettered options."""
    return tuple((letter,) for letter in LETTERS[:count])


@dataclasses.dataclass(frozen=True)
class Example:
    """One question.

    Attributes:
        key: unique within the benchmark, such as ``random/17``.
        image: id of its picture.
        user_text: what the user says, post prompt included.
        choices: per answer, the spellings whose first token counts for it; none if it is open.
        label: index of the right answer, beyond the choices if it is none of them; None if the
            question is open.
        split: the part of the benchmark it is reported in.
        category: a finer part; empty if there is none.
        group: questions of one group are scored together; empty if it stands alone.
        options: texts of the lettered options.
        references: right answers of an open question.
    """

    key: str
    image: str
    user_text: str
    choices: tuple[tuple[str, ...], ...]
    label: int | None
    split: str
    category: str = ""
    group: str = ""
    options: tuple[str, ...] = ()
    references: tuple[str, ...] = ()

    @property
    def right(self) -> str:
        """The right choice as scorers spell it: ``yes``, ``no`` or a letter; empty if open."""
        if self.label is None:
            return ""
        return (
            self.choices[self.label][-1] if self.label < len(self.choices) else LETTERS[self.label]
        )

    @property
    def question(self) -> Question:
        """What is to be known of it when its answer is scored."""
        return Question(
            key=self.key,
            image=self.image,
            text=self.user_text,
            split=self.split,
            category=self.category,
            group=self.group,
            choices=tuple(spellings[0] for spellings in self.choices),
            right=self.right,
            options=self.options,
            references=self.references,
        )


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A benchmark's questions and how to open their pictures.

    Attributes:
        examples: in the benchmark's order.
        read_image: image id → RGB picture; raises ImageError.
        image_digest: image id → hex digest of its content, None if it is not there.
        source: what was read, for people.
        place: where the pictures lie, for people.
    """

    examples: tuple[Example, ...]
    read_image: Callable[[str], Image.Image]
    image_digest: Callable[[str], str | None]
    source: str
    place: str

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
                raise InputError(f"question {first[image]}: picture {image} is not in {self.place}")
            total.update(f"{image} {content}\n".encode())
        return total.hexdigest()


@dataclasses.dataclass(frozen=True)
class Request:
    """What of a benchmark is to be read.

    Attributes:
        data: folder, hub id or ``scenes``.
        limit: pictures, from the first; None for all.
        prompt_style: ``llava`` or ``lmms``, whose words are put around a question.
        options: ``valid`` options of a lettered question, or always ``abcd``.
        offline: open no connection.
        own: values of the benchmark's own flags.
    """

    data: str
    limit: int | None = None
    prompt_style: str = "llava"
    options: str = "valid"
    offline: bool = False
    own: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class OwnFlag:
    """A flag that one benchmark has.

    Attributes:
        values: that it takes, the default first.
        help: for the command line.
    """

    values: tuple[str, ...]
    help: str


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark by name.

    Attributes:
        name: also the default run folder's.
        splits: names in the order of the tables.
        scenes: reads the embedded miniature.
        raw: reads a folder of the original files.
        hub: reads tables in the layout of the hub.
        hub_id: where the hub has it, such as ``lmms-lab/POPE``.
        hub_files: patterns of the files there that are needed; others are not fetched.
        scenes_limit: pictures of the miniature when ``--limit`` is not given.
        score: numbers of the tools that evaluate it.
        correct: whether a generated answer is right.
        correct_by: the tool whose rule that is.
        max_new_tokens: of a generated answer.
        lettered: whether questions have options A, B, C, …
        open: whether questions are answered freely.
        flags: the flags that it alone has, by name.
    """

    name: str
    splits: Sequence[str]
    scenes: Callable[[Request], Dataset]
    raw: Callable[[pathlib.Path, Request], Dataset]
    hub: Callable[[Tables, Request], Dataset]
    hub_id: str
    hub_files: Sequence[str]
    scenes_limit: int
    score: Callable[[Sequence[Answer]], Scores]
    correct: Callable[[Answer], bool]
    correct_by: str
    max_new_tokens: int = 16
    lettered: bool = False
    open: bool = False
    flags: Mapping[str, OwnFlag] = dataclasses.field(default_factory=dict)

    @property
    def default_route(self) -> str:
        """The way answers are had if ``--route`` is not given."""
        return "generate" if self.open else "first_token"
