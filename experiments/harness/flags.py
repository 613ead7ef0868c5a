"""The command line shared by every benchmark; pruners' flags come from their dataclasses."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from absl import flags

from experiments.harness import pruners
from experiments.harness.benchmark import SCENES, Benchmark
from experiments.harness.config import FULL, RunConfig
from experiments.harness.errors import UsageError

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # so that --help of an entry point lists them


class _List(flags.ArgumentParser):
    """Parse ``a,b,c`` to a tuple; the flag may be repeated too."""

    def __init__(self, parse: Callable[[str], Any], kind: str):
        super().__init__()
        self._parse = parse
        self.syntactic_help = f"comma-separated {kind}s"

    def parse(self, argument: str) -> tuple[Any, ...]:
        """Return the values of one occurrence of the flag."""
        values = [part.strip() for part in argument.split(",")]
        if "" in values:
            raise ValueError(f"an empty value in {argument!r}")
        return tuple(self._parse(value) for value in values)

    def flag_type(self) -> str:
        """Return the type's name for --help."""
        return self.syntactic_help


class _Size(flags.FloatParser):
    """Parse a finite number that is not negative."""

    def __init__(self):
        super().__init__(lower_bound=0.0)

    def convert(self, argument: str | float) -> float:
        """Return the number."""
        return _finite(str(argument))


def _plain(text: str) -> str:
    """Refuse what Python reads as a number and people do not: 1_0, ٣."""
    if not text.isascii() or "_" in text:
        raise ValueError(f"{text!r} is not a number in plain digits")
    return text


def _integer(text: str) -> int:
    return int(_plain(text))


def _finite(text: str) -> float:
    value = float(_plain(text))
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _seed(text: str) -> int:
    value = _integer(text)
    if not 0 <= value < 2**32:
        raise ValueError(f"{text} is outside 0..{2**32 - 1}")
    return value


_KINDS: dict[type | str, tuple[Callable[[str], Any], str]] = {
    float: (_finite, "float"),
    int: (_integer, "integer"),
    str: (str, "word"),
    "seed": (_seed, "integer"),
}


def _define_list(name: str, default: str | None, kind: type | str, text: str) -> None:
    flags.DEFINE_multi(_List(*_KINDS[kind]), flags.ArgumentSerializer(), name, default, text, FLAGS)
    FLAGS[name].default_as_str = f"'{default}'" if default else None


def _hyperparameters() -> dict[str, dict[str, pruners.Hyperparameter]]:
    """Return field → {pruner: hyper-parameter} over all registered pruners."""
    fields: dict[str, dict[str, pruners.Hyperparameter]] = {}
    for name, own in pruners.hyperparameters().items():
        for field, parameter in own.items():
            fields.setdefault(field, {})[name] = parameter
    return fields


def define(benchmark: Benchmark) -> None:
    """Define the flags of a benchmark's command line."""
    define_model()
    flags.DEFINE_string(
        *("data", SCENES),
        f"folder, hub id such as {benchmark.hub_id}[@revision], or scenes (embedded pictures)",
    )
    flags.DEFINE_string(
        "predictions", None, "JSON lines of key or question_id, and text, to score; no model is run"
    )
    for name, flag in benchmark.flags.items():
        flags.DEFINE_enum(name, flag.values[0], list(flag.values), flag.help)
    _define_grid()
    _define_answers(benchmark)
    flags.DEFINE_bool("fork", False, "new folder where the setting's folder holds another run")
    define_run(f"runs/{benchmark.name}")


