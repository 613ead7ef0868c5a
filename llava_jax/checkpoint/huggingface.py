"""Hugging Face folders, LLaVA's and CLIP's: config.json and safetensors to parameters, and back."""

from __future__ import annotations

import functools
import json
import pathlib
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from jax.sharding import Mesh

from llava_jax import atomic, diagnosis, parameters, quantize, sharding
from llava_jax.checkpoint import finite, rules, tensors
from llava_jax.clip_config import ClipConfig, clip_from_hf
from llava_jax.config import LlavaConfig, LlavaNextConfig, from_hf

Config = LlavaConfig | ClipConfig
ORIGINAL = "mm_vision_tower"
"""A field that the config.json of LLaVA's own code has, and Hugging Face's has not."""


def read_config(folder: pathlib.Path) -> LlavaConfig:
    """Read the shapes of the model in a folder from its config.json.

    Raises:
        FileNotFoundError: no config.json.
        ValueError: it is not JSON, not LLaVA-1.5, or LLaVA's own and to be converted first.
    """
    content = read_content(folder)
    if tower := content.get(ORIGINAL):
        place, name = shlex.quote(str(folder)), pathlib.PurePath(str(tower)).name
        raise ValueError(
            f"{folder} holds an original LLaVA checkpoint; convert it: python -m "
            f"llava_jax.checkpoint --src={place} --vision_tower={shlex.quote(name)} "
            f"--dst={place}-converted (the vision tower is a folder with {tower!r:.80})"
        )
    return from_hf(content)


def read_clip_config(folder: pathlib.Path) -> ClipConfig:
    """Read the shapes of the dual encoder in a folder from its config.json.

    Raises:
        FileNotFoundError: no config.json.
        ValueError: it is not JSON, or not a CLIP model.
    """
    return clip_from_hf(read_content(folder))


def read_content(folder: pathlib.Path) -> dict[str, Any]:
    """Return a folder's parsed config.json.

    Raises:
        FileNotFoundError: no config.json.
        ValueError: it is not JSON, or its sizes are none.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"no config.json in {folder}")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        what = diagnosis.of_file(file) or f"is not JSON: {error}"
        raise ValueError(f"{file} {what}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} does not hold an object")
    refuse_wrong_numbers(file, content)
    return content


def refuse_wrong_numbers(file: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Refuse sizes that no model has: shapes are made of them before any weight is looked at.

    Raises:
        ValueError: names the file, and such fields with their values.
    """
    if wrong := list(_wrong_numbers(content)):
        raise ValueError(f"{file}: {rules.some(wrong)}")


_LARGEST = dict.fromkeys(("num_hidden_layers", "num_attention_heads", "patch_size"), 1024)
_LARGEST |= dict.fromkeys(("hidden_size", "intermediate_size", "image_size", "vocab_size"), 2**20)
_LARGEST |= {"num_key_value_heads": 1024, "head_dim": 2**20, "max_position_embeddings": 2**31}
_OFTEN_NULL = ("num_key_value_heads", "head_dim")
_POSITIVE = ("rms_norm_eps", "layer_norm_eps", "rope_theta")


def _wrong_numbers(content: Mapping[str, Any]) -> Iterator[str]:
    """Name sizes that no model has."""
    for part in ("vision_config", "text_config"):
        fields = content.get(part)
        for name, value in fields.items() if isinstance(fields, dict) else ():
            where, largest = f"{part}.{name}={value!r:.40}", _LARGEST.get(name)
            if value is None and name in _OFTEN_NULL:
                continue
            if largest and not (type(value) is int and 0 < value <= largest):
                yield f"{where} is no whole number from 1 to {largest}"
            if name in _POSITIVE and not (type(value) in (int, float) and 0 < value < 1e12):
                yield f"{where} is no positive number"


def key_map(cfg: Config) -> rules.KeyMap:
    """Return the names of a model's tensors."""
    if isinstance(cfg, ClipConfig):
        return rules.CLIP
    return rules.LLAVA_NEXT if isinstance(cfg, LlavaNextConfig) else rules.LLAVA


