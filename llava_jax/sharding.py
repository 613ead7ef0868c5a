"""Which device holds which part of a model: one table, one mesh, no collective written by hand.

A mesh has two axes: pictures are divided along ``data``, the decoder's matrices along ``model``
(Megatron-LM, Shoeybi et al. 2019, §3): what makes heads and hidden units is cut by rows, what
joins them again by columns, so that a block needs two all-reduces and XLA finds them itself.
Norms, embedding, projector and vision tower are on every device: 0.6 GB of the 7B in bfloat16.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from llava_jax.config import LlavaConfig
from llava_jax.stage import Array

DATA, MODEL = AXES = ("data", "model")

_QUANTIZED = "(/values|/scale)?"
RULES: tuple[tuple[str, P], ...] = (
    (rf"text/layers/\d+/(q|k|v|gate|up)/weight{_QUANTIZED}", P(MODEL, None)),
    (r"text/layers/\d+/(out|down)/weight(/values)?", P(None, MODEL)),
    (r"text/layers/\d+/(out|down)/weight/scale", P()),
    (r"text/layers/\d+/(attention|mlp)_norm/weight", P()),
    (r"text/lm_head", P(MODEL, None)),
    (r"text/(embed_tokens|norm/weight)", P()),
    (r"vision/.*", P()),
    (r"projector/.*", P()),
    (r"image_newline", P()),
)
"""Path in the parameter tree → how it is divided; every leaf matches one rule."""


def make_mesh(data: int, model: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return a mesh of data × model devices.

    Its axes are Auto: under ``jax.make_mesh``'s default, Explicit, linen's blocks would have to
    name the sharding of every product.

    Args:
        data: devices that divide the pictures.
        model: devices that divide the decoder.
        devices: to take them from, in this order; this process's own by default.

    Raises:
        ValueError: there are fewer.
    """
    devices, need = jax.local_devices() if devices is None else devices, data * model
    if need > len(devices):
        raise ValueError(f"data:{data},model:{model} takes {need} devices; {len(devices)} are here")
    kinds = (AxisType.Auto,) * 2
    return jax.make_mesh((data, model), AXES, axis_types=kinds, devices=devices[:need])


def check(cfg: LlavaConfig, mesh: Mesh) -> None:
    """Refuse a mesh whose model axis does not divide the decoder.

    Raises:
        ValueError: names every size that it does not divide.
    """
    text, parts = cfg.text, mesh.shape[MODEL]
    sizes = {
        "key-value heads": text.num_kv_heads,
        "hidden units": text.mlp_width,
        "rows of the head": text.vocab_size,
    }
    if wrong := [f"{size} {name}" for name, size in sizes.items() if size % parts]:
        raise ValueError(f"model:{parts} does not divide the decoder's {', '.join(wrong)}")


def spec(path: str) -> P:
    """Return how a parameter is divided.

    Args:
        path: of the leaf in the tree, joined by ``/``.

    Raises:
        ValueError: no rule or several match it.
    """
    found = [how for pattern, how in RULES if re.fullmatch(pattern, path)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} sharding rules match the parameter {path}, one should")
    return found[0]


def of_tree(tree: Any, mesh: Mesh, root: str = "") -> Any:
    """Return the sharding of every leaf of a parameter tree, or of the part of one below a path."""

    def of_leaf(path: Any, _: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, spec("/".join(filter(None, (root, name)))))

    return jax.tree_util.tree_map_with_path(of_leaf, tree)


def put(path: str, leaf: Any, mesh: Mesh | None) -> Any:
    """Bring a parameter from the host to the devices that hold it; each is handed its own part.

    Args:
        path: of the leaf in the tree.
        leaf: host array, which may be mapped from a file, or a quantised matrix of such.
        mesh: None for the default device. On CPU an array that begins at a multiple of 64 bytes is
            used where it lies.
    """
    if mesh is None:
        return jax.tree.map(jax.device_put, leaf)

    def part(values: np.ndarray, sharding: NamedSharding) -> jax.Array:
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    return jax.tree.map(part, leaf, of_tree(leaf, mesh, root=path))


def spread(batch: Array, mesh: Mesh | None) -> Array:
    """Divide a batch float[G, ...] along ``data``; one that does not divide is on every device."""
    if mesh is None:
        return batch
    whole = batch.shape[0] % mesh.shape[DATA]
    where = NamedSharding(mesh, P() if whole else P(DATA))
    return jax.device_put(batch, where)


def describe(mesh: Mesh) -> str:
    """Return a mesh as ``parse`` reads it."""
    return ",".join(f"{axis}:{size}" for axis, size in mesh.shape.items())


def parse(text: str) -> dict[str, int]:
    """Read ``data:2,model:4``; an axis that is not named has one device.

    Raises:
        ValueError: it is not written so.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, _, size = part.strip().partition(":")
        if axis not in AXES or axis in sizes or not (size.isascii() and size.isdigit()):
            raise ValueError(f"{part!r} in {text!r} is no axis: write data:2,model:4, each once")
        sizes[axis] = int(size)
    if 0 in sizes.values():
        raise ValueError(f"{text!r} has an axis without devices")
    return dict.fromkeys(AXES, 1) | sizes
