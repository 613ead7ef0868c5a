"""A sign with a word on it, hung into a finished scene: pictures for TextVQA's form."""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.scenes.drawing import SIZE
from experiments.scenes.worlds import World

WORDS = ("OPEN", "STOP", "EXIT", "TAXI", "BANK", "SHOP", "PARK", "CAFE")
SCALE = 2  # pixels per dot
_BORDER = 4
_DARK, _LIGHT = 24, 246

# Letters of 5 × 7 dots, one string of rows each.
_FONT = {
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "B": "11110 10001 10001 11110 10001 10001 11110",
    "C": "01111 10000 10000 10000 10000 10000 01111",
    "E": "11111 10000 10000 11110 10000 10000 11111",
    "F": "11111 10000 10000 11110 10000 10000 10000",
    "H": "10001 10001 10001 11111 10001 10001 10001",
    "I": "01110 00100 00100 00100 00100 00100 01110",
    "K": "10001 10010 10100 11000 10100 10010 10001",
    "N": "10001 11001 10101 10101 10011 10001 10001",
    "O": "01110 10001 10001 10001 10001 10001 01110",
    "P": "11110 10001 10001 11110 10000 10000 10000",
    "R": "11110 10001 10001 11110 10100 10010 10001",
    "S": "01111 10000 10000 01110 00001 00001 11110",
    "T": "11111 00100 00100 00100 00100 00100 00100",
    "X": "10001 10001 01010 00100 01010 10001 10001",
}


@dataclasses.dataclass(frozen=True)
class Sign:
    """Where a sign hangs and what it says.

    Attributes:
        word: one of WORDS.
        left: first column.
        top: first row.
    """

    word: str
    left: int
    top: int


def _dots(word: str) -> np.ndarray:
    """Set a word in dots, bool[7, 6 · letters − 1], a blank column between letters."""
    gap = np.zeros((7, 1), bool)
    letters = [np.array([list(row) for row in _FONT[c].split()]) == "1" for c in word]
    return np.hstack([part for letter in letters for part in (letter, gap)])[:, :-1]


def plate(word: str) -> np.ndarray:
    """Draw a sign, uint8[h, w]: dark letters on light ground with a dark rim."""
    face = np.kron(_dots(word), np.ones((SCALE, SCALE), bool))
    tones = np.where(np.pad(face, _BORDER), _DARK, _LIGHT).astype(np.uint8)
    return np.pad(tones, 1, constant_values=_DARK)


def sign(place: World, index: int) -> Sign:
    """Choose the word and the place of a scene's sign."""
    rng = np.random.default_rng([place.seed, index, 8])
    word = WORDS[rng.integers(len(WORDS))]
    height, width = plate(word).shape
    left, top = rng.integers(0, SIZE - width + 1), rng.integers(0, SIZE - height + 1)
    return Sign(word, int(left), int(top))


def with_sign(image: np.ndarray, hung: Sign) -> np.ndarray:
    """Return a copy of a scene's picture uint8[192, 192, 3] with a sign in it."""
    drawn = plate(hung.word)
    height, width = drawn.shape
    picture = image.copy()
    picture[hung.top : hung.top + height, hung.left : hung.left + width] = drawn[..., None]
    return picture
