"""The plan of a run: what is computed once, in which batches, and what that costs.

It is a function of the whole run, not of what is left of it, so that a run that was interrupted
ends as one that was not. Axis letters: G pictures, Q questions, N visual tokens, K kept, S text
before the picture, C common start of the questions, T suffix.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.harness.batching import ImageGroup, padded
from experiments.harness.grid import Setting
from experiments.harness.source import Source
from llava_jax import checkpoint, costs, prompts
from llava_jax.config import LlavaConfig

_TOKENS_PER_PASS = 2048
"""With fewer, an accelerator waits for the weights instead of computing."""
_MEMORY_SHARE = 0.8
"""Of an accelerator's memory; the rest is for what no estimate sees."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is computed once, and in which batches.

    Attributes:
        groups: the pictures with their distinct questions.
        prompt_ids: the S tokens before every picture, computed once per run.
        common_ids: the C tokens that every question starts with, computed once per picture.
        suffixes: user text → the tokens that are its own.
        images_per_batch: pictures G.
        max_new_tokens: of a generated answer; None reads the first token only.
    """

    groups: tuple[ImageGroup, ...]
    prompt_ids: tuple[int, ...]
    common_ids: tuple[int, ...]
    suffixes: Mapping[str, tuple[int, ...]]
    images_per_batch: int
    max_new_tokens: int | None = None

    @property
    def batches(self) -> tuple[tuple[ImageGroup, ...], ...]:
        """The pictures of each batch."""
        size = self.images_per_batch
        return tuple(self.groups[i : i + size] for i in range(0, len(self.groups), size))


def make(
    groups: tuple[ImageGroup, ...],
    grid: Sequence[Setting],
    source: Source,
    max_new_tokens: int | None = None,
) -> Plan:
    """Plan a run.

    Args:
        groups: all its pictures.
        grid: all its settings.
        source: the model.
        max_new_tokens: of a generated answer; None reads the first token only.
    """
    texts = dict.fromkeys(q[0].user_text for group in groups for q in group.questions)
    ids = {text: source.tokenizer.rest(prompts.vicuna_v1(text)[1]) for text in texts}
    common = common_start(list(ids.values()))
    plan = Plan(
        groups=groups,
        prompt_ids=tuple(source.tokenizer.first(prompts.vicuna_v1("")[0])),
        common_ids=tuple(common),
        suffixes={text: tuple(tokens[len(common) :]) for text, tokens in ids.items()},
        images_per_batch=1,
        max_new_tokens=max_new_tokens,
    )
    return dataclasses.replace(plan, images_per_batch=_images_per_batch(plan, grid, source))


def common_start(sequences: Sequence[list[int]]) -> list[int]:
    """Return the longest common start that leaves every sequence a token of its own."""
    first, last = min(sequences), max(sequences)  # no two have less in common
    longest = min(map(len, sequences)) - 1
    same = [a == b for a, b in zip(first, last, strict=False)]
    return first[: min([*same, False].index(False), longest)]


def _images_per_batch(plan: Plan, grid: Sequence[Setting], source: Source) -> int:
    """Return G: one picture on CPU, where larger batches fall out of the cache."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return 1
    available = (device.memory_stats() or {}).get("bytes_limit", math.inf)
    return batch_size(plan, grid, source.cfg, np.dtype(source.dtype).itemsize, available)


def batch_size(
    plan: Plan, grid: Sequence[Setting], cfg: LlavaConfig, itemsize: int, available: float
) -> int:
    """Return how many pictures an accelerator takes at once.

    So many that a pass has 2,048 tokens, fewer where the memory does not hold them, at least one.

    Args:
        plan: the run.
        grid: its settings; the one that takes most memory decides.
        cfg: the model's shapes.
        itemsize: bytes of a parameter.
        available: bytes of the device.
    """
    questions, suffix = _fullest(plan)
    wanted = min(math.ceil(_TOKENS_PER_PASS / (questions * suffix)), len(plan.groups))
    weights = checkpoint.num_parameters(cfg) * itemsize
    room = _MEMORY_SHARE * available - weights
    return max(
        [g for g in range(1, wanted + 1) if _peak(plan, grid, cfg, itemsize, g) <= room] + [1]
    )


def _fullest(plan: Plan) -> tuple[int, int]:
    """Return (questions of the fullest picture, tokens of the longest question), padded."""
    questions = max(len(group.questions) for group in plan.groups)
    return padded(questions, max(map(len, plan.suffixes.values())))


def _peak(plan: Plan, grid: Sequence[Setting], cfg: LlavaConfig, itemsize: int, images: int) -> int:
    return max(costs.peak_bytes(cfg, _shape(plan, s, cfg, images), itemsize) for s in grid)


def _shape(plan: Plan, setting: Setting, cfg: LlavaConfig, images: int) -> costs.Batch:
    """Return a batch's shape; where the question decides, each has a picture of its own."""
    questions, suffix = _fullest(plan)
    text, kept = len(plan.prompt_ids) + len(plan.common_ids), setting.budget
    said = plan.max_new_tokens or 0
    if not (setting.inside or setting.by_question):
        return costs.Batch(images, questions, text + kept, suffix, said)
    if setting.inside:
        counts, first = _computed(setting, cfg)
        kept = max(counts[first:])
    return costs.Batch(images * questions, 1, text + kept, suffix, said)


