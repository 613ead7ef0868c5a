"""The embedded world: procedural pictures, the truth about them and seven miniature benchmarks."""

from experiments.scenes.categories import CATEGORIES, COLOURS, NAMES, SCENE_TYPES
from experiments.scenes.facts import ASPECTS, HEIGHTS, NUMBERS, SIDES, Fact, draw, facts, pick
from experiments.scenes.questions import LETTERS, MINIATURES, Miniature, Question
from experiments.scenes.questions.mmbench import CIRCULAR
from experiments.scenes.questions.pope import SPLITS
from experiments.scenes.rendering import GRID, Scene, Thing, scene
from experiments.scenes.signs import Sign, sign, with_sign
from experiments.scenes.worlds import BACKGROUND, VERSION, World, layout, world

__all__ = [
    "ASPECTS",
    "BACKGROUND",
    "CATEGORIES",
    "CIRCULAR",
    "COLOURS",
    "GRID",
    "HEIGHTS",
    "LETTERS",
    "MINIATURES",
    "NAMES",
    "NUMBERS",
    "SCENE_TYPES",
    "SIDES",
    "SPLITS",
    "VERSION",
    "Fact",
    "Miniature",
    "Question",
    "Scene",
    "Sign",
    "Thing",
    "World",
    "draw",
    "facts",
    "layout",
    "pick",
    "scene",
    "sign",
    "with_sign",
    "world",
]
