"""Preprocessing against the reference pictures, and pictures that cannot be read."""

import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from llava_jax import images

SIZE = 336


def entries(fixtures_dir):
    return json.loads((fixtures_dir / "golden" / "images.json").read_text())["images"]


@pytest.mark.golden
@pytest.mark.parametrize("mode", ["pad", "center_crop"])
def test_pixels_equal_the_reference(fixtures_dir, mode):
    checked = 0
    for entry in entries(fixtures_dir):
        if entry["expect"] != "ok" or entry[mode] is None:
            continue
        want, file = entry[mode], fixtures_dir / "images" / entry["file"]
        image = images.decode(file.read_bytes(), file.name)
        pixels = images.fit(image, SIZE, mode)
        chw = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        assert hashlib.sha256(chw.tobytes()).hexdigest() == want["uint8_chw_sha256"], entry["file"]
        normal = images.preprocess(image, SIZE, mode)
        for place, value in want["probes_float32"].items():
            y, x = map(int, place.split(","))
            np.testing.assert_allclose(normal[y, x], value, atol=1e-6)
        np.testing.assert_allclose(
            normal.mean((0, 1), dtype=np.float64), want["float32_mean"], atol=1e-5
        )
        checked += 1
    assert checked


@pytest.mark.golden
def test_unreadable_pictures_are_refused_by_name(fixtures_dir):
    bad = [entry["file"] for entry in entries(fixtures_dir) if entry["expect"] == "error"]
    assert bad
    for name in bad:
        content = (fixtures_dir / "images" / name).read_bytes()
        with pytest.raises(images.ImageError, match=name):
            images.decode(content, name)


def test_an_image_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20)).save(buffer, "PNG")
    with pytest.raises(images.ImageError, match=r"big\.png"):
        images.decode(buffer.getvalue(), "big.png")


def test_a_picture_too_thin_to_be_fitted_is_refused():
    with pytest.raises(images.ImageError, match="1 x 20000"):
        images.fit(Image.new("RGB", (1, 20000)), 336)


def test_what_is_not_a_file_is_not_read(tmp_path, monkeypatch):
    with pytest.raises(images.ImageError, match="not a regular file"):
        images.read(tmp_path)
    assert images.digest(tmp_path) is None
    (tmp_path / "large.png").write_bytes(b"x" * 11)
    monkeypatch.setattr(images, "_MOST_BYTES", 10)
    with pytest.raises(images.ImageError, match=r"large\.png is not in .*: larger than"):
        images.read(tmp_path / "large.png")


def test_upright_pictures_are_turned():
    turned = Image.Exif()
    turned[0x0112] = 6
    for mode in ("RGB", "L"):
        buffer = io.BytesIO()
        Image.new(mode, (4, 2)).save(buffer, "JPEG", exif=turned)
        assert images.decode(buffer.getvalue(), "x", upright=True).size == (2, 4)
        assert images.decode(buffer.getvalue(), "x").size == (4, 2)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'squash'"):
        images.fit(Image.new("RGB", (2, 2)), 4, "squash")
