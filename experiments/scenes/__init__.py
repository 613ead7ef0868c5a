"""The embedded world: procedural pictures and POPE's questions about them."""

from experiments.scenes.categories import CATEGORIES, COLOURS, NAMES, SCENE_TYPES
from experiments.scenes.questions import SPLITS, pope_questions, question
from experiments.scenes.rendering import GRID, Scene, Thing, scene
from experiments.scenes.worlds import BACKGROUND, VERSION, World, layout, world

__all__ = [
    "BACKGROUND",
    "CATEGORIES",
    "COLOURS",
    "GRID",
    "NAMES",
    "SCENE_TYPES",
    "SPLITS",
    "VERSION",
    "Scene",
    "Thing",
    "World",
    "layout",
    "pope_questions",
    "question",
    "scene",
    "world",
]
