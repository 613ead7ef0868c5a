"""What is true of a scene and can be asked for, and what would be false.

A fact is certain from the picture: an object counts when 40 % of it is seen, and is asked
about by its name only where no other instance of its category could be meant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from experiments.scenes.categories import COLOURS, NAMES, SCENE_TYPES
from experiments.scenes.drawing import SIZE, Placement
from experiments.scenes.worlds import PRESENT, Layout, World, layout

ASPECTS = ("object", "color", "count", "side", "place", "scene")
NUMBERS = ("one", "two", "three", "four")
SIDES = ("left", "right")
HEIGHTS = ("top", "bottom")
PLACES = tuple(f"{height} {side}" for height in HEIGHTS for side in SIDES)

_MIDDLE = 12.0  # pixels around the middle where an object is on neither side

_OPEN = {
    "object": "Which of these is in the image?",
    "color": "What color is the {subject}?",
    "count": "How many {subject} objects are in the image?",
    "side": "On which side of the image is the {subject}?",
    "place": "Where in the image is the {subject}?",
    "scene": "What kind of scene is this?",
}
_WHETHER = {
    "object": "Is there {an_answer} in the image?",
    "color": "Is there {an_answer} {subject} in the image?",
    "count": "Are there exactly {answer} {subject} objects in the image?",
    "side": "Is the {subject} on the {answer} side of the image?",
    "place": "Is the {subject} at the {answer} of the image?",
    "scene": "Is this {an_answer} scene?",
}
_WHETHER_ONE = "Is there exactly one {subject} object in the image?"


def with_article(words: str) -> str:
    """Put a or an before words."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


@dataclasses.dataclass(frozen=True)
class Fact:
    """Something true of a scene.

    Attributes:
        aspect: one of ASPECTS.
        subject: the category it is about, empty for the scene as a whole.
        answer: what is true.
        wrong: answers of the same kind that are false.
    """

    aspect: str
    subject: str
    answer: str
    wrong: tuple[str, ...]

    def ask(self) -> str:
        """Ask for the answer."""
        return _OPEN[self.aspect].format(subject=self.subject)

    def ask_whether(self, answer: str) -> str:
        """Ask whether an answer is true."""
        template = _WHETHER_ONE if answer == NUMBERS[0] else _WHETHER[self.aspect]
        return template.format(subject=self.subject, answer=answer, an_answer=with_article(answer))


def facts(place: World, index: int) -> tuple[Fact, ...]:
    """List what can be asked about a scene, without rendering it."""
    plan = layout(place, index)
    return (
        *_objects(plan),
        *(fact for category in plan.present for fact in _about(plan, category)),
        _fact("scene", "", SCENE_TYPES[plan.kind], SCENE_TYPES),
    )


def _fact(aspect: str, subject: str, answer: str, answers: Sequence[str]) -> Fact:
    return Fact(aspect, subject, answer, tuple(other for other in answers if other != answer))


def _objects(plan: Layout) -> Iterator[Fact]:
    """State each present category against the absent ones."""
    absent = tuple(NAMES[i] for i in plan.absent)
    for i in plan.present:
        yield Fact("object", NAMES[i], NAMES[i], absent)


def _about(plan: Layout, category: int) -> Iterator[Fact]:
    """State number, and colour and place of a single instance, if no glimpse confuses them."""
    pairs = zip(plan.placements, plan.visible, strict=True)
    seen = [(spot, share) for spot, share in pairs if spot.category == category and share > 0]
    name = NAMES[category]
    if min(share for _, share in seen) < PRESENT or len(seen) > len(NUMBERS):
        return
    yield _fact("count", name, NUMBERS[len(seen) - 1], NUMBERS)
    if len(seen) == 1:
        yield from _about_one(name, seen[0][0])


def _about_one(name: str, spot: Placement) -> Iterator[Fact]:
    colours = tuple(COLOURS)
    yield _fact("color", name, colours[spot.colour], colours)
    right, down = spot.x - SIZE / 2, spot.y - SIZE / 2
    if abs(right) < _MIDDLE:
        return
    yield _fact("side", name, SIDES[right > 0], SIDES)
    if abs(down) >= _MIDDLE:
        yield _fact("place", name, PLACES[2 * (down > 0) + (right > 0)], PLACES)


def pick(found: Sequence[Fact], aspect: str, rng: np.random.Generator) -> Fact | None:
    """Draw a fact of an aspect, the answer first: each that the scene offers is as likely.

    Returns:
        The fact, None if the scene has none.
    """
    fitting = [fact for fact in found if fact.aspect == aspect]
    return _balanced(fitting, rng) if fitting else None


def _balanced(fitting: Sequence[Fact], rng: np.random.Generator) -> Fact:
    """Draw an answer, then a fact with that answer."""
    answers = sorted({fact.answer for fact in fitting})
    answer = answers[rng.integers(len(answers))]
    fitting = [fact for fact in fitting if fact.answer == answer]
    return fitting[rng.integers(len(fitting))]


def draw(found: Sequence[Fact], aspects: Sequence[str], rng: np.random.Generator) -> Fact:
    """Draw an aspect that the scene has a fact for, then a fact of it.

    Raises:
        ValueError: the scene has no fact of these aspects.
    """
    held = {fact.aspect for fact in found}
    usable = [aspect for aspect in aspects if aspect in held]
    if not usable:
        raise ValueError(f"no fact is about {', '.join(aspects)}; those are about {sorted(held)}")
    aspect = usable[rng.integers(len(usable))]
    return _balanced([fact for fact in found if fact.aspect == aspect], rng)
