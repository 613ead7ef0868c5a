"""Runs as one HTML page: their records, and the pictures read again where the runs read them."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence

from PIL import Image

from experiments import catalogue
from experiments.harness import errors
from experiments.harness.benchmark import SCENES, Dataset, Request
from experiments.reading import opening
from experiments.reporting import page, runs
from llava_jax import images

_SIDE = 224
"""Pixels of a picture's side; the page makes thumbnails of them."""
Pictures = Callable[[str], Image.Image | None]


def write(
    found: Sequence[runs.Run],
    out: pathlib.Path,
    listed: int = page.NUM_EXAMPLES,
    data: str | None = None,
    tables: Sequence[page.Table] = (),
) -> None:
    """Write the page of some runs.

    Args:
        found: the runs.
        out: the page.
        listed: questions, of all runs together.
        data: where the pictures are; None is where each run read them.
        tables: to stand before the runs.
    """
    sections = []
    for place, run in enumerate(found):
        pictures, note = _pictures(run, data)
        sections.append(
            page.section(
                run,
                pictures,
                count=listed // len(found) + (place < listed % len(found)),
                notes=[note] if note else [],
                most_margins=page.MOST_MARGINS // len(found),
            )
        )
    page.write(out, sections, tables=tables)


def _pictures(run: runs.Run, data: str | None) -> tuple[Pictures, str]:
    """Return what opens a run's pictures as the model saw them, and why if nothing can."""
    try:
        dataset = _dataset(run, data or run.flags.get("data", ""))
        known = run.full.run["identity"]["data"]["sha256"]
        if dataset.digest(allow_missing=True) != known:
            raise errors.InputError(f"questions or pictures in {dataset.place} are not the run's")
    except (errors.InputError, images.ImageError, OSError) as error:
        return (lambda _: None), f"Pictures are left out: {error}."
    mode: images.Mode = "center_crop" if run.flags.get("preprocessing") == "center_crop" else "pad"

    def read(image: str) -> Image.Image | None:
        try:
            return Image.fromarray(images.fit(dataset.read_image(image), _SIDE, mode))
        except (errors.InputError, images.ImageError, OSError):
            return None

    return read, ""


def _dataset(run: runs.Run, place: str) -> Dataset:
    """Open the data of a run again, without a connection."""
    benchmark, given = catalogue.get(run.benchmark), run.flags
    limit = given.get("limit", "")
    default = benchmark.scenes_limit if place == SCENES else None
    request = Request(
        data=place,
        limit=int(limit) if limit.isdecimal() else default,
        prompt_style=given.get("prompt_style", "llava"),
        options=given.get("options", "valid"),
        offline=True,
        own={name: given.get(name, flag.values[0]) for name, flag in benchmark.flags.items()},
    )
    return opening.load(benchmark, request)
