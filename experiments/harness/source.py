"""From the --model flag to a loaded engine."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import jax
import numpy as np
from jax.sharding import Mesh

import llava_jax
from experiments.harness.errors import InputError, UsageError
from llava_jax import checkpoint, prompts, sharding
from llava_jax.config import LlavaConfig
from llava_jax.engine import Engine

POCKET = "pocket"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SMALL_FILES = ["*.json", "tokenizer.model"]
_ALL_FILES = [*_SMALL_FILES, "*.safetensors"]
_SMALL_MODEL = 5e8


@dataclasses.dataclass(frozen=True)
class Source:
    """A model on disk, not loaded yet.

    Attributes:
        folder: where it lies.
        cfg: its shapes.
        tokenizer: its tokenizer.
        dtype: it is to be run in.
        quantization: of the decoder's matrices, None for none.
        mesh: of devices that share it, None for one device.
        hub_id: where its weights come from, None if they are in the folder already.
        offline: open no connection.
    """

    folder: pathlib.Path
    cfg: LlavaConfig
    tokenizer: prompts.Tokenizer
    dtype: str
    quantization: str | None
    mesh: Mesh | None
    hub_id: str | None
    offline: bool

    def digest(self) -> str:
        """Return the sha256 of the weight files; a hub's are fetched now.

        Raises:
            InputError: there are none, or they cannot be read.
        """
        if self.hub_id:
            fetch(self.hub_id, _ALL_FILES, flag="model", offline=self.offline)
        try:
            return checkpoint.digest(self.folder)
        except (OSError, ValueError) as error:
            raise InputError(f"--model={self.folder}: {error}") from None

    def load(self) -> Engine:
        """Load the parameters.

        Raises:
            InputError: they do not fill the model, or cannot be read.
        """
        how = {"quantization": self.quantization, "mesh": self.mesh}
        try:
            params = checkpoint.load(self.folder, self.cfg, np.dtype(self.dtype), **how)
            return Engine(params, self.cfg, self.mesh)
        except (OSError, ValueError) as error:
            raise InputError(f"--model={self.folder}: {error}") from None

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights on each device."""
        parts = self.mesh.shape[sharding.MODEL] if self.mesh else 1
        return checkpoint.num_bytes(self.cfg, self.dtype, self.quantization, parts)


def find(
    model: str,
    dtype: str | None,
    *,
    offline: bool,
    quantize: str | None = None,
    mesh: Mesh | None = None,
) -> Source:
    """Find a model and read its small files.

    Args:
        model: ``pocket``, a folder, or a hub id.
        dtype: None for the default of its size and the device.
        offline: refuse hub ids that are not in the local cache.
        quantize: the decoder's matrices; None for what the folder holds.
        mesh: of devices that share the model; None for one device.

    Raises:
        UsageError: the mesh does not divide the decoder.
        InputError: it is not there, or neither LLaVA-1.5 nor LLaVA-NeXT.
    """
    folder = _folder(model)
    hub_id = None if folder else model
    folder = folder or fetch(model, _SMALL_FILES, flag="model", offline=offline)
    try:
        cfg = checkpoint.read_config(folder)
        tokenizer = prompts.Tokenizer.from_folder(folder)
        quantization = quantize or checkpoint.quantization_of(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"--model={model}: {error}") from None
    try:
        if mesh is not None:
            sharding.check(cfg, mesh)
    except ValueError as error:
        raise UsageError(f"--mesh: {error}") from None
    dtype = dtype or default_dtype(checkpoint.num_parameters(cfg))
    return Source(folder, cfg, tokenizer, dtype, quantization, mesh, hub_id, offline)


def default_dtype(num_parameters: int) -> str:
    """Return float32 below 0.5 B parameters, else float16 on GPU and bfloat16 elsewhere."""
    if num_parameters < _SMALL_MODEL:
        return "float32"
    return "float16" if jax.default_backend() == "gpu" else "bfloat16"


def _folder(model: str) -> pathlib.Path | None:
    """Return the folder that --model names, None for a hub id."""
    if model == POCKET:
        return pathlib.Path(llava_jax.__file__).parent / POCKET
    folder = pathlib.Path(model)
    if folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(model):
        raise InputError(f"--model={model} is no folder, no hub id and not {POCKET!r}")
    return None


def fetch(
    name: str,
    patterns: list[str],
    *,
    flag: str,
    offline: bool,
    kind: str = "model",
    revision: str | None = None,
) -> pathlib.Path:
    """Bring files of the hub into the local cache and return their folder.

    Args:
        name: hub id.
        patterns: of the files' names.
        flag: that the name was given with.
        offline: look in the local cache only.
        kind: ``model`` or ``dataset``.
        revision: branch, tag or commit; None for the newest. The folder is called by the commit.

    Raises:
        InputError: it is not there.
    """
    import huggingface_hub

    try:
        found = huggingface_hub.snapshot_download(
            name,
            repo_type=kind,
            revision=revision,
            allow_patterns=patterns,
            local_files_only=offline,
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--{flag}={name} is no folder here, and the hub says: {reason}") from None
    return pathlib.Path(found)
