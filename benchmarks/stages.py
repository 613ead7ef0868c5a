"""Operations and bytes of the model's stages over a run's plan, shared and question by question.

    vision ─► prefix ─► suffix ─► head ─► more tokens (where text is generated)

Axis letters: G pictures of a pass, Q questions, K kept, P prefix, T suffix.
"""

from __future__ import annotations

import collections
import dataclasses

from benchmarks.workload import ITEMSIZE
from experiments.harness import accounts
from experiments.harness.batching import padded
from experiments.harness.grid import Setting
from experiments.harness.plan import Plan
from llava_jax import costs, traffic
from llava_jax.config import LlavaConfig

DECODER = ("prefix", "suffix", "head", "more tokens")


@dataclasses.dataclass(frozen=True)
class Work:
    """What a stage does.

    Attributes:
        flops: operations that count.
        bytes: moved between memory and processor.
        padding: operations on padding beside them.
    """

    flops: float = 0
    bytes: float = 0
    padding: float = 0

    def __add__(self, other: Work) -> Work:
        padding = self.padding + other.padding
        return Work(self.flops + other.flops, self.bytes + other.bytes, padding)

    def __mul__(self, times: float) -> Work:
        return Work(self.flops * times, self.bytes * times, self.padding * times)


def decoder(plan: Plan, setting: Setting, cfg: LlavaConfig, steps: int) -> dict[str, Work]:
    """Return what the decoder does under a setting, all pictures together.

    Args:
        plan: of the run.
        setting: with a budget of K tokens.
        cfg: the model.
        steps: tokens generated after the first; 0 reads the first alone.
    """
    text, questions = cfg.text, [q for group in plan.groups for q in group.questions]
    s, c, k = len(plan.prompt_ids), len(plan.common_ids), setting.budget
    flops = {"head": len(questions) * costs.head_flops(text), "more tokens": 0}
    if setting.inside:
        counts, first = accounts.computed(setting, cfg)
        shared = costs.cut_flops(text, s, counts, first, 0)[0] + costs.project_flops(cfg, counts[0])
    else:
        shared = costs.project_flops(cfg, k) + costs.extend_flops(text, s, k + c)
    flops["prefix"] = costs.extend_flops(text, 0, s) + len(plan.groups) * shared
    whole = accounts.flops(plan, setting, cfg)  # what is left of it are the suffixes
    flops["suffix"] = whole - flops["prefix"] - flops["head"]
    if steps:
        ends = (s + k + c + len(plan.suffixes[q[0].user_text]) for q in questions)
        flops["more tokens"] = steps * sum(costs.answer_flops(text, end, 1) for end in ends)
    moved, computed = collections.Counter[str](), 0
    for shape, times in passes(plan).items():
        for name, count in _moved(shape, setting, cfg, (s, c), steps).items():
            moved[name] += times * count
        one = _question(shape.suffix, setting, cfg, (s, c))
        computed += times * shape.images * shape.questions * one
    padding = {"suffix": computed - flops["suffix"] - flops["head"]}
    return {name: Work(flops[name], moved[name], padding.get(name, 0)) for name in DECODER}


def _question(length: int, setting: Setting, cfg: LlavaConfig, before: tuple[int, int]) -> int:
    """Return the operations of one question of so many own tokens, the head's among them."""
    s, c = before
    if setting.inside:
        counts, first = accounts.computed(setting, cfg)
        return costs.cut_flops(cfg.text, s, counts, first, c + length)[1]
    return costs.answer_flops(cfg.text, s + setting.budget + c, length)


def passes(plan: Plan) -> collections.Counter[costs.Batch]:
    """Return the shapes (G, Q, T) of the passes, padded as the harness pads them."""
    shapes = collections.Counter[costs.Batch]()
    for groups in plan.batches:
        asked = max(len(group.questions) for group in groups)
        texts = (q[0].user_text for group in groups for q in group.questions)
        questions, suffix = padded(asked, max(len(plan.suffixes[text]) for text in texts))
        shapes[costs.Batch(len(groups), questions, 0, suffix)] += 1
    return shapes


def _moved(
    shape: costs.Batch, setting: Setting, cfg: LlavaConfig, before: tuple[int, int], steps: int
) -> dict[str, int]:
    """Return the bytes that each stage of one pass moves."""
    (s, c), g, k, text = before, shape.images, setting.budget, cfg.text
    head = traffic.head_bytes(text, g * shape.questions, ITEMSIZE)
    if setting.inside:
        counts, first = accounts.computed(setting, cfg)
        asked = dataclasses.replace(shape, prefix=s, suffix=c + shape.suffix)
        prefix, suffix = traffic.cut_bytes(text, asked, counts, first, ITEMSIZE)
        k = counts[0]
    else:
        prefix = traffic.extend_bytes(text, costs.Batch(g, 1, s, k + c), ITEMSIZE)
        asked = dataclasses.replace(shape, prefix=s + k + c)
        suffix = traffic.answer_bytes(text, asked, ITEMSIZE)
    return {
        "prefix": prefix + traffic.project_bytes(cfg, g * k, ITEMSIZE),
        "suffix": suffix,
        "head": head,
        "more tokens": steps * traffic.step_bytes(text, asked, ITEMSIZE),
    }


def vision(plan: Plan, cfg: LlavaConfig) -> Work:
    """Return what the vision tower does for all pictures, once for all settings."""
    flops = len(plan.groups) * costs.encode_flops(cfg.vision)
    sizes = collections.Counter(map(len, plan.batches))
    moved = sum(times * traffic.encode_bytes(cfg.vision, g, ITEMSIZE) for g, times in sizes.items())
    return Work(flops, moved)


def alone(plan: Plan, setting: Setting, cfg: LlavaConfig, said: float) -> dict[str, Work]:
    """Return what asking every row by itself does, each with ``said`` tokens after the first."""
    counts, _ = accounts.computed(setting, cfg)
    before = len(plan.prompt_ids) + len(plan.common_ids)
    asked, more = Work(accounts.flops_alone(plan, setting, cfg), 0), Work()
    for length, rows in _rows(plan).items():
        text, end = before + length, before + length + counts[0]
        asked += Work(0, rows * traffic.alone_bytes(cfg, counts, text, ITEMSIZE))
        step = traffic.step_bytes(cfg.text, costs.Batch(1, 1, 0, end), ITEMSIZE)
        more += Work(costs.answer_flops(cfg.text, end, 1), step) * (said * rows)
    return {"first token": asked, "more tokens": more}


def _rows(plan: Plan) -> collections.Counter[int]:
    """Return tokens of a question → rows that ask one of that length."""
    found = collections.Counter[int]()
    for group in plan.groups:
        for rows in group.questions:
            found[len(plan.suffixes[rows[0].user_text])] += len(rows)
    return found
