"""From ``--data`` to a benchmark's questions, whichever way it names them."""

from __future__ import annotations

import pathlib
import re

from experiments.harness import source
from experiments.harness.benchmark import SCENES, Benchmark, Dataset, Request
from experiments.harness.errors import InputError
from experiments.reading.tables import Tables

_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?")
_MOVED = {"lmms-lab": "lmms-lab-encoder"}
"""Organisations whose data sets went to another one; the old ids may stop to resolve."""


def load(benchmark: Benchmark, request: Request) -> Dataset:
    """Return the questions that are asked for.

    Args:
        benchmark: whose.
        request: ``data`` is a folder of the original files, a folder of parquet files in the
            hub's layout, a hub id with or without ``@revision``, or ``scenes``.

    Raises:
        InputError: a file is missing or malformed; it names the file, the line or the question.
    """
    if request.data == SCENES:
        return benchmark.scenes(request)
    folder = pathlib.Path(request.data)
    if folder.exists():
        tables = folder.is_dir() and any(folder.glob("*/*.parquet"))
        read = benchmark.hub(Tables(folder, str(folder)), request) if tables else None
        return (read or benchmark.raw(folder, request)).first_images(request.limit)
    return benchmark.hub(_fetch(benchmark, request), request).first_images(request.limit)


def _fetch(benchmark: Benchmark, request: Request) -> Tables:
    """Bring a data set of the hub into the local cache."""
    named = _HUB_ID.fullmatch(request.data)
    if not named:
        raise InputError(
            f"--data={request.data} is no folder, no hub id such as {benchmark.hub_id}, and not "
            f"{SCENES!r}"
        )
    name, revision = named.groups()
    owner, _, rest = name.partition("/")
    moved = [f"{_MOVED[owner]}/{rest}"] if owner in _MOVED else []
    refused: list[str] = []
    for candidate in [name, *moved]:
        try:
            folder = source.fetch(
                candidate,
                list(benchmark.hub_files),
                flag="data",
                offline=request.offline,
                kind="dataset",
                revision=revision,
            )
        except InputError as error:
            refused.append(str(error))
        else:
            return Tables(folder, f"{candidate}@{folder.name[:12]}")
    also = "".join(f"; nor is there {candidate}" for candidate in moved)
    raise InputError(refused[0] + also)
