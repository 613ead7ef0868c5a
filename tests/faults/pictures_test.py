"""Pictures that are hostile, damaged or odd: a defined result, or a failed row with a reason."""

import dataclasses
import functools
import io
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import threading
import zlib

import pytest
from PIL import Image

from experiments import pope
from experiments.harness import command, records
from experiments.harness.benchmark import Example
from experiments.harness.errors import InputError
from experiments.harness.stopwatch import Stopwatch
from experiments.reading import pictures
from llava_jax import images

RED, GREEN = (255, 0, 0), (0, 255, 0)
MOST_MEMORY = 10**9
YES_NO = (("Yes",), ("No",))


def question(image):
    return Example("made/up", image, "Is there a cat?", YES_NO, 0, "made")


def png(*size, mode="RGB", colour=None, **how):
    content = io.BytesIO()
    Image.new(mode, size, colour).save(content, "PNG", **how)
    return content.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width, height):
    """Return a PNG of which only the header is there."""
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", body) + chunk(b"IDAT", b"x\x9c")


def text_bomb():
    """Return a PNG with a text of 200 MB, packed."""
    whole = png(8, 8)
    packed = zlib.compress(bytes(200 * 2**20), 1)
    return whole[:33] + chunk(b"zTXt", b"Comment\0\0" + packed) + whole[33:]


@pytest.fixture
def root(tmp_path):
    """A folder of a picture, links and a pipe; red pictures are what must not be seen."""
    root = tmp_path / "data" / "pictures"
    (root / "sub").mkdir(parents=True)
    for name in ("ok.png", "sub/ok.png"):
        (root / name).write_bytes(png(8, 8, colour=GREEN))
    for name in ("secret.png", "data/secret.png"):
        (tmp_path / name).write_bytes(png(8, 8, colour=RED))
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "hop").symlink_to(tmp_path)
    (root / "inner.png").symlink_to("sub/ok.png")
    (root / "ring.png").symlink_to("ring.png")
    os.mkfifo(root / "pipe.png")
    (root / "endless.png").symlink_to("/dev/zero")
    return root


def escapes(tmp_path):
    """Return names that lead out, or try to, and of each what is to be said."""
    out, gone, odd = "lies outside", "is not in", "has characters that are no text"
    return {
        "../../etc/passwd": out,
        "../secret.png": out,
        "../../secret.png": out,
        "sub/../../secret.png": out,
        "/etc/passwd": out,
        str(tmp_path / "secret.png"): out,
        "link.png": out,
        "hop/secret.png": out,
        "endless.png": out,
        "ok.png\0": odd,
        "ok.png\n": odd,
        "\x1b[2Jok.png": odd,
        "\ud800.png": odd,
        "hop/../secret.png": out,
        "x" * 5000: gone,
        "x/" * 2500 + "ok.png": gone,
        "‥/secret.png": gone,
        "．．／secret.png": gone,
        "..\\secret.png": gone,
        "%2e%2e/secret.png": gone,
        "~/secret.png": gone,
        f"file://{tmp_path}/secret.png": gone,
        "pipe.png": "not a regular file",
        "": "not a regular file",
        "sub": "not a regular file",
    }


def seen(root, name):
    """Return the colour of a picture that a question names."""
    found = pictures.in_folder([question(name)], root, "made up")
    return found.read_image(name).getpixel((0, 0))


def test_paths_stay_inside_the_folder(root, tmp_path, passed):
    cases = escapes(tmp_path)
    for name, want in cases.items():
        with pytest.raises((InputError, images.ImageError)) as caught:
            seen(root, name)
        assert want in str(caught.value), name
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1000
    for name in ("ok.png", "sub/../ok.png", "./sub/ok.png", "inner.png"):
        assert seen(root, name) == GREEN
    with pytest.raises((InputError, images.ImageError)):  # who sees the ring differs by Python
        seen(root, "ring.png")
    passed("S2", f"{len(cases) + 1} of {len(cases) + 1} paths stay inside or are refused by name")


