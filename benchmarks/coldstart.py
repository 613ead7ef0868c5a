"""How long a stranger waits: ``--help``, the first answer on a fresh machine, and the first again.

    python -m benchmarks.coldstart

Every start is a process of its own with the embedded model; "cold" has an empty cache folder,
"warm" one that the same command has filled. The first answer is on disk when its record file has a line.
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


def answered(cache: pathlib.Path, limit: int) -> tuple[float, float]:
    """Run the main job anew; return the seconds to its first answer and to its end."""
    with tempfile.TemporaryDirectory() as out:
        arguments = ["--pruner=scope", "--alpha=0", f"--limit={limit}", f"--out={out}/run"]
        begun = time.perf_counter()
        process = _start(arguments, cache)
        while not any(file.stat().st_size for file in pathlib.Path(out).rglob("records-*.jsonl")):
            if process.poll() is not None:
                break
            time.sleep(_POLL)
        first = time.perf_counter() - begun
        if code := process.wait():
            raise RuntimeError(f"the main job ended with exit code {code}")
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
                first, whole = answered(cache, 60)
                note(f"first answer, {name}", first)
                note(f"main job (60 pictures), {name}", whole)
    found = {name: harness.spread(values) for name, values in seconds.items()}
    for name, value in found.items():
        print(f"{name:<32}{value['median']:>8.2f} s  ({value['min']:.2f}-{value['max']:.2f})")
    harness.save("coldstart", {"seconds": found})


if __name__ == "__main__":
    app.run(main)
