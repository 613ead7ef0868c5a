"""Pictures to pixels, bit-equal to LLaVA's own preprocessing (Pillow route)."""

from __future__ import annotations

import errno
import hashlib
import io
import pathlib
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from llava_jax import diagnosis

Mode = Literal["pad", "center_crop"]

CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""Others are not tried: Pillow hands some, such as EPS, to programs that run what they say."""
_MOST_BYTES = 1 << 28
"""Of a file."""
_MOST_MEMORY = 9 * 10**8
"""Bytes of a decoded picture and what it is fitted in."""
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
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            _refuse_large(image)
            if upright:
                ImageOps.exif_transpose(image, in_place=True)
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise whatever their format makes them
        reason = str(error).split(" <_io.BytesIO")[0]
        what = diagnosis.of(content[: diagnosis.HEAD]) or f"cannot be decoded: {reason}"
        raise ImageError(f"picture {name} {what}") from None


def _refuse_large(image: Image.Image) -> None:
    """Refuse what Pillow only warns of; a warning's filter is every thread's."""
    pixels = image.width * image.height
    if Image.MAX_IMAGE_PIXELS and pixels > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are too many")


def read(file: pathlib.Path) -> Image.Image:
    """Decode a picture file to RGB.

    Raises:
        ImageError: it is not there, or cannot be decoded.
    """
    try:
        content = _content(file)
    except OSError as error:
        name = f"picture {file.name:.80}"
        place = f"{file.parent!s:.200}"
        raise ImageError(f"{name} is not in {place}: {error.strerror}") from None
    return decode(content, file.name)


def digest(file: pathlib.Path) -> str | None:
    """Return the sha256 of a picture file, None if it is not there."""
    try:
        return hashlib.sha256(_content(file)).hexdigest()
    except OSError:
        return None


def _content(file: pathlib.Path) -> bytes:
    """Return a file's bytes; a pipe or a device, which may have no end, is not read."""
    if file.exists() and not file.is_file():
        raise OSError(errno.EINVAL, "not a regular file")
    if file.stat().st_size > _MOST_BYTES:
        raise OSError(errno.EFBIG, f"larger than {_MOST_BYTES >> 20} MiB")
    return file.read_bytes()


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
    refuse_large(image, max(long**2, size**2 * long // short))


def refuse_large(image: Image.Image, pixels: int) -> None:
    """Refuse a picture that takes too much memory with as many pixels made of it.

    Raises:
        ImageError: it is so large, or so thin that what it is fitted in is.
    """
    pixels += image.width * image.height
    if 4 * pixels > _MOST_MEMORY:  # Pillow takes four bytes for three
        sides = f"{image.width} x {image.height}"
        raise ImageError(f"a picture of {sides} is too large or too thin to be fitted")


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