def describe(plan: Plan, grid: Sequence[Setting], source: Source, name: str) -> str:
    """Return the plan in words and numbers: what --dry_run prints.

    Args:
        plan: the run.
        grid: its settings.
        source: the model.
        name: of the data.
    """
    questions = [question for group in plan.groups for question in group.questions]
    rows = sum(map(len, questions))
    lengths = [len(ids) for ids in plan.suffixes.values()]
    itemsize = np.dtype(source.dtype).itemsize
    weights = checkpoint.num_parameters(source.cfg) * itemsize
    peak = _peak(plan, grid, source.cfg, itemsize, plan.images_per_batch)
    batches = len(plan.batches)
    lines = [
        f"{name}: {rows} rows, {len(questions)} distinct questions, {len(plan.groups)} pictures",
        f"tokens: {len(plan.prompt_ids)} before the picture, once; {len(plan.common_ids)} that all "
        f"questions begin with, once a picture; {min(lengths)}-{max(lengths)} of each question",
        f"{batches} batches of {plan.images_per_batch} pictures; {source.dtype}, weights "
        f"{_bytes(weights)}, a batch at most {_bytes(peak)} more (estimate)",
        "",
        f"{'setting':<44}{'answers':>9}{'tokens':>13}{'alone':>13}{'TFLOP':>11}{'alone':>11}{'less':>8}",
    ]
    seen = len(plan.groups) * costs.encode_flops(source.cfg.vision)
    lines.append(f"{'vision tower, once for all settings':<44}{'':>35}{seen / 1e12:>11.4g}")
    n = source.cfg.vision.num_tokens
    for setting in grid:
        shared, alone = (count(plan, setting, n) for count in (tokens, tokens_alone))
        ours, theirs = flops(plan, setting, source.cfg), flops_alone(plan, setting, source.cfg)
        lines.append(
            f"{setting.id:<44}{rows:>9}{shared:>13}{alone:>13}"
            f"{ours / 1e12:>11.4g}{theirs / 1e12:>11.4g}{theirs / (ours + seen):>7.1f}x"
        )
    lines.append("alone: every row asked by itself, picture and all; less: vision tower included")
    if plan.max_new_tokens is not None:
        lines.append(f"generated text, up to {plan.max_new_tokens} tokens a question, not counted")
    return "\n".join(lines)


def tokens(plan: Plan, setting: Setting, num_tokens: int) -> int:
    """Count the tokens that enter the decoder under a setting; N visual ones can."""
    shared = (num_tokens if setting.inside else setting.budget) + len(plan.common_ids)
    pictures = len(_asked(plan)) if setting.by_question else len(plan.groups)
    return len(plan.prompt_ids) + pictures * shared + sum(len(ids) for _, ids in _asked(plan))


def tokens_alone(plan: Plan, setting: Setting, num_tokens: int) -> int:
    """Count them if every row were asked by itself."""
    visual = num_tokens if setting.inside else setting.budget
    shared = len(plan.prompt_ids) + visual + len(plan.common_ids)
    return sum(rows * (shared + len(ids)) for rows, ids in _asked(plan))


def flops(plan: Plan, setting: Setting, cfg: LlavaConfig) -> int:
    """Count the operations of projector and decoder under a setting."""
    s, c, k = len(plan.prompt_ids), len(plan.common_ids), setting.budget
    texts = [len(ids) for _, ids in _asked(plan)]
    once = costs.extend_flops(cfg.text, 0, s)
    if setting.inside:
        counts, first = _computed(setting, cfg)
        parts = [costs.cut_flops(cfg.text, s, counts, first, c + text) for text in texts]
        picture = costs.project_flops(cfg, counts[0]) + parts[0][0]
        return once + len(plan.groups) * picture + sum(question for _, question in parts)
    picture = costs.project_flops(cfg, k) + costs.extend_flops(cfg.text, s, k + c)
    pictures = len(texts) if setting.by_question else len(plan.groups)
    questions = sum(costs.answer_flops(cfg.text, s + k + c, text) for text in texts)
    return once + pictures * picture + questions


def flops_alone(plan: Plan, setting: Setting, cfg: LlavaConfig) -> int:
    """Count the operations if every row were asked by itself, vision tower included."""
    shared, (counts, _) = len(plan.prompt_ids) + len(plan.common_ids), _computed(setting, cfg)
    return sum(
        rows * costs.alone_flops(cfg, counts, shared + len(ids)) for rows, ids in _asked(plan)
    )


def _computed(setting: Setting, cfg: LlavaConfig) -> tuple[tuple[int, ...], int]:
    """Return the visual tokens of every layer that is run, and the first that runs on fewer."""
    n, layers = cfg.vision.num_tokens, cfg.text.num_layers
    counts, cuts = setting.tokens_per_layer(n, layers), setting.cuts(n, layers)
    if not cuts:
        return counts, 0
    first, how = cuts[0].layer, cuts[0].how
    before = (n,) * first
    return {
        "drop": counts,
        "mask": (n,) * layers,
        "restart": before + counts,
    }[how], first


def realised(setting: Setting, cfg: LlavaConfig, plan: Plan) -> dict[str, Any]:
    """Return what a setting comes to, beside its nominal budget, as run.json shows it.

    Where the question decides how many tokens are left, these are upper bounds.

    Args:
        setting: with a budget of K tokens.
        cfg: the model.
        plan: of the run.
    """
    return {
        "visual_tokens_per_layer": setting.tokens_per_layer(
            cfg.vision.num_tokens, cfg.text.num_layers
        ),
        "flop": flops(plan, setting, cfg),
        "flop_alone": flops_alone(plan, setting, cfg),
    }


def _asked(plan: Plan) -> list[tuple[int, tuple[int, ...]]]:
    """Return (rows that ask it, tokens of its own) per picture and distinct question."""
    return [
        (len(question), plan.suffixes[question[0].user_text])
        for group in plan.groups
        for question in group.questions
    ]


def _bytes(count: float) -> str:
    return f"{count / 2**30:.3g} GiB" if count >= 2**29 else f"{count / 2**20:.3g} MiB"
