"""What the vision tower says of a batch: from the cache, or from the tower.

Outputs go by name: fields of ``model.VisionOutputs``, and ``saliency_by_layer.<layer>`` for each
layer by itself, so that the cache keeps it whatever other layers are asked for beside it. Of a
picture in T tiles, as a LLaVA-NeXT sees it, an output has an axis of tiles behind that of pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

import pruning
from experiments.harness import loading
from experiments.harness.features import FeatureCache
from experiments.harness.grid import Setting
from llava_jax.engine import Engine

_BY_LAYER = "saliency_by_layer"


def needed(settings: Sequence[Setting], num_layers: int) -> tuple[str, ...]:
    """Return the names of the outputs that the pruners and the decoder read.

    Args:
        settings: of the run.
        num_layers: of the vision tower.
    """
    names = {"features"}
    for pruner in (setting.pruner for setting in settings if not setting.inside):
        names |= {*pruner.needs} - {"relevance", _BY_LAYER}
        if _BY_LAYER in pruner.needs:
            names |= {f"{_BY_LAYER}.{layer}" for layer in pruner.vision_layers(num_layers)}
    return tuple(sorted(names))


def see(
    engine: Engine, ready: loading.Loaded, outputs: Sequence[str], cache: FeatureCache
) -> dict[str, jax.Array]:
    """Return the outputs of a batch by name, each with leading axes [G], or [G, T] of tiles.

    Args:
        engine: the model.
        ready: the batch.
        outputs: names, from ``needed``.
        cache: keeps what is computed here, of every picture that could be read.
    """
    if ready.pixels is None:
        assert ready.seen is not None
        return {name: jnp.asarray(value) for name, value in ready.seen.items()}
    found = _encode(engine, ready.pixels, outputs)
    if cache.limit:
        arrays = {name: np.asarray(value) for name, value in found.items()}
        for g, group in enumerate(ready.batch.groups):
            if group.image not in ready.unreadable:
                cache.put(ready.digests[g], {name: x[g] for name, x in arrays.items()})
    return found


def _encode(engine: Engine, pixels: np.ndarray, outputs: Sequence[str]) -> dict[str, jax.Array]:
    layers = [int(name.split(".")[1]) for name in outputs if "." in name]
    whole = [name for name in outputs if "." not in name]
    names = [*whole, _BY_LAYER] if layers else whole
    leading, squares = pixels.shape[:-3], pixels.reshape(-1, *pixels.shape[-3:])
    vision = engine.encode(jnp.asarray(squares), names, layers)
    found = {name: vision.require(name) for name in whole}
    for index, layer in enumerate(layers):
        found[f"{_BY_LAYER}.{layer}"] = vision.require(_BY_LAYER)[:, index]
    return {name: x.reshape(*leading, *x.shape[1:]) for name, x in found.items()}


def tokens(
    seen: Mapping[str, jax.Array], pruner: pruning.Pruner, num_layers: int
) -> pruning.Tokens:
    """Return what a pruner may look at; the features are always among it and say how many.

    Args:
        seen: outputs by name.
        pruner: says which.
        num_layers: of the vision tower.
    """
    fields = {name: seen[name] for name in {"features", *pruner.needs} if name in seen}
    if _BY_LAYER in pruner.needs:
        rows = [seen[f"{_BY_LAYER}.{layer}"] for layer in pruner.vision_layers(num_layers)]
        fields[_BY_LAYER] = jnp.stack(rows, axis=-2)
    return pruning.Tokens(**fields)
