"""Pictures small enough for a page of two hundred."""

from __future__ import annotations

import base64
import io

from PIL import Image

SIDE = 168
"""Pixels of a thumbnail's side, seven for each of 24 tokens."""
_QUALITY = 60


def thumbnail(image: Image.Image) -> str:
    """Return a square picture as a JPEG of 168 × 168 pixels, in a data: URI."""
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return uri(small, "JPEG", quality=_QUALITY, optimize=True)


def uri(image: Image.Image, kind: str, **how: object) -> str:
    """Return a picture as a data: URI of a JPEG or PNG."""
    content = io.BytesIO()
    image.save(content, kind, **how)
    encoded = base64.b64encode(content.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{encoded}"
