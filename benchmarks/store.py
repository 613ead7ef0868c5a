"""What the record store costs: its share of the main job's time, and reading many rows back.

python -m benchmarks.store --rounds=5
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from absl import app, flags

from benchmarks import harness

ROUNDS = flags.DEFINE_integer("rounds", 5, "main jobs, a process each", lower_bound=1)
ROWS = flags.DEFINE_integer("rows", 200_000, "to read back", lower_bound=1)


class Outermost:
    """Adds up the seconds of functions, those that they call not counted twice."""

    def __init__(self) -> None:
        self.seconds, self._depth = 0.0, 0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        begun, self._depth = time.perf_counter(), self._depth + 1
        try:
            yield
        finally:
            self._depth -= 1
            self.seconds += 0.0 if self._depth else time.perf_counter() - begun

    def watch(self, owner: Any, name: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.counted():
                return function(*args, **kwargs)

        setattr(owner, name, watched)


def main_job(out: str, cache: str) -> tuple[float, float]:
    """Run the main job here; return its seconds and those of the store."""
    begun = time.perf_counter()
    sys.argv = ["pope", "--pruner=scope", "--alpha=0", f"--out={out}", f"--cache={cache}"]
    from experiments import application, pope
    from experiments.harness import folder, progress, sealing, shards
    from llava_jax import atomic

    store = Outermost()
    for owner, name in (
        *((shards.Shard, name) for name in ("__init__", "append", "close")),
        (progress.Durable, "add"),
        *((sealing, name) for name in ("seal", "is_sealed")),
        (folder.RunFolder, "done"),
        (atomic, "write"),
    ):
        store.watch(owner, name)
    with contextlib.suppress(SystemExit):
        application.start(pope.BENCHMARK)
    return time.perf_counter() - begun, store.seconds


def read_back(count: int) -> dict[str, float]:
    """Write rows of POPE's size, and read them in a process of its own."""
    from experiments.harness import records

    row = records.Record(
        *("random/0", "COCO_val2014_000000000042.jpg", "random", 1),
        *((-0.46673446893692017, -0.98678123950958252), -0.00042057159589603543, 3869),
        *(None, 128, "A" * 96, "0123456789abcdef"),
    )
    with tempfile.TemporaryDirectory() as folder:
        with (pathlib.Path(folder) / "records-00000-of-00001.jsonl").open("wb") as handle:
            for number in range(count):
                line = records.to_line(dataclasses.replace(row, key=f"random/{number}"))
                handle.write(line)
            size = handle.tell()
        script = (
            "import pathlib, re, sys, time\n"
            "from experiments.harness import records\n"
            "begun = time.perf_counter()\n"
            "assert len(records.read_records(pathlib.Path(sys.argv[1]))) == int(sys.argv[2])\n"
            "seconds = time.perf_counter() - begun\n"
            "status = pathlib.Path('/proc/self/status').read_text()\n"
            "print(seconds, int(re.search(r'VmHWM:\\s+([0-9]+)', status)[1]) / 1024)\n"
        )
        command = [sys.executable, "-c", script, folder, str(count)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, memory = map(float, run.stdout.split())
    return {"rows": count, "bytes_a_row": size / count, "seconds": seconds, "MiB": memory}


def in_a_process(cache: str) -> tuple[float, float]:
    """Run the main job in a process of its own."""
    with tempfile.TemporaryDirectory() as out:
        script = (
            f"from benchmarks.store import main_job; r = main_job({out!r}, {cache!r}); print(*r)"
        )
        run = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
    whole, store = map(float, run.stdout.splitlines()[-1].split())
    return whole, store


def main(argv: list[str]) -> None:
    """Measure, print and write results/store.json."""
    del argv
    found: dict[str, Any] = {"reading": read_back(ROWS.value)}
    with tempfile.TemporaryDirectory() as cache:
        rounds = [in_a_process(cache) for _ in range(1 + ROUNDS.value)]
    for name, some in (("first job", rounds[:1]), ("with warm caches", rounds[1:])):
        found[name] = {
            "seconds": harness.spread([whole for whole, _ in some]),
            "of the store": harness.spread([store for _, store in some]),
            "share": harness.spread([store / whole for whole, store in some]),
        }
    print(found)
    print(harness.save("store", found))


if __name__ == "__main__":
    app.run(main)
