"""What a run is: all that decides its answers, as run.json has it and the fingerprint hashes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.harness import records
from experiments.harness.config import RunConfig
from experiments.harness.plan import Plan
from experiments.harness.source import Source
from llava_jax import prompts
from llava_jax.eviction import Eviction


def of(
    benchmark: str,
    config: RunConfig,
    source: Source,
    work: Plan,
    data: Mapping[str, Any],
    asked: Mapping[str, str],
) -> dict[str, Any]:
    """Return all that decides the answers of every setting.

    Args:
        benchmark: its name.
        config: the flags.
        source: the model.
        work: the plan.
        data: sha256 and number of rows.
        asked: how questions are asked.
    """
    first = work.groups[0].questions[0][0]
    confidence: dict[str, Any] = {"route": "first_token", "choices_of_row_0": first.choices}
    if work.max_new_tokens is not None:
        confidence |= {"route": "generate", "max_new_tokens": work.max_new_tokens}
    return {
        "schema": records.SCHEMA,
        "benchmark": benchmark,
        "weights": source.digest(),
        "model": dataclasses.asdict(source.cfg),
        "tokenizer": source.tokenizer.digest,
        "dtype": source.dtype,
        "quantization": source.quantization,
        "data": dict(data),
        "prompt": {
            "template": "vicuna_v1",
            "before": work.prompt_ids,
            "after_of_row_0": source.tokenizer.rest(prompts.vicuna_v1(first.user_text)[1]),
        },
        "asked": dict(asked) | ({} if work.eviction is None else _described(work.eviction)),
        "preprocessing": f"{config.preprocessing}-pillow-bicubic-{source.cfg.vision.image_size}",
        "confidence": confidence,
    }


def _described(how: Eviction) -> dict[str, Any]:
    """Return the flags that say what is left in the cache of a text."""
    found = {"kv_eviction": how.method, "kv_budget": how.budget}
    return found | ({"kv_window": how.window} if how.observers else {})
