"""How the parts of the model are run: as they are, or compiled one by one.

Every function of ``model`` and ``decoding`` is a composition of stages; ``stage`` says how a stage
is run. By default it is called as it is, so that the whole model can be put under one ``jax.jit``;
the engine passes a cached ``jax.jit`` instead, which compiles each block once per shape whatever
the depth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

Params = Mapping[str, Any]
Array = jax.Array | np.ndarray
Stage = Callable[[Callable[..., Any]], Callable[..., Any]]


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run a stage as it is."""
    return function


def without_layers(tower: Params) -> Params:
    """Return a tower's own weights, so that a stage does not take the layers along."""
    return {name: value for name, value in tower.items() if name != "layers"}
