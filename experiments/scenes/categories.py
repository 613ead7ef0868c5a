"""The forty things of the embedded world: outline, texture, trim, usual colour, home.

Outlines live in the square [−1, 1]² with x to the right and y down. A category is
recognisable from a small piece of its surface: every pair of texture and trim tone
belongs to one category alone, the outline and the colour come on top.
"""

from __future__ import annotations

import dataclasses

COLOURS = {
    "red": (214, 48, 44),
    "orange": (242, 140, 34),
    "yellow": (244, 214, 58),
    "green": (62, 166, 72),
    "blue": (58, 96, 222),
    "purple": (142, 68, 190),
    "pink": (246, 138, 178),
    "brown": (138, 88, 46),
}
TRIMS = ((250, 250, 250), (16, 16, 16), (122, 126, 130), (36, 214, 222), (24, 28, 112))
TEXTURES = ("rows", "columns", "slants", "checks", "dots", "rings", "zigzag", "grid")
SCENE_TYPES = (
    "sky",
    "harbour",
    "kitchen",
    "workshop",
    "garden",
    "street",
    "room",
    "castle",
)


@dataclasses.dataclass(frozen=True)
class Disc:
    """Ellipse around (x, y) with half axes rx and ry."""

    x: float
    y: float
    rx: float
    ry: float


@dataclasses.dataclass(frozen=True)
class Box:
    """Rectangle from (left, top) to (right, bottom)."""

    left: float
    top: float
    right: float
    bottom: float


@dataclasses.dataclass(frozen=True)
class Polygon:
    """Closed polygon, even–odd rule, corners listed as x, y, x, y and so on."""

    corners: tuple[float, ...]


Shape = Disc | Box | Polygon


@dataclasses.dataclass(frozen=True)
class Category:
    """One kind of object.

    Attributes:
        name: the word in the questions.
        outline: shapes whose union is the outline.
        holes: shapes cut out of it.
        colour: index of the usual colour.
        texture: index of the surface pattern.
        trim: index of the pattern's second tone.
        scene: index of the scene type where the object is at home.
    """

    name: str
    outline: tuple[Shape, ...]
    holes: tuple[Shape, ...]
    colour: int
    texture: int
    trim: int
    scene: int


def _polygon(*corners: float) -> Polygon:
    return Polygon(corners)


# fmt: off
_STAR = _polygon(0, -1, .27, -.36, .96, -.3, .43, .15, .6, .82, 0, .45, -.6, .82,
                 -.43, .15, -.96, -.3, -.27, -.36)
