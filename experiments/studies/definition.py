"""A study as a TOML file says it: grids of settings over benchmarks.

    [[run]]
    benchmarks = ["pope", "gqa"]    # each is a run of its own
    route = "generate"              # and prompt_style, options, limit, scenes, seed_frame, …
    quantize = "int8"               # and kv_eviction, kv_budget: a run each, in a folder each
    [[run.grid]]                    # as many as there should be: the run has the settings of all
    pruner = ["scope", "random"]    # one value or a list, as on the command line
    budget = [64, 128]
    alpha = 0.0

``limit`` is the number of pictures, ``scenes`` the same where the embedded world is asked.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from experiments import catalogue
from experiments.harness import pruners
from experiments.harness.benchmark import SCENES
from experiments.harness.config import RunConfig
from experiments.harness.errors import InputError

HUB = "hub"
"""``--data`` for the benchmarks' own data sets on the hub."""
_FOLDER = pathlib.Path(__file__).parent
_ASKED = {
    "route": ("first_token", "generate"),
    "prompt_style": ("llava", "lmms"),
    "options": ("valid", "abcd"),
    "quantize": ("int8", "int4"),
    "kv_eviction": ("snapkv", "window"),
}
_SIZES = ("limit", "scenes", "kv_budget")
_OWN = {"benchmarks", "grid", *_SIZES}


@dataclasses.dataclass(frozen=True)
class Run:
    """A benchmark's part of a study.

    Attributes:
        benchmark: its name.
        grids: flag → values, of every grid.
        asked: route, prompt style, options, what is done to weights and cache, and the
            benchmark's own flags, where given.
        limit: pictures, None for all.
        scenes: pictures of the embedded world, None for the benchmark's default.
        kv_budget: prompt tokens that eviction leaves in the cache, None without it.
    """

    benchmark: str
    grids: tuple[Mapping[str, tuple[Any, ...]], ...]
    asked: Mapping[str, str]
    limit: int | None = None
    scenes: int | None = None
    kv_budget: int | None = None

    @property
    def folder(self) -> str:
        """Where its run is, below the study's folder: what is asked otherwise is another run."""
        options = self.asked.get("options", "valid")
        evicted = self.asked.get("kv_eviction")
        differs = (
            options if options != "valid" else None,
            self.asked.get("quantize"),
            f"{evicted}{self.kv_budget}" if evicted else None,
        )
        return "_".join(filter(None, (self.benchmark, *differs)))

    def configs(self, base: RunConfig) -> tuple[RunConfig, ...]:
        """Return a configuration for every grid.

        Args:
            base: what the command line says; ``data`` is ``scenes``, ``hub``, or a folder with a
                folder for each benchmark, ``out`` the folder for all runs of the study.
        """
        name, known = self.benchmark, catalogue.get(self.benchmark)
        own = {flag: self.asked.get(flag, known.flags[flag].values[0]) for flag in known.flags}
        asked: dict[str, Any] = {k: v for k, v in self.asked.items() if k in _ASKED}
        whole = dataclasses.replace(
            base,
            data=_data(base.data, name, known.hub_id),
            out=f"{base.out.rstrip('/')}/{self.folder}",
            limit=base.limit or (self.scenes if base.data == SCENES else self.limit),
            own=own,
            kv_budget=self.kv_budget,
            **asked,
        )
        return tuple(_with_grid(whole, grid) for grid in self.grids)


def _data(data: str, benchmark: str, hub_id: str) -> str:
    """Return where a benchmark's questions are."""
    if data == SCENES:
        return data
    return hub_id if data == HUB else str(pathlib.Path(data) / benchmark)


def _with_grid(config: RunConfig, grid: Mapping[str, tuple[Any, ...]]) -> RunConfig:
    """Return a configuration with a grid's values."""
    own = {
        name: values for name, values in grid.items() if name not in ("pruner", "budget", "seed")
    }
    return dataclasses.replace(
        config,
        pruners=grid["pruner"],
        budgets=grid.get("budget", config.budgets),
        seeds=grid.get("seed", config.seeds),
        hyperparameters=own,
    )


def names() -> list[str]:
    """Return the studies that are included."""
    return sorted(file.stem for file in _FOLDER.glob("*.toml"))