@functools.cache
def odd():
    """Return made-up pictures: content, and size or what is said of it."""
    turned = Image.Exif()
    turned[0x0112] = 6
    frames, gif = [Image.new("RGB", (5, 7), c) for c in (GREEN, RED)], io.BytesIO()
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
    cmyk, jpeg = io.BytesIO(), io.BytesIO()
    Image.new("CMYK", (5, 7)).save(cmyk, "JPEG")
    Image.new("RGB", (5, 7), GREEN).save(jpeg, "JPEG", exif=turned)
    tiff, broken = io.BytesIO(), io.BytesIO()
    Image.new("F", (5, 7), 0.5).save(tiff, "TIFF")
    Image.effect_noise((64, 64), 9).save(broken, "JPEG")
    return {
        "header.png": (header(30000, 30000), "exceeds limit"),
        "wide header.png": (header(2**31 - 1, 2**31 - 1), "exceeds limit"),
        "just too many.png": (header(9500, 9500), "pixels are too many|exceeds limit"),
        "no pixels.png": (header(0, 5), "cannot be decoded"),
        "thin.png": (png(1, 20000), "too large or too thin"),
        "flat.png": (png(20000, 1), "too large or too thin"),
        "largest.png": (png(11000, 8000, mode="L", compress_level=1), (11000, 8000)),
        "pixel.png": (png(1, 1, colour=GREEN), (1, 1)),
        "text.png": (text_bomb(), "too large"),
        "16 bit.png": (png(5, 7, mode="I;16"), (5, 7)),
        "palette.png": (png(5, 7, mode="P", transparency=0), (5, 7)),
        "alpha.png": (png(5, 7, mode="LA"), (5, 7)),
        "animated.gif": (gif.getvalue(), (5, 7)),
        "cmyk.jpg": (cmyk.getvalue(), (5, 7)),
        "turned.jpg": (jpeg.getvalue(), (5, 7)),
        "floats.tiff": (tiff.getvalue(), (5, 7)),
        "cut.jpg": (broken.getvalue()[:300], "cannot be decoded: .*[Tt]runcated"),
        "garbled.jpg": (broken.getvalue()[:200] + bytes(90), "cannot be decoded"),
        "pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        "page.jpg": (b"\n<html>403</html>", "is a web page"),
        "nothing.jpg": (b"", "is empty"),
        "zeros.jpg": (bytes(4096), "nothing but zeros"),
        "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot identify"),
        "script.eps": (eps(), "cannot identify"),
    }


def eps():
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


LOOK = """
import json, pathlib, re, sys, warnings
from llava_jax import images
warnings.simplefilter("ignore")
found = {}
for file in map(pathlib.Path, json.load(sys.stdin)):
    try:
        image = images.read(file)
        for mode in ("pad", "center_crop"):
            assert images.fit(image, 336, mode).shape == (336, 336, 3)
        found[file.name] = image.size
    except images.ImageError as error:
        found[file.name] = str(error)
# Not getrusage: it begins with the memory of the process that started this one.
status = pathlib.Path("/proc/self/status").read_text()
peak = 1024 * int(re.search("VmHWM:\\s+([0-9]+)", status)[1])
print(json.dumps({"found": found, "peak": peak}))
"""