# name, usual colour, outline, holes; five by five in the order of SCENE_TYPES
_TABLE = (
    ("star", "yellow", (_STAR,), ()),
    ("moon", "yellow", (Disc(0, 0, .95, .95),), (Disc(.5, -.2, .7, .75),)),
    ("cloud", "blue", (Disc(-.5, .2, .5, .45), Disc(.1, -.15, .55, .6), Disc(.6, .25, .4, .4)), ()),
    ("kite", "red", (_polygon(0, -1, .75, -.25, 0, .8, -.75, -.25), Box(-.12, .6, .12, 1)), ()),
    ("rocket", "purple", (_polygon(0, -1, .4, -.45, .4, .5, .8, 1, -.8, 1, -.4, .5, -.4, -.45),),
     (Disc(0, -.2, .2, .2),)),
    ("boat", "brown", (_polygon(-1, .3, 1, .3, .6, .9, -.6, .9),
     _polygon(-.1, -1, .75, .15, -.1, .15)), ()),
    ("anchor", "blue", (Box(-.18, -.7, .18, .9), Box(-.6, -.45, .6, -.15), Disc(0, -.7, .32, .3),
     _polygon(-1, .2, -.6, .3, 0, .6, .6, .3, 1, .2, .7, .8, 0, 1, -.7, .8)), ()),
    ("fish", "orange", (Disc(-.2, 0, .78, .55), _polygon(.3, 0, 1, -.6, 1, .6)), ()),
    ("shell", "pink",
     (_polygon(0, .9, -.95, -.1, -.7, -.65, -.25, -.9, .25, -.9, .7, -.65, .95, -.1),), ()),
    ("crab", "red", (Disc(0, .25, .75, .5), Disc(-.75, -.5, .25, .4), Disc(.75, -.5, .25, .4),
     Box(-.85, -.3, -.6, .3), Box(.6, -.3, .85, .3)), ()),
    ("cup", "red", (Box(-.75, -.75, .45, .8), Disc(.5, 0, .48, .5)), (Disc(.5, 0, .22, .26),)),
    ("bottle", "green", (Box(-.22, -1, .22, -.3), Box(-.5, -.35, .5, 1)), ()),
    ("apple", "green", (Disc(-.3, .15, .6, .75), Disc(.3, .15, .6, .75), Box(-.1, -1, .12, -.5)),
     ()),
    ("spoon", "brown", (Disc(0, -.55, .48, .45), Box(-.2, -.3, .2, 1)), ()),
    ("kettle", "purple", (Disc(-.1, .35, .7, .62), _polygon(.4, .3, 1, -.45, 1, 0, .5, .7),
     Disc(-.1, -.35, .55, .55)), (Disc(-.1, -.4, .32, .3),)),
    ("hammer", "brown", (Box(-.85, -.9, .75, -.35), Box(-.2, -.4, .2, 1)), ()),
    ("key", "yellow", (Disc(-.5, 0, .5, .5), Box(-.1, -.2, 1, .2), Box(.4, .1, .62, .6),
     Box(.78, .1, 1, .6)), (Disc(-.5, 0, .18, .18),)),
    ("ladder", "orange", (Box(-.7, -1, -.35, 1), Box(.35, -1, .7, 1), Box(-.5, -.75, .5, -.4),
     Box(-.5, -.1, .5, .25), Box(-.5, .5, .5, .85)), ()),
    ("gear", "blue", (Disc(0, 0, .72, .72), Box(-.2, -1, .2, 1), Box(-1, -.2, 1, .2),
     _polygon(-.8, -.55, -.55, -.8, .8, .55, .55, .8),
     _polygon(.8, -.55, .55, -.8, -.8, .55, -.55, .8)), (Disc(0, 0, .24, .24),)),
    ("axe", "red", (Box(-.15, -.9, .2, 1),
     _polygon(-.1, -.6, -.85, -1, -1, -.3, -.85, .25, -.1, -.1), Box(.1, -.6, .5, -.15)), ()),
    ("tree", "green", (Disc(0, -.35, .75, .65), Box(-.22, .1, .22, 1)), ()),
    ("mushroom", "red", (_polygon(-1, .05, -.75, -.6, 0, -.95, .75, -.6, 1, .05),
     Box(-.32, 0, .32, .95)), ()),
    ("flower", "pink", (Disc(0, -.6, .38, .38), Disc(.6, 0, .38, .38), Disc(0, .6, .38, .38),
     Disc(-.6, 0, .38, .38), Disc(0, 0, .4, .4)), ()),
    ("butterfly", "purple", (Disc(-.5, -.4, .48, .5), Disc(.5, -.4, .48, .5),
     Disc(-.45, .45, .4, .42), Disc(.45, .45, .4, .42), Box(-.12, -.8, .12, .8)), ()),
    ("fence", "brown", (Box(-1, -.35, 1, 0), Box(-1, .4, 1, .75), Box(-.9, -.8, -.55, 1),
     Box(-.18, -.8, .18, 1), Box(.55, -.8, .9, 1)), ()),
    ("car", "blue", (Box(-1, -.1, 1, .5), _polygon(-.65, -.05, -.4, -.6, .4, -.6, .7, -.05),
     Disc(-.55, .5, .32, .32), Disc(.55, .5, .32, .32)), ()),
    ("house", "orange", (Box(-.75, -.1, .75, .95), _polygon(-1, -.05, 0, -1, 1, -.05)),
     (Box(-.18, .4, .18, .95),)),
    ("lamp", "yellow", (_polygon(-.45, -1, .45, -1, .8, -.1, -.8, -.1), Box(-.15, -.15, .15, .8),
     Box(-.5, .68, .5, 1)), ()),
    ("bus", "red", (Box(-1, -.7, 1, .6), Disc(-.5, .6, .28, .3), Disc(.5, .6, .28, .3)),
     (Box(-.75, -.45, -.25, -.1), Box(.25, -.45, .75, -.1))),
    ("arrow", "green", (_polygon(1, 0, .15, -.8, .15, -.32, -1, -.32, -1, .32, .15, .32, .15, .8),),
     ()),
    ("chair", "brown", (Box(-.75, -1, -.35, 1), Box(-.7, -.1, .75, .28), Box(.38, .2, .75, 1)), ()),
    ("table", "orange", (Box(-1, -.5, 1, -.05), Box(-.85, -.1, -.45, .9), Box(.45, -.1, .85, .9)),
     ()),
    ("clock", "purple", (Disc(0, 0, .95, .95),), (Box(-.1, -.55, .1, .1), Box(-.1, -.1, .5, .1))),
    ("umbrella", "pink", (_polygon(-1, 0, -.75, -.6, 0, -.95, .75, -.6, 1, 0),
     Box(-.14, -.1, .14, .9), Box(-.5, .65, .1, .95)), ()),
    ("bed", "blue", (Box(-1, -.7, -.68, .9), Box(-.8, .05, 1, .5), Box(.7, .1, 1, .9),
     Disc(-.35, -.15, .32, .28)), ()),
    ("crown", "yellow", (_polygon(-1, -.6, -.5, .0, 0, -.9, .5, 0, 1, -.6, .8, .8, -.8, .8),), ()),
    ("tower", "purple", (Box(-.55, -.5, .55, 1), Box(-.8, -1, -.4, -.3), Box(-.2, -1, .2, -.3),
     Box(.4, -1, .8, -.3)), ()),
    ("flag", "green", (Box(-.9, -1, -.6, 1), _polygon(-.65, -.95, 1, -.45, -.65, .2)), ()),
    ("shield", "blue", (_polygon(-.8, -.9, .8, -.9, .8, .1, 0, 1, -.8, .1),), ()),
    ("sword", "pink", (Box(-.2, -1, .2, .5), Box(-.65, .2, .65, .5), Box(-.2, .45, .2, 1)), ()),
)
# fmt: on


def _categories() -> tuple[Category, ...]:
    """Give entry i the texture i mod 8 and the trim i div 8, a pair of its own."""
    colours = tuple(COLOURS)
    return tuple(
        Category(name, outline, holes, colours.index(colour), i % 8, i // 8, i // 5)
        for i, (name, colour, outline, holes) in enumerate(_TABLE)
    )


CATEGORIES = _categories()
NAMES = tuple(category.name for category in CATEGORIES)