@functools.lru_cache(maxsize=4)
def abstract(
    cfg: Config, dtype: Any = np.float32, quantization: str | None = None
) -> dict[str, Any]:
    """Return the parameter tree as shapes and dtypes, without values.

    Args:
        cfg: the model's shapes.
        dtype: of the leaves that are not quantised.
        quantization: name out of ``quantize.BITS``, None for none.
    """

    def init(key: jax.Array) -> dict[str, Any]:
        if isinstance(cfg, ClipConfig):
            return parameters.init_clip(key, cfg, dtype)
        return parameters.init(key, cfg, dtype)

    def quantized(path: Any, leaf: Any) -> Any:
        how = quantize.of(_name(path), quantization)
        return quantize.abstract(leaf, how) if how else leaf

    return jax.tree_util.tree_map_with_path(quantized, jax.eval_shape(init, jax.random.key(0)))


def flatten(tree: Any) -> dict[str, Any]:
    """Return path → leaf of a parameter tree, paths joined by ``/``."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): leaf for path, leaf in leaves}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def plan(folder: pathlib.Path, cfg: Config) -> dict[str, tensors.Tensor]:
    """Assign every parameter of the model a tensor of the folder, from headers only.

    Returns:
        path → tensor, in the tree's order.

    Raises:
        ConversionError: the folder does not fill the model exactly.
    """
    keys = key_map(cfg)
    found = tensors.tensors(folder, keys.ignored)
    targets = {path: leaf.shape for path, leaf in flatten(abstract(cfg)).items()}
    matched = keys.match({key: tensor.shape for key, tensor in found.items()}, targets)
    return {path: found[matched[path]] for path in targets}


def load(
    folder: pathlib.Path,
    cfg: Config,
    dtype: Any,
    *,
    quantization: str | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """Load the parameters one tensor at a time.

    Args:
        folder: with safetensors.
        cfg: the model's shapes.
        dtype: of the parameters; tensors that already have it are mapped, not copied, where
            the file's alignment allows it.
        quantization: name out of ``quantize.BITS``: the decoder's matrices become integers.
        mesh: of devices that share the model; None for the default device.

    Returns:
        The parameter tree.

    Raises:
        ConversionError: the folder does not fill the model exactly, or values are not finite.
    """
    return place(read(folder, cfg, plan(folder, cfg), dtype, quantization), cfg, mesh)


def place(leaves: Iterable[tuple[str, Any]], cfg: Config, mesh: Mesh | None) -> dict[str, Any]:
    """Bring parameters to the devices one after the other, so that the host holds one of them.

    Args:
        leaves: path and value of every parameter, in the tree's order.
        cfg: the model's shapes.
        mesh: of devices that share the model; None for the default device.

    Returns:
        The parameter tree.
    """
    placed = [jax.block_until_ready(sharding.put(path, leaf, mesh)) for path, leaf in leaves]
    return jax.tree.unflatten(jax.tree.structure(abstract(cfg)), placed)


def read(
    folder: pathlib.Path,
    cfg: Config,
    sources: Mapping[str, tensors.Tensor],
    dtype: Any,
    quantization: str | None = None,
) -> Iterator[tuple[str, Any]]:
    """Yield every parameter's path and value on the host.

    Args:
        folder: that the tensors are of, for messages.
        cfg: the model's shapes.
        sources: path → tensor, in the order to be read in; see ``plan``.
        dtype: of what is not quantised.
        quantization: name out of ``quantize.BITS``, None for none.

    Raises:
        ConversionError: behind the last one, if values are not finite.
    """
    bad = finite.Bad()
    for path, tensor in sources.items():
        values = tensor.read()
        how = quantize.of(path, quantization)
        if how is None:
            with np.errstate(over="ignore"):  # what is too large for the dtype is counted
                values = values.astype(dtype, copy=False)
        bad.look(key_map(cfg).key_of(path), values)
        yield path, quantize.quantize(values, how) if how else values
    bad.refuse(folder)


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
    atomic.write(folder / "config.json", config)
    weights = {keys.key_of(p): np.asarray(x).astype(dtype) for p, x in flatten(params).items()}
    atomic.write(
        folder / tensors.SINGLE, safetensors.numpy.save(weights, metadata={"format": "pt"})
    )
