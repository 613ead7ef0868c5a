"""The benchmarks by name."""

from __future__ import annotations

import importlib

from experiments.harness.benchmark import Benchmark
from experiments.harness.errors import InputError

NAMES = ("pope", "scienceqa", "mme", "mmbench", "textvqa", "seed", "gqa")


def get(name: str) -> Benchmark:
    """Return a benchmark; its entry point is imported when it is asked for.

    Raises:
        InputError: there is none of this name.
    """
    if name not in NAMES:
        raise InputError(f"no benchmark is called {name!r}; there are {', '.join(NAMES)}")
    return importlib.import_module(f"experiments.{name}").BENCHMARK
