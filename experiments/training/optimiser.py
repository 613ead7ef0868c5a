"""Muon for the matrices of blocks and projector, Adam for everything else."""

from __future__ import annotations

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

PATIENCE = 20  # steps in a row whose gradient may be non-finite before training gives up


def _is_hidden_matrix(path: jax.tree_util.KeyPath, leaf: jax.Array) -> bool:
    """Tell whether a leaf maps hidden states to hidden states."""
    names = {getattr(key, "key", None) for key in path}
    return leaf.ndim == 2 and bool(names & {"layers", "projector"})


def _dimensions(params: optax.Params) -> optax.Params:
    """Give hidden matrices [out, in] their Muon dimensions and everything else None."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: MuonDimensionNumbers(1, 0) if _is_hidden_matrix(path, leaf) else None,
        params,
    )


def schedule(peak: float, steps: int, warmup: int) -> optax.Schedule:
    """Rise linearly to the peak, then fall along a cosine to a fiftieth of it."""
    warmup = min(warmup, steps // 2)
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps, peak / 50)


def optimiser(
    muon_rate: float, adam_rate: float, steps: int, *, warmup: int = 100, weight_decay: float = 0.05
) -> optax.GradientTransformation:
    """Build the optimiser.

    Steps whose gradient is not finite are skipped, so that the last good state stays.

    Args:
        muon_rate: peak learning rate of the hidden matrices.
        adam_rate: peak learning rate of the rest.
        steps: length of the schedule.
        warmup: steps of linear rise.
        weight_decay: decoupled, on the hidden matrices.

    Returns:
        The gradient transformation.
    """
    inner = optax.chain(
        optax.clip_by_global_norm(1.0),
        muon(
            schedule(muon_rate, steps, warmup),
            adam_learning_rate=schedule(adam_rate, steps, warmup),
            weight_decay=weight_decay,
            muon_weight_dimension_numbers=_dimensions,
        ),
    )
    return optax.apply_if_finite(inner, PATIENCE)
