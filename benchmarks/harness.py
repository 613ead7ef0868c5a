"""What every benchmark shares: sides that take turns, the machine, one JSON file of results."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results"
_PACKAGES = (
    *("jax", "jaxlib", "flax", "numpy", "torch", "transformers", "apricot-select", "netcal"),
    "torchmetrics",
)


def take_turns(sides: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Time several functions call by call in turns, so that a busy minute hits all of them.

    Args:
        sides: name → function that returns when its work is done.
        rounds: calls of each that count; one more warms it up.

    Returns:
        Name → seconds of each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for count in range(rounds + 1):
        for name, function in sides.items():
            begun = time.perf_counter()
            function()
            if count:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def spread(seconds: list[float]) -> dict[str, Any]:
    """Return median, extremes and all rounds of one side."""
    rounded = [float(f"{value:.4g}") for value in seconds]
    return {
        "median": statistics.median(rounded),
        "min": min(rounded),
        "max": max(rounded),
        "rounds": rounded,
    }


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Return the ratio of medians, and the extremes of the rounds' own ratios."""
    each = [a / b for a, b in zip(slow, fast, strict=True)]
    medians = statistics.median(slow) / statistics.median(fast)
    return {"median": round(medians, 2), "min": round(min(each), 2), "max": round(max(each), 2)}


def machine() -> dict[str, Any]:
    """Describe the machine, its load and the versions that matter."""
    import jax

    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "devices": sorted({device.device_kind for device in jax.devices()}),
        "load": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "versions": _versions(),
    }


def _cpu() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # a peer that is not compared with
            continue
    return found


def save(name: str, content: Mapping[str, Any]) -> pathlib.Path:
    """Write results/<name>.json with the machine beside; return the file."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps({"machine": machine(), **content}, indent=1) + "\n")
    return file
