"""Pictures to pixels, bit-equal to LLaVA's own preprocessing (Pillow route)."""

from __future__ import annotations

import hashlib
import io
import pathlib
import warnings
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

Mode = Literal["pad", "center_crop"]

CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
BACKGROUND = (122, 116, 104)
"""The padding colour, int(255 · mean) per channel."""


class ImageError(ValueError):
    """A picture that cannot be decoded."""


def decode(content: bytes, name: str, *, upright: bool = False) -> Image.Image:
    """Decode a picture to RGB; the type is taken from the content, alpha is dropped.

    Args:
        content: the file's bytes.
        name: what to call it in an error.
        upright: turn it as its EXIF orientation says, as ``datasets`` does; LLaVA's file route
            does not.

    Returns:
        An RGB picture, the first frame of an animation.

    Raises:
        ImageError: not a picture, cut off, or so large that decoding it is an attack.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                return (ImageOps.exif_transpose(image) if upright else image).convert("RGB")
    except Exception as error:  # Pillow's decoders raise whatever their format makes them
        reason = str(error).split(" <_io.BytesIO")[0]
        raise ImageError(f"picture {name} cannot be decoded: {reason}") from None


def read(file: pathlib.Path) -> Image.Image:
    """Decode a picture file to RGB.

    Raises:
        ImageError: it is not there, or cannot be decoded.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ImageError(f"picture {file.name} is not in {file.parent}: {error.strerror}") from None
    return decode(content, file.name)


def digest(file: pathlib.Path) -> str | None:
    """Return the sha256 of a picture file, None if it is not there."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


def fit(image: Image.Image, size: int, mode: Mode = "pad") -> np.ndarray:
    """Bring an RGB picture to size × size.

    Args:
        image: an RGB picture.
        size: side of the result, pixels.
        mode: ``pad`` puts it in the middle of a square of CLIP's mean colour (LLaVA-1.5's
            published numbers); ``center_crop`` cuts the middle square out (Hugging Face's
            default processor).

    Returns:
        uint8[size, size, 3].

    Raises:
        ImageError: so thin that its square or its enlargement would not fit into memory.
        ValueError: unknown mode.
    """
    _refuse_thin(image, size)
    if mode == "pad":
        square = _pad_to_square(image).resize((size, size), Image.Resampling.BICUBIC)
        return np.asarray(square)
    if mode == "center_crop":
        return _center_crop(image, size)
    raise ValueError(f"unknown preprocessing {mode!r}; known: 'pad', 'center_crop'")


def _refuse_thin(image: Image.Image, size: int) -> None:
    short, long = sorted(image.size)
    pixels = max(long**2, size**2 * long // short)
    if Image.MAX_IMAGE_PIXELS and pixels > 2 * Image.MAX_IMAGE_PIXELS:  # Pillow's own limit
        raise ImageError(f"a picture of {image.width} x {image.height} is too thin to be fitted")


def _pad_to_square(image: Image.Image) -> Image.Image:
    """Paste into the middle of a square; an odd pixel goes to the right or the bottom."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), BACKGROUND)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def _center_crop(image: Image.Image, size: int) -> np.ndarray:
    """Resize the short side to size, then cut the middle.

    The transparent colour of a palette survives the conversion to RGB as a mark, and
    transformers 5 puts pixels of that colour onto white.
    """
    if image.info.get("transparency") is not None:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    width, height = image.size
    short = min(width, height)
    resized = image.resize(
        (int(size * width / short), int(size * height / short)), Image.Resampling.BICUBIC
    )
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return np.asarray(resized)[top : top + size, left : left + size]


def normalise(pixels: np.ndarray) -> np.ndarray:
    """Map uint8[..., 3] to CLIP's float32[..., 3]: (x / 255 − mean) / std."""
    return ((pixels / 255.0).astype(np.float32) - CLIP_MEAN) / CLIP_STD


def preprocess(image: Image.Image, size: int, mode: Mode = "pad") -> np.ndarray:
    """Return a picture as the vision tower takes it, float32[size, size, 3]."""
    return normalise(fit(image, size, mode))
