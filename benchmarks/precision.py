"""How far half precision takes answers from float32: ours, and transformers' own.

    python -m benchmarks.precision

The reference is transformers in float32 on the same random weights. Each half-precision side has
the weights rounded to its format. Needs the extra ``reference``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jax
import numpy as np
import torch
from absl import app, flags

from benchmarks import harness, models, peers
from benchmarks.pope import Ours

_MODEL = flags.DEFINE_enum("model_size", "small-576", list(models.SIZES), "of the weights")

CHOICES = np.array([11, 222, 3333, 14444])
QUESTIONS = 18


def _probabilities(logits: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.softmax(logits[:, CHOICES].astype(np.float32), axis=-1))


def _theirs(model: Any, ours: Ours) -> np.ndarray:
    peer = peers.Peer(model, ours.prompt.tolist())
    rows = [peer.question(ours.pixels[0], ids) for ids in ours.questions[:QUESTIONS]]
    return _probabilities(np.stack(rows))


def _ours(model: Any, cfg: Any) -> np.ndarray:
    ours = Ours(models.share(model, cfg), cfg, 1)
    return _probabilities(np.asarray(ours.answer(ours.see(None), None, QUESTIONS))[0])


def main(_: Sequence[str]) -> None:
    """Measure, print and save."""
    jax.config.update("jax_platforms", "cpu")
    model, cfg, params = models.build(_MODEL.value, "float32", "cpu")
    ours = Ours(params, cfg, 1)
    reference = _theirs(model, ours)
    found = {}
    for dtype in ("float32", "float16", "bfloat16"):
        model = model.to(getattr(torch, dtype))
        for name, got in (("ours", _ours(model, cfg)), ("transformers", _theirs(model, ours))):
            error = np.abs(got - reference)
            found[f"{name}, {dtype}"] = {"max": float(error.max()), "mean": float(error.mean())}
            print(f"{name}, {dtype}: max {error.max():.2e}, mean {error.mean():.2e}", flush=True)
        model, _, _ = models.build(_MODEL.value, "float32", "cpu")
    harness.save("precision", {"size": _MODEL.value, "error of answer probability": found})


if __name__ == "__main__":
    app.run(main)
