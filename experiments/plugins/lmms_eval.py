"""lmms-eval's model ``llava_jax``: its own tasks, answered by a pruned LLaVA.

    lmms_eval --model llava_jax --model_args model=FOLDER,pruner=scope,budget=64,alpha=0 \
        --tasks pope --output_path logs --log_samples

Arguments: ``model``, ``pruner``, ``budget``, ``seed``, ``order``, ``positions``, ``dtype``,
``preprocessing``, ``clip``, ``offline``, as the flags of the benchmarks; a pruner's
hyper-parameters by their names; and ``records``, a folder for the raw evidence of every answer,
keyed ``<task>/<doc_id>``. With it, a run that was stopped goes on where it was. The text is the
likeliest, token by token. Of several pictures the first is shown.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any, get_args

from lmms_eval.api.instance import (  # pyrefly: ignore[missing-import]
    GenerationResult,
    Instance,
    TokenCounts,
)
from lmms_eval.api.model import lmms  # pyrefly: ignore[missing-import]
from PIL import Image

from experiments.harness import pruners
from experiments.harness.config import FULL, RunConfig
from experiments.harness.errors import InputError, UsageError
from experiments.harness.records import Record
from experiments.plugins.answerer import Answerer, Asked
from llava_jax import images

_MAX_NEW_TOKENS = 1024
"""Where a task says nothing, as for lmms-eval's own LLaVA."""
_MARK = "<image>"
_LMMS_EVALS: dict[str, Any] = {
    **{"data": "", "limit": None, "own": {}, "predictions": None, "max_new_tokens": None},
    **{"route": "generate", "prompt_style": "lmms", "options": "valid", "mode": "default"},
    **{"kv_eviction": "none", "kv_budget": None, "kv_window": 32, "tiles": None},
    **{"relevant": None, "allow_failed": False, "fork": False, "dry_run": False},
    **{"quantize": None, "mesh": None, "distributed": "off"},
    **{"out": "", "num_processes": 1, "process_id": 0, "cache": "", "cache_gib": 0.0},
}
"""Flags that say what lmms-eval decides, or that a model inside it has no use for."""


class LlavaJax(lmms):
    """A LLaVA whose visual tokens are pruned, as lmms-eval's simple models are called."""

    def __init__(
        self,
        model: str = "pocket",
        pruner: str = FULL,
        budget: int = 128,
        seed: int = 0,
        order: str = "raster",
        positions: str = "contiguous",
        dtype: str | None = None,
        preprocessing: images.Mode = "pad",
        clip: str | None = None,
        records: str | None = None,
        offline: bool = False,
        batch_size: int = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **hyperparameters: Any,
    ):
        super().__init__()
        del batch_size, max_batch_size, device  # batches are the plan's, the device is JAX's
        _refuse_unknown("order", order, ("raster", "selection"))
        _refuse_unknown("positions", positions, ("contiguous", "original"))
        _refuse_unknown("preprocessing", preprocessing, get_args(images.Mode))
        config = RunConfig(
            **_LMMS_EVALS,
            model=str(model),
            clip=clip,
            pruners=(pruner,),
            budgets=(budget,),
            hyperparameters=_typed(pruner, hyperparameters),
            seeds=(seed,),
            order=order,
            positions=positions,
            dtype=dtype,
            preprocessing=preprocessing,
            offline=offline,
        )
        self._answerer = Answerer(config, pathlib.Path(records) if records else None)

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answer questions; those of one task are put together by picture.

        Args:
            requests: of any tasks.

        Returns:
            Text up to the first stop string, and how many tokens were said, of each request.
        """
        calls = [_Call(request, self.task_dict) for request in requests]
        if self.world_size > 1:
            raise NotImplementedError("llava_jax runs in one process; JAX spreads over its devices")
        runs: dict[tuple[str, int], dict[str, Asked]] = {}
        for call in calls:
            runs.setdefault(call.run, {})[call.asked.key] = call.asked
        found = {
            run: self._answerer.answer(run[0], tuple(asked.values()), run[1])
            for run, asked in runs.items()
        }
        return [call.result(found[call.run][call.asked.key]) for call in calls]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Refuse: continuations are not rated."""
        raise NotImplementedError("llava_jax generates text; it does not rate continuations")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Refuse: a prompt has one question."""
        raise NotImplementedError("llava_jax answers one question at a time")


class _Call:
    """A request of lmms-eval.

    Attributes:
        asked: the question.
        run: task and length of its answers.
    """

    def __init__(self, request: Instance, task_dict: dict[str, Any]):
        context, how, doc_to_visual, doc_id, task, split = request.args
        _refuse_sampling(how, task)
        key = f"{task}/{doc_id}"
        documents = task_dict[task][split]

        def picture() -> Image.Image:
            visuals = doc_to_visual(documents[doc_id])
            if not visuals or not isinstance(visuals[0], Image.Image):
                raise InputError(f"{key} has no picture; llava_jax needs one")
            return visuals[0]

        text = context.replace(_MARK, "").strip() if _MARK in context else context
        self.asked = Asked(key, text, picture)
        self.run = (task, int(how.get("max_new_tokens") or _MAX_NEW_TOKENS))
        until = how.get("until") or ()
        self._until = [until] if isinstance(until, str) else [stop for stop in until if stop]

    def result(self, record: Record) -> GenerationResult:
        """Return what lmms-eval is told of a record."""
        text = record.text or ""
        ends = [text.index(stop) for stop in self._until if stop in text]
        count = TokenCounts(output_tokens=len(record.text_log_probs or ()))
        return GenerationResult(text[: min(ends, default=None)], count)


def _refuse_sampling(how: dict[str, Any], task: str) -> None:
    """Raise UsageError if a task asks for more than the likeliest text."""
    sampled = how.get("do_sample") or (how.get("temperature") or 0) > 0
    if sampled or (how.get("num_beams") or 1) > 1:
        raise UsageError(f"{task} asks for sampling or beams; llava_jax says the likeliest text")


def _typed(pruner: str, given: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Return hyper-parameters as the pruner takes them; lmms-eval has made numbers of all."""
    known = pruners.hyperparameters()
    if pruner not in known:
        raise UsageError(f"pruner={pruner} does not exist; known: {', '.join(known)}")
    own = known[pruner]
    for name in given:
        if name not in own:
            have = ", ".join(own) or "none"
            raise UsageError(f"{name} is no argument and no hyper-parameter of {pruner}: {have}")
    try:
        return {name: (own[name].kind(value),) for name, value in given.items()}
    except ValueError as error:
        raise UsageError(f"a hyper-parameter of {pruner}: {error}") from None


def _refuse_unknown(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"{name}={value} is not one of {', '.join(known)}")
