"""Which tokens were kept, drawn over their picture: one pixel a token.

Axis letters: N tokens, S² = N where they lie in a square.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from experiments.harness import records
from experiments.reporting.page.pictures import uri

COLOURS = (
    (0, 0, 0, 175),  # dropped
    (255, 255, 255, 0),  # kept at the smallest budget
    (0, 114, 178, 115),
    (230, 159, 0, 115),
    (0, 158, 115, 115),
    (213, 94, 0, 115),
    (86, 180, 233, 115),
    (204, 121, 167, 115),
)
"""Red, green, blue and opacity of a token by its step; after the last one the third is next.

Okabe and Ito (2008), as in the figures.
"""


def side(num_tokens: int) -> int | None:
    """Return S; None if N tokens make no square."""
    root = math.isqrt(num_tokens)
    return root if root * root == num_tokens else None


def kept(mask: str, num_tokens: int) -> np.ndarray | None:
    """Return bool[N] of a record's mask; None if it is not one of N tokens."""
    try:
        found = records.unpack_mask(mask, num_tokens)
    except (binascii.Error, ValueError):
        return None
    return found if found.size == num_tokens else None


def packed(mask: np.ndarray) -> str:
    """Return the base64 of bool[N]'s bits, the first token the highest bit."""
    return base64.b64encode(np.packbits(mask).tobytes()).decode("ascii")


def steps(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the step at which each token came, from 1, and 0 for what the last mask drops.

    Args:
        masks: bool[N] each, budgets rising.

    Returns:
        int[N]; for nested masks the greedy order, as far as the budgets tell it.
    """
    first = np.argmax(np.stack(masks), axis=0) + 1
    return np.where(masks[-1], first, 0)


def colour(step: int) -> int:
    """Return the place of a step's colour."""
    return step if step < len(COLOURS) else 2 + (step - 2) % (len(COLOURS) - 2)


def png(step: np.ndarray) -> str:
    """Return int[N] of steps as a picture of S × S pixels, in a data: URI."""
    root = math.isqrt(step.size)
    pixels = np.array([colour(int(s)) for s in step], np.uint8).reshape(root, root)
    image = Image.fromarray(pixels, "P")
    image.putpalette(bytes(x for c in COLOURS for x in c[:3]))
    return uri(image, "PNG", optimize=True, transparency=bytes(c[3] for c in COLOURS))
