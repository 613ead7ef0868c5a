"""The parameter tree as Orbax keeps it: saved once, restored straight into any mesh."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import Mesh, SingleDeviceSharding

from llava_jax import atomic, sharding
from llava_jax.checkpoint import finite, huggingface, tensors
from llava_jax.config import LlavaConfig


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Leave out what Orbax says of every step, which is some forty lines."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING if before == logging.INFO else before)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def save(folder: pathlib.Path, params: Any) -> None:
    """Write a parameter tree, and wait until it is on the disk."""
    with _quietly(), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((folder / tensors.PARAMS).absolute(), params)
    for path in (folder / tensors.PARAMS).rglob("*"):
        atomic.sync(path)


def restore(
    folder: pathlib.Path,
    cfg: LlavaConfig,
    dtype: Any,
    *,
    quantization: str | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """Restore a converted checkpoint in the asked dtype; every device reads its own part.

    Args:
        folder: of the checkpoint.
        cfg: the model's shapes.
        dtype: of what is not quantised.
        quantization: that it was converted with; None for none.
        mesh: of devices that share the model; None for the default device.

    Raises:
        ValueError: the stored tree is not the model's, is quantised otherwise, or values are not
            finite.
    """
    stored = tensors.quantization_of(folder)
    if stored != quantization:
        raise ValueError(f"{folder} was converted with quantization {stored}, not {quantization}")
    try:
        with _quietly(), ocp.StandardCheckpointer() as checkpointer:
            target = _target(cfg, dtype, quantization, mesh)
            params = checkpointer.restore((folder / tensors.PARAMS).absolute(), target)
    except jax.errors.JaxRuntimeError:  # the device is full
        raise
    except Exception as error:  # whatever a damaged file makes of Orbax
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{folder / tensors.PARAMS} cannot be restored: {reason:.200}") from None
    bad = finite.Bad()
    for path, leaf in huggingface.flatten(params).items():
        for shard in leaf.addressable_shards:
            if shard.replica_id == 0 and jnp.issubdtype(leaf.dtype, jnp.floating):
                # Of each part: JAX would keep the whole array's copy on the host.
                bad.look(path, np.asarray(shard.data))
    bad.refuse(folder)
    return params


def _target(cfg: LlavaConfig, dtype: Any, quantization: str | None, mesh: Mesh | None) -> Any:
    """Return shapes, dtypes and devices of the tree to be restored."""
    tree = huggingface.abstract(cfg, np.dtype(dtype), quantization)
    if mesh is None:
        here = SingleDeviceSharding(jax.devices()[0])
        where = jax.tree.map(lambda _: here, tree)
    else:
        where = sharding.of_tree(tree, mesh)
    return jax.tree.map(
        lambda leaf, there: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=there),
        tree,
        where,
    )
