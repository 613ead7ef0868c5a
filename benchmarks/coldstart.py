"""How long a stranger waits: for ``--help``, the first answer, a run, the same again, a sweep.

    python -m benchmarks.coldstart

Every start is a process of its own with the embedded model; "cold" has an empty cache folder,
"warm" one that the same command has filled. The first answer is on disk when its record file has
a line.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

from absl import app, flags

from benchmarks import harness

_ROUNDS = flags.DEFINE_integer("rounds", 5, "of each", lower_bound=1)
MAIN_JOB = ["--alpha=0"]  # 60 pictures, 1,080 rows, K = 128, beside full tokens
SWEEP = ["--alpha=0,0.5,1", "--budget=64,128,192"]
_POLL = 0.005  # seconds between two looks for the first record


def _start(arguments: Sequence[str], cache: pathlib.Path) -> subprocess.Popen[bytes]:
    environment: Mapping[str, str] = os.environ | {
        "XDG_CACHE_HOME": str(cache),
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "experiments.pope", *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def helped(cache: pathlib.Path) -> float:
    """Return the seconds of ``--help``."""
    begun = time.perf_counter()
    _start(["--help"], cache).wait()
    return time.perf_counter() - begun


def answered(cache: pathlib.Path, grid: Sequence[str]) -> tuple[float, float]:
    """Run a grid in a new folder; return the seconds to its first answer and to its end."""
    with tempfile.TemporaryDirectory() as out:
        arguments = ["--pruner=scope", *grid, f"--out={out}/run"]
        begun = time.perf_counter()
        process = _start(arguments, cache)
        while not any(file.stat().st_size for file in pathlib.Path(out).rglob("records-*.jsonl")):
            if process.poll() is not None:
                break
            time.sleep(_POLL)
        first = time.perf_counter() - begun
        if code := process.wait():
            raise RuntimeError(f"{arguments} ended with exit code {code}")
        return first, time.perf_counter() - begun


def main(_: Sequence[str]) -> None:
    """Measure, print and save."""
    seconds: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        seconds.setdefault(name, []).append(value)

    for _ in range(_ROUNDS.value):
        with tempfile.TemporaryDirectory() as folder:
            cache = pathlib.Path(folder)
            note("--help", helped(cache))
            for name in ("cold", "warm"):
                first, whole = answered(cache, MAIN_JOB)
                note(f"first answer, {name}", first)
                note(f"main job, {name}", whole)
            answered(cache, SWEEP)  # compiles what the main job has not
            note("sweep of 9 settings, warm", answered(cache, SWEEP)[1])
    sweep, once = seconds["sweep of 9 settings, warm"], seconds["main job, cold"]
    ratio = harness.ratio(sweep, once)
    print(f"sweep of 9 settings, warm, over the main job, cold: {ratio}")
    found = {name: harness.spread(values) for name, values in seconds.items()}
    for name, value in found.items():
        print(f"{name:<32}{value['median']:>8.2f} s  ({value['min']:.2f}-{value['max']:.2f})")
    harness.save("coldstart", {"seconds": found, "sweep over main job": ratio})


if __name__ == "__main__":
    app.run(main)