def read(study: str) -> tuple[Run, ...]:
    """Read a study.

    Args:
        study: name of an included one, or a file.

    Raises:
        InputError: there is no such file, or it is no study; the place is named.
    """
    file = _FOLDER / f"{study}.toml" if study in names() else pathlib.Path(study)
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        known = ", ".join(names())
        raise InputError(f"the study {study}: {error.strerror}; included are {known}") from None
    except ValueError as error:
        raise InputError(f"{file}: {error}") from None
    if set(content) != {"run"} or not isinstance(content["run"], list):
        raise InputError(f"{file}: a study consists of [[run]], this one of {[*content]}")
    runs = [
        run for i, found in enumerate(content["run"]) for run in _runs(found, f"{file} run {i}")
    ]
    if twice := _repeated([run.folder for run in runs]):
        raise InputError(f"{file}: {twice} is asked by two runs; one run may have many grids")
    return tuple(runs)


def _runs(found: Mapping[str, Any], where: str) -> list[Run]:
    """Return a [[run]]'s benchmarks, each as a run."""
    benchmarks = _values(found.get("benchmarks", ()), str, f"{where}, benchmarks")
    if not benchmarks or any(name not in catalogue.NAMES for name in benchmarks):
        known = ", ".join(catalogue.NAMES)
        raise InputError(f"{where}: benchmarks = {list(benchmarks)}; there are {known}")
    own = {flag: f.values for name in benchmarks for flag, f in catalogue.get(name).flags.items()}
    allowed = {**_ASKED, **own}
    if unknown := sorted(found.keys() - _OWN - allowed.keys()):
        raise InputError(f"{where}: {unknown[0]} is none of {sorted(_OWN | allowed.keys())}")
    asked = {name: str(found[name]) for name in allowed if name in found}
    for name, value in asked.items():
        if value not in allowed[name]:
            raise InputError(f"{where}: {name} = {value!r} is none of {list(allowed[name])}")
    sizes = {n: _size(found[n], f"{where}, {n}") for n in _SIZES if n in found}
    grids = tuple(_grid(grid, f"{where} grid {i}") for i, grid in enumerate(found.get("grid", ())))
    full = ({"pruner": ("none",)},)
    return [Run(name, grids or full, asked, **sizes) for name in benchmarks]


def _grid(found: Mapping[str, Any], where: str) -> Mapping[str, tuple[Any, ...]]:
    """Return a [[run.grid]]: flag → values."""
    known = pruners.hyperparameters()
    kinds: dict[str, Any] = {name: p.kind for own in known.values() for name, p in own.items()}
    kinds |= {"pruner": str, "budget": int, "seed": int}
    if unknown := sorted(found.keys() - kinds.keys()):
        raise InputError(f"{where}: {unknown[0]} is no flag of a grid; there are {sorted(kinds)}")
    grid = {name: _values(value, kinds[name], f"{where}, {name}") for name, value in found.items()}
    if strange := [name for name in grid.get("pruner", ("",)) if name not in known]:
        raise InputError(
            f"{where}: pruner = {strange[0]!r} does not exist; known: {', '.join(known)}"
        )
    return grid


def _values(value: Any, kind: type, where: str) -> tuple[Any, ...]:
    """Return one value or a list as a tuple of a kind."""
    values = value if isinstance(value, list) else [value] if value != () else []
    for each in values:
        right = type(each) in (int, float) if kind is float else type(each) is kind
        if not right:
            raise InputError(f"{where}: {each!r} is no {kind.__name__}")
    return tuple(kind(each) for each in values)


def _size(value: Any, where: str) -> int:
    """Return a number of pictures or tokens."""
    if type(value) is not int or value < 1:
        raise InputError(f"{where}: {value!r} is no number, of at least 1")
    return value


def _repeated(names: Sequence[str]) -> str:
    """Return a name that is there twice, empty if none is."""
    return next((name for name in names if names.count(name) > 1), "")


def present(runs: Sequence[Run], data: str) -> tuple[Run, ...]:
    """Leave out, and say so, the benchmarks that a data folder lacks.

    Raises:
        InputError: it has none of them.
    """
    if data in (SCENES, HUB):
        return tuple(runs)
    there = tuple(run for run in runs if (pathlib.Path(data) / run.benchmark).is_dir())
    if not there:
        wanted = ", ".join(run.benchmark for run in runs)
        raise InputError(f"--data={data} has none of the folders {wanted}")
    for run in runs:
        if run not in there:
            logging.warning("%s is left out: there is no %s/%s", run.benchmark, data, run.benchmark)
    return there