def define_model() -> None:
    """Define the flags that say which model it is, and how it sees."""
    flags.DEFINE_string("model", "pocket", "folder, hub id, or pocket (the embedded model)")
    flags.DEFINE_string(
        "clip", None, "dual encoder of pruners that read the question (default: the model's clip/)"
    )
    flags.DEFINE_enum(
        *("relevant", None, ["dissimilar", "similar"]),
        "patches that matter to a question, to its text there (default: OpenAI's are dissimilar)",
    )
    flags.DEFINE_enum(
        "dtype", None, ["float32", "float16", "bfloat16"], "of the model (default: by its size)"
    )
    flags.DEFINE_enum(
        "quantize", None, ["int8", "int4"], "weights of the decoder (default: as they are stored)"
    )
    flags.DEFINE_enum(
        *("preprocessing", None, ["pad", "center_crop", "anyres", "anyres_huggingface"]),
        "LLaVA-1.5: pad is LLaVA's, center_crop Hugging Face's; LLaVA-NeXT: anyres is LLaVA's, "
        "anyres_huggingface tiles small pictures as Hugging Face does (default: LLaVA's)",
    )


def define_run(out: str) -> None:
    """Define the flags of every command that answers questions.

    Args:
        out: the default run folder.
    """
    flags.DEFINE_integer("limit", None, "pictures, from the first", lower_bound=1)
    flags.DEFINE_enum("mode", "default", ["default", "paper"], "statistics: right, or the paper's")
    flags.DEFINE_string(
        *("out", out),
        "run folder, or one of an object store such as gs://…; the same command resumes",
    )
    flags.DEFINE_string(
        *("mesh", None),
        "devices that divide pictures and decoder, such as data:2,model:4 (default: all "
        "accelerators of the process on data)",
    )
    flags.DEFINE_enum(
        *("distributed", "auto", ["auto", "on", "off"]),
        "join the other processes of a cluster; auto: where its variables are set",
    )
    flags.DEFINE_integer(
        "num_processes", 1, "that divide the pictures of a run folder", lower_bound=1
    )
    flags.DEFINE_integer("process_id", 0, "which of them this is", lower_bound=0)
    flags.DEFINE_bool("allow_failed", False, "go on past unreadable pictures and report the rest")
    flags.DEFINE_bool("offline", False, "open no network connection")
    flags.DEFINE_bool("dry_run", False, "print the plan and its costs, and stop")
    flags.DEFINE_string("cache", _cache_folder(), "folder of programs and features; may be deleted")
    flags.DEFINE(
        *(_Size(), "cache_gib", 8.0, "of vision features kept there; 0 keeps none"),
        serializer=flags.ArgumentSerializer(),
    )


def _define_grid() -> None:
    """Define the flags whose values are a grid."""
    _define_list("pruner", FULL, str, f"of {', '.join(pruners.hyperparameters())}")
    _define_list("budget", "128", int, "visual tokens to keep; none ignores it")
    _define_list("seed", "0", "seed", "of stochastic pruners")
    for field, parameters in _hyperparameters().items():
        kind = next(iter(parameters.values())).kind
        owners = ", ".join(f"{name} (default {p.default})" for name, p in parameters.items())
        _define_list(field, None, kind, f"hyper-parameter of {owners}")


def _define_answers(benchmark: Benchmark) -> None:
    """Define the flags that say how questions are asked and tokens handed over."""
    flags.DEFINE_enum("order", "raster", ["raster", "selection"], "of kept tokens")
    flags.DEFINE_enum(
        "positions", "contiguous", ["contiguous", "original"], "renumber kept tokens or not"
    )
    flags.DEFINE_enum(
        *("tiles", None, ["each", "all"]),
        "of a LLaVA-NeXT's picture: each has an equal share of --budget, padding included, as the "
        "published pruners do it, or all have it together, without padding (default: each)",
    )
    flags.DEFINE_enum(
        *("route", None, ["first_token", "generate"]),
        f"read the first token, or let the model speak (default: {benchmark.default_route})",
    )
    flags.DEFINE_integer(
        *("max_new_tokens", None),
        f"of a generated answer (default: {benchmark.max_new_tokens})",
        lower_bound=1,
        upper_bound=4096,  # the decoder's context
    )
    _define_cache()
    flags.DEFINE_enum(
        "prompt_style", "llava", ["llava", "lmms"], "whose words stand around a question"
    )
    flags.DEFINE_enum(
        "options", "valid", ["valid", "abcd"], "lettered options: those a question has, or A-D"
    )


