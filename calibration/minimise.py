"""Smooth convex minimisation by L-BFGS (Liu and Nocedal 1989), in optax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Parameters = Any  # a pytree of float arrays
_MAX_STEPS = 100
_LINE_SEARCH_STEPS = 20


def minimise(
    loss: Callable[[Parameters], jax.Array],
    start: Parameters,
    *,
    wanted: jax.Array | bool = True,
    project: Callable[[Parameters], Parameters] = lambda x: x,
) -> tuple[Parameters, jax.Array]:
    """Minimise a smooth convex function.

    It stops when a step is shorter than √eps: steps shrink superlinearly, so the next
    would be lost in rounding.

    Args:
        loss: function of the parameters, float[].
        start: pytree of float arrays.
        wanted: bool[]; False returns the start.
        project: brings parameters back to where the loss is to be minimised.

    Returns:
        The parameters, and whether they converged, bool[].
    """
    line_search = optax.scale_by_zoom_linesearch(_LINE_SEARCH_STEPS, initial_guess_strategy="one")
    optimizer = optax.lbfgs(memory_size=8, linesearch=line_search)
    value_and_grad = optax.value_and_grad_from_state(loss)
    dtype = jnp.result_type(*jax.tree.leaves(start))
    tolerance = float(jnp.finfo(dtype).eps) ** 0.5

    def improve(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        x, state, _, count = carry
        value, grad = value_and_grad(x, state=state)
        step, state = optimizer.update(grad, state, x, value=value, grad=grad, value_fn=loss)
        moved = project(optax.tree.add(x, step))
        return moved, state, optax.tree.norm(optax.tree.sub(moved, x)), count + 1

    def unfinished(carry: tuple[Any, ...]) -> jax.Array:
        _, _, step, count = carry
        return wanted & (step > tolerance) & (count < _MAX_STEPS)

    first: tuple[Any, ...] = (start, optimizer.init(start), jnp.full((), jnp.inf, dtype), 0)
    x, _, step, _ = jax.lax.while_loop(unfinished, improve, first)
    return x, step <= tolerance
