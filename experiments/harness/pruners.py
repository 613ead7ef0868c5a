"""The pruners' names and hyper-parameters, read from their source and not run.

Flags must exist before a command line is understood, and importing the pruners imports jax, which
takes longer than ``--help`` may. A class under ``@register("name")`` says it all in literals: its
fields are the hyper-parameters, their defaults the flags'. Classes are looked for in the package
``pruning`` and in the modules that installed distributions name as entry points.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from experiments.harness.errors import UsageError

ENTRY_POINTS = "llava_jax.pruners"
"""Group of entry points, as in ``pruning.base``; the value of each is a module."""


_KINDS: dict[str, type] = {"float": float, "int": int, "str": str}


class Hyperparameter(NamedTuple):
    """A field of a pruner's class.

    Attributes:
        default: None stands for a value that is not given.
        kind: of its values: float, int or str.
    """

    default: Any
    kind: type


@functools.cache
def hyperparameters() -> dict[str, dict[str, Hyperparameter]]:
    """Return pruner → {name: hyper-parameter}, pruners in alphabetical order.

    A module of an entry point that cannot be read is a warning, and the entry point's name stands
    without hyper-parameters: the reason is an error when the pruner is asked for.

    Raises:
        UsageError: two distributions give a pruner the same name.
    """
    found = {name: fields for file in _own_files() for name, fields in _read(file).items()}
    owner = dict.fromkeys(found, "llava-jax")
    for module, (distribution, names) in _installed().items():
        try:
            theirs = _read(_file(module))
        except Exception as error:  # whatever another package's import raises
            warnings.warn(_unreadable(distribution, names, module, error), stacklevel=2)
            theirs = {name: {} for name in names}
        if taken := sorted(found.keys() & theirs.keys()):
            raise UsageError(
                f"two pruners are called {taken[0]!r}, by {owner[taken[0]]} and by the installed "
                f"distribution {distribution} ({module}); uninstall it or rename its pruner"
            )
        found |= theirs
        owner |= dict.fromkeys(theirs, distribution)
    return dict(sorted(found.items()))


def _own_files() -> Iterator[pathlib.Path]:
    """Yield the modules of the package ``pruning``."""
    spec = importlib.util.find_spec("pruning")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    for folder in spec.submodule_search_locations:
        yield from pathlib.Path(folder).glob("*.py")


def _installed() -> dict[str, tuple[str, list[str]]]:
    """Return module → (distribution, names of its entry points)."""
    found: dict[str, tuple[str, list[str]]] = {}
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        distribution = point.dist.name if point.dist else "?"
        found.setdefault(point.module, (distribution, []))[1].append(point.name)
    return found


def _file(module: str) -> pathlib.Path:
    """Return a module's source; of ``a.b`` the package ``a`` is imported, ``b`` is not."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.has_location or spec.origin is None:
        raise ModuleNotFoundError(f"no source of the module {module!r} is found")
    return pathlib.Path(spec.origin)


def _unreadable(distribution: str, names: list[str], module: str, error: Exception) -> str:
    return (
        f"the distribution {distribution} brings {', '.join(names)}, whose flags cannot be read "
        f"from {module}: {type(error).__name__}: {error}"
    )


def _read(file: pathlib.Path) -> dict[str, dict[str, Hyperparameter]]:
    """Return pruner → {name: hyper-parameter} of one module."""
    nodes = ast.parse(file.read_text(encoding="utf-8")).body
    return {name: _fields(node) for node in nodes for name in _registered(node)}


def _registered(node: ast.stmt) -> Iterator[str]:
    """Yield the name that a class is registered under, if it is."""
    if not isinstance(node, ast.ClassDef):
        return
    for decorator in node.decorator_list:
        match decorator:
            case ast.Call(
                func=ast.Name(id="register") | ast.Attribute(attr="register"),
                args=[ast.Constant(value=str(name))],
            ):
                yield name


def _fields(node: ast.stmt) -> dict[str, Hyperparameter]:
    """Return the fields of a dataclass."""
    assert isinstance(node, ast.ClassDef)
    found = {}
    for statement in node.body:
        match statement:
            case ast.AnnAssign(annotation=kind) if "ClassVar" in ast.unparse(kind):
                continue
            case ast.AnnAssign(
                target=ast.Name(id=name), annotation=kind, value=ast.expr() as value
            ):
                if isinstance(value, ast.Call):
                    given = {keyword.arg: keyword.value for keyword in value.keywords}
                    value = given["default"]
                word = ast.unparse(kind).split(" | ")[0]
                found[name] = Hyperparameter(ast.literal_eval(value), _KINDS[word])
    return found
