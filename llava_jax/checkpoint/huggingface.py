"""Hugging Face folders, LLaVA's and CLIP's: config.json and safetensors to parameters, and back."""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from llava_jax import parameters
from llava_jax.checkpoint import rules, tensors
from llava_jax.clip_config import ClipConfig, clip_from_hf
from llava_jax.config import LlavaConfig, from_hf

Config = LlavaConfig | ClipConfig


def read_config(folder: pathlib.Path) -> LlavaConfig:
    """Read the shapes of the model in a folder from its config.json.

    Raises:
        FileNotFoundError: no config.json.
        ValueError: it is not JSON, or not LLaVA-1.5.
    """
    return from_hf(_content(folder))


def read_clip_config(folder: pathlib.Path) -> ClipConfig:
    """Read the shapes of the dual encoder in a folder from its config.json.

    Raises:
        FileNotFoundError: no config.json.
        ValueError: it is not JSON, or not a CLIP model.
    """
    return clip_from_hf(_content(folder))


def _content(folder: pathlib.Path) -> dict[str, Any]:
    """Return the parsed config.json."""
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"no config.json in {folder}")
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None


@functools.lru_cache(maxsize=4)
def abstract(cfg: Config, dtype: Any = np.float32) -> dict[str, Any]:
    """Return the parameter tree as shapes and dtypes, without values."""

    def init(key: jax.Array) -> dict[str, Any]:
        if isinstance(cfg, ClipConfig):
            return parameters.init_clip(key, cfg, dtype)
        return parameters.init(key, cfg, dtype)

    return jax.eval_shape(init, jax.random.key(0))


def flatten(tree: Any) -> dict[str, Any]:
    """Return path → leaf of a parameter tree, paths joined by ``/``."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def plan(folder: pathlib.Path, cfg: Config) -> dict[str, tensors.Tensor]:
    """Assign every parameter of the model a tensor of the folder, from headers only.

    Returns:
        path → tensor.

    Raises:
        ConversionError: the folder does not fill the model exactly.
    """
    keys = rules.CLIP if isinstance(cfg, ClipConfig) else rules.LLAVA
    found = tensors.tensors(folder, keys.ignored)
    targets = {path: leaf.shape for path, leaf in flatten(abstract(cfg)).items()}
    matched = keys.match({key: tensor.shape for key, tensor in found.items()}, targets)
    return {path: found[key] for path, key in matched.items()}


def load(folder: pathlib.Path, cfg: Config, dtype: Any) -> dict[str, Any]:
    """Load the parameters one tensor at a time.

    Args:
        folder: with safetensors.
        cfg: the model's shapes.
        dtype: of the parameters; tensors that already have it are mapped, not copied, where
            the file's alignment allows it.

    Returns:
        The parameter tree.
    """
    sources = plan(folder, cfg)
    tree = abstract(cfg)
    leaves = [
        jax.device_put(sources[path].read().astype(dtype, copy=False)) for path in flatten(tree)
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def load_clip(folder: pathlib.Path, dtype: Any) -> dict[str, Any]:
    """Load a dual encoder whose sizes its own config.json tells.

    Args:
        folder: with config.json and the safetensors of a ``CLIPModel``.
        dtype: of the parameters.

    Returns:
        The parameter tree, as ``parameters.init_clip`` describes it.

    Raises:
        FileNotFoundError: no config.json, no weights.
        ValueError: not a CLIP model, or a malformed file.
        ConversionError: the weights do not fill the model exactly.
    """
    return load(folder, read_clip_config(folder), dtype)


def save(
    folder: pathlib.Path,
    params: Any,
    config: dict[str, Any],
    dtype: Any,
    keys: rules.KeyMap = rules.LLAVA,
) -> None:
    """Write parameters as a Hugging Face folder with the hub's key names.

    Args:
        folder: made if it is not there.
        params: the parameter tree.
        config: contents of config.json; of a dual encoder, ``clip_to_hf`` gives them.
        dtype: of the tensors on disk.
        keys: names of the tensors; ``rules.CLIP`` for a dual encoder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {keys.key_of(p): np.asarray(x).astype(dtype) for p, x in flatten(params).items()}
    safetensors.numpy.save_file(weights, folder / tensors.SINGLE, metadata={"format": "pt"})
    (folder / tensors.SINGLE).chmod(0o644)  # the library writes 0600