def _define_cache() -> None:
    """Define the flags that say which prompt tokens stay in the cache of a generated answer."""
    flags.DEFINE_enum(
        *("kv_eviction", "none", ["none", "snapkv", "window"]),
        "prompt tokens kept for a generated answer: all, those its question looks at, or the first "
        "four and the last",
    )
    flags.DEFINE_integer(
        "kv_budget", None, "how many, in every layer and key-value head", lower_bound=1
    )
    flags.DEFINE_integer(
        "kv_window", 32, "last tokens of a question that snapkv observes, and keeps", lower_bound=1
    )


def _cache_folder() -> str:
    """Return llava_jax in the user's cache folder."""
    caches = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return str(caches / "llava_jax")


def _value(name: str) -> Any:
    """Return a parsed flag."""
    return FLAGS[name].value


def _flat(name: str) -> tuple[Any, ...]:
    """Return a list flag's values over all its occurrences, without repeats."""
    return tuple(dict.fromkeys(value for part in _value(name) for value in part))


def run_config(benchmark: Benchmark) -> RunConfig:
    """Return what the parsed flags of a benchmark's command line say.

    Raises:
        UsageError: a pruner that does not exist, or an empty name of a file or folder.
    """
    for name in _flat("pruner"):
        if name not in pruners.hyperparameters():
            known = ", ".join(pruners.hyperparameters())
            raise UsageError(f"--pruner={name} does not exist; known: {known}")
    refuse_empty(_PLACES)
    given = {name: _flat(name) for name in _hyperparameters() if _value(name)}
    return RunConfig(
        pruners=_flat("pruner"),
        budgets=_flat("budget"),
        seeds=_flat("seed"),
        hyperparameters=given,
        own={name: _value(name) for name in benchmark.flags},
        **values(_PLAIN),
    )


def refuse_empty(names: Iterable[str]) -> None:
    """Raise UsageError if a flag that names a file or folder is empty: it would be this folder."""
    for name in names:
        if _value(name) == "":
            raise UsageError(f"--{name}= is empty; without the flag it is {FLAGS[name].default}")


def values(names: Iterable[str]) -> dict[str, Any]:
    """Return parsed flags by name."""
    return {name: _value(name) for name in names}


OF_A_RUN = (
    *("model", "data", "clip", "relevant", "dtype", "quantize", "preprocessing", "limit", "mode"),
    *("out", "mesh", "distributed"),
    *("num_processes", "process_id", "allow_failed", "offline", "dry_run", "cache", "cache_gib"),
)
"""Flags of every command that answers questions."""
_PLAIN = (
    *OF_A_RUN,
    *(
        "order",
        "positions",
        "tiles",
        "route",
        "max_new_tokens",
        "prompt_style",
        "options",
        "predictions",
    ),
    *("kv_eviction", "kv_budget", "kv_window", "fork"),
)
_PLACES = ("model", "data", "clip", "predictions", "out", "cache")


def flagfile(config: RunConfig, setting: dict[str, Any]) -> str:
    """Return the flags that run one setting again.

    Args:
        config: the run.
        setting: ``Setting.describe()``.
    """
    without = _ONE_OFF if config.kv_eviction != "none" else (*_ONE_OFF, "kv_budget", "kv_window")
    lines = {name: getattr(config, name) for name in _PLAIN if name not in without}
    lines |= config.own
    lines |= setting if setting["pruner"] != FULL else {"pruner": FULL}  # without the budget N
    return "".join(
        f"--{name}={str(value).lower() if isinstance(value, bool) else value}\n"
        for name, value in lines.items()
        if value is not None
    )


_ONE_OFF = ("num_processes", "process_id", "fork", "dry_run", "cache", "cache_gib", "distributed")