def test_every_odd_picture_has_a_result_or_a_reason(fixtures_dir, tmp_path, passed):
    made, want = odd(), {}
    for name, (content, expected) in made.items():
        (tmp_path / name).write_bytes(content)
        want[name] = expected
    known = json.loads((fixtures_dir / "golden" / "images.json").read_text())["images"]
    for entry in known:
        ok = entry["expect"] == "ok"
        want[entry["file"]] = None if ok else f"picture {entry['file']} "
    given = [tmp_path / name for name in made]
    given += [fixtures_dir / "images" / entry["file"] for entry in known]
    process = subprocess.run(
        [sys.executable, "-c", LOOK],
        input=json.dumps(list(map(str, given))),
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(process.stdout)
    for name, expected in want.items():
        found = said["found"][name]
        if isinstance(expected, str):
            assert re.search(expected, found), (name, found)
            assert "\n" not in found
        else:
            assert isinstance(found, list), (name, found)
            assert expected is None or tuple(found) == expected, name
    assert said["peak"] < MOST_MEMORY
    passed(
        "S3",
        f"{len(want)} of {len(want)} pictures, {len(known)} of them fixtures, have a result or a "
        f"reason; peak memory {said['peak'] / 1e6:.0f} MB",
    )


def test_no_program_is_run_for_a_picture(tmp_path, monkeypatch, passed):
    """Pillow gives PostScript to Ghostscript, which runs what it says."""
    sentinel, fake = tmp_path / "ran", tmp_path / "gs"
    fake.write_text(f"#!/bin/sh\ntouch '{sentinel}'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    with pytest.raises(images.ImageError, match="cannot identify image file"):
        images.decode(eps(), "picture.jpg")
    assert not sentinel.exists()
    with pytest.raises(OSError, match=r".*"), Image.open(io.BytesIO(eps())) as image:
        image.load()
    assert sentinel.exists(), "the picture is hostile"
    passed("S3 PostScript", "refused, Ghostscript never started")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_threads_refuse_the_same_pictures():
    """A limit that hung on the filter of warnings would be every thread's, and no thread's."""
    large, small = header(9500, 9500), png(8, 8)
    accepted, failed = [], []

    def look():
        for _ in range(50):
            images.decode(small, "small")
            try:
                accepted.append(images.decode(large, "large"))
            except images.ImageError as error:
                failed.append(str(error))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failed) == 400
    assert not accepted
    assert all("pixels" in reason for reason in failed)


@pytest.fixture
def answered(config, tmp_path):
    """Ask a question about each of some pictures; return the outcome and the setting's folder."""

    def run(contents):
        place = tmp_path / "pope"
        (place / "val2014").mkdir(parents=True)
        (place / "coco").mkdir()
        rows = []
        for number, (name, content) in enumerate(contents.items(), 1):
            if content is not None:
                (place / "val2014" / name).write_bytes(content)
            row = {"question_id": number, "image": name, "text": "Is there a cat?", "label": "yes"}
            rows.append(json.dumps(row) + "\n")
        for split in ("random", "popular", "adversarial"):
            (place / "coco" / f"coco_pope_{split}.json").write_text("".join(rows))
        flags = {"data": str(place), "allow_failed": True, "pruners": ("saliency",)}
        own = dataclasses.replace(config, **flags, hyperparameters={}, seeds=(0,))
        outcome = command.answer(command.prepare(pope.BENCHMARK, own, Stopwatch(exact=False)))
        return outcome, pathlib.Path(own.out)

    return run


def test_hostile_pictures_fail_their_own_rows_only(answered, passed):
    made = odd()
    bad = {name: content for name, (content, want) in made.items() if isinstance(want, str)}
    good = {f"good {number}.png": png(8, 8, colour=GREEN) for number in range(3)}
    outcome, out = answered(bad | good | {"absent.png": None})
    settings = sorted(path for path in out.iterdir() if path.is_dir())
    assert len(settings) == 2
    assert outcome.failed == 3 * (len(bad) + 1) * len(settings)
    for folder in settings:
        assert {r.image for r in records.read_records(folder).values()} == set(good)
        (file,) = folder.glob("failures-*.jsonl")
        failures = [json.loads(line) for line in file.read_text().splitlines()]
        for row in failures:
            assert row["image"] in {*bad, "absent.png"}
            _, said = made.get(row["image"], (b"", "is not in"))
            assert re.search(said, row["reason"]), row
        assert len({row["key"] for row in failures}) == len(failures) == 3 * (len(bad) + 1)
    passed("S3 run", f"{len(bad) + 1} of {len(bad) + 1} pictures fail alone, each with its reason")
