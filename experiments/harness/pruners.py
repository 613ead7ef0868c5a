"""The pruners' names and hyper-parameters, read from their source and not run.

Flags must exist before a command line is understood, and importing the pruners imports jax, which
takes longer than ``--help`` may. A class under ``@register("name")`` in the package ``pruning``
says it all in literals: its fields are the hyper-parameters, their defaults the flags'.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import pathlib
from collections.abc import Iterator
from typing import Any


@functools.cache
def hyperparameters() -> dict[str, dict[str, Any]]:
    """Return pruner → {hyper-parameter: default}, pruners in alphabetical order."""
    spec = importlib.util.find_spec("pruning")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    found: dict[str, dict[str, Any]] = {}
    for folder in spec.submodule_search_locations:
        for file in pathlib.Path(folder).glob("*.py"):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                found |= {name: _fields(node) for name in _registered(node)}
    return dict(sorted(found.items()))


def _registered(node: ast.stmt) -> Iterator[str]:
    """Yield the name that a class is registered under, if it is."""
    if not isinstance(node, ast.ClassDef):
        return
    for decorator in node.decorator_list:
        match decorator:
            case ast.Call(func=ast.Name(id="register"), args=[ast.Constant(value=str(name))]):
                yield name


def _fields(node: ast.stmt) -> dict[str, Any]:
    """Return the defaults of a dataclass's fields."""
    assert isinstance(node, ast.ClassDef)
    found = {}
    for statement in node.body:
        match statement:
            case ast.AnnAssign(annotation=ast.Name(id="ClassVar")):
                continue
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Call(keywords=keywords)):
                given = {keyword.arg: keyword.value for keyword in keywords}
                found[name] = ast.literal_eval(given["default"])
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                found[name] = ast.literal_eval(value)
    return found
