"""How much each visual token bears on a question, by CLIP's two towers.

Axis letters: G pictures, Q questions, M pieces of a question, N visual tokens, T tokens of a piece,
P width of the shared space.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import pathlib

import jax
import numpy as np

import pruning
from experiments.harness import batching
from experiments.harness.config import RunConfig
from experiments.harness.errors import InputError
from experiments.harness.source import Source, fetch
from llava_jax import checkpoint, prompts
from llava_jax.clip_config import ClipConfig
from llava_jax.engine import ClipEngine

HUB_ID = "openai/clip-vit-large-patch14-336"
"""The dual encoder whose vision tower LLaVA-1.5 has."""
_SIGNS = {"dissimilar": -1, "similar": 1}
"""Patches that matter → the sign of their similarity."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """A dual encoder on disk, not loaded yet.

    Attributes:
        folder: where it lies.
        cfg: its shapes.
        tokenizer: of its text tower.
        dtype: it is to be run in.
        relevant: whether patches that matter are ``similar`` or ``dissimilar`` to the question.
    """

    folder: pathlib.Path
    cfg: ClipConfig
    tokenizer: prompts.ClipTokenizer
    dtype: str
    relevant: str

    def identity(self) -> dict[str, str]:
        """Return all of it that decides what is relevant, files by their sha256.

        Raises:
            InputError: there are no weights, or they cannot be read.
        """
        try:
            return {
                "weights": checkpoint.digest(self.folder),
                "tokenizer": self.tokenizer.digest,
                "relevant": self.relevant,
            }
        except (OSError, ValueError) as error:
            raise InputError(f"--clip={self.folder}: {error}") from None

    @functools.cached_property
    def engine(self) -> ClipEngine:
        """The loaded dual encoder."""
        try:
            params = checkpoint.load_clip(self.folder, np.dtype(self.dtype))
        except (OSError, ValueError) as error:
            raise InputError(f"--clip={self.folder}: {error}") from None
        return ClipEngine(params, self.cfg)

    def relevance(self, features: jax.Array, batch: batching.ImageBatch) -> jax.Array:
        """Rate every visual token for every question.

        Args:
            features: float[G, N, Dv], vision layer −2.
            batch: whose questions, without the instruction how to answer, are read by CLIP.

        Returns:
            float32[G, Q, N]; ones for questions that are padding.
        """
        pieces = [
            [self._pieces(question[0].user_text) for question in group.questions]
            for group in batch.groups
        ]
        # The mean over pieces stays what it is if each occurs equally often.
        most = math.lcm(*(len(found) for row in pieces for found in row))
        length = self.cfg.text.num_positions
        ids = np.zeros((*batch.lengths.shape, most, length), np.int32)
        for g, row in enumerate(pieces):
            for q, found in enumerate(row):
                ids[g, q] = np.tile(found, (most // len(found), 1))
        texts = self.engine.texts(ids.reshape(-1, length)).reshape(*ids.shape[:3], -1)
        return pruning.relevance(self.engine.patches(features), texts, sign=_SIGNS[self.relevant])

    def _pieces(self, user_text: str) -> np.ndarray:
        return self.tokenizer.pieces(
            prompts.without_instruction(user_text), self.cfg.text.num_positions
        )


def find(config: RunConfig, source: Source) -> Clip:
    """Find the dual encoder and read its small files.

    Args:
        config: the flags; without ``--clip`` it is ``clip/`` in the model's folder, or OpenAI's.
        source: the model.

    Raises:
        InputError: it is not there, or is no dual encoder.
    """
    beside = source.folder / "clip"
    name = config.clip or (str(beside) if beside.is_dir() else HUB_ID)
    folder = pathlib.Path(name)
    if not folder.is_dir():
        patterns = ["*.json", "*.safetensors"]
        folder = fetch(name, patterns, flag="clip", offline=config.offline)
    try:
        cfg = checkpoint.read_clip_config(folder)
        tokenizer = prompts.ClipTokenizer.from_folder(folder)
        if tokenizer.num_ids > cfg.text.vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.num_ids} ids, the text tower {cfg.text.vocab_size}"
            )
    except (OSError, ValueError) as error:
        raise InputError(f"--clip={name}: {error}") from None
    return Clip(folder, cfg, tokenizer, source.dtype, config.relevant or _relevant(folder))


def _relevant(folder: pathlib.Path) -> str:
    """Return what the encoder's config.json says of itself; OpenAI's is the usual case."""
    file = folder / "config.json"
    found = json.loads(file.read_bytes()).get("relevant_patches", "dissimilar")
    if found not in list(_SIGNS):
        raise InputError(f"{file}: relevant_patches={found!r:.40} is none of {', '.join(_SIGNS)}")
    return found
