"""What a plan comes to, counted: tokens and operations, beside those of asking row by row.

Axis letters: N visual tokens, K kept, S text before the picture, C common start of the questions.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiments.harness.grid import Setting
from llava_jax import costs
from llava_jax.anyres import Layout
from llava_jax.config import LlavaConfig

if TYPE_CHECKING:
    from experiments.harness.plan import Plan


def tokens(plan: Plan, setting: Setting, num_tokens: int) -> int:
    """Count the tokens that enter the decoder under a setting; N visual ones can."""
    visual = [num_tokens if setting.inside else k for k in _handed(plan, setting)]
    shared = sum(visual) + len(visual) * len(plan.common_ids)
    return len(plan.prompt_ids) + shared + sum(len(ids) for _, ids, _ in _asked(plan))


def tokens_alone(plan: Plan, setting: Setting, num_tokens: int) -> int:
    """Count them if every row were asked by itself."""
    shared = len(plan.prompt_ids) + len(plan.common_ids)
    return sum(
        rows * (shared + (num_tokens if setting.inside else setting.handed(layout)) + len(ids))
        for rows, ids, layout in _asked(plan)
    )


def vision_flops(plan: Plan, cfg: LlavaConfig) -> int:
    """Count the operations that encode every picture once, with all its tiles."""
    squares = sum(_squares(plan.layout(group)) for group in plan.groups)
    return squares * costs.encode_flops(cfg.vision)


def flops(plan: Plan, setting: Setting, cfg: LlavaConfig) -> int:
    """Count the operations of projector and decoder under a setting."""
    s, c, asked = len(plan.prompt_ids), len(plan.common_ids), _asked(plan)
    once = costs.extend_flops(cfg.text, 0, s)
    if setting.inside:
        counts, first = computed(setting, cfg)
        texts = [c + len(ids) for _, ids, _ in asked]
        parts = [costs.cut_flops(cfg.text, s, counts, first, text) for text in texts]
        picture = costs.project_flops(cfg, counts[0]) + parts[0][0]
        return once + len(plan.groups) * picture + sum(question for _, question in parts)
    pictures = sum(
        costs.project_flops(cfg, k) + costs.extend_flops(cfg.text, s, k + c)
        for k in _handed(plan, setting)
    )
    questions = sum(
        costs.answer_flops(cfg.text, s + setting.handed(layout) + c, len(ids))
        for _, ids, layout in asked
    )
    return once + pictures + questions


def flops_alone(plan: Plan, setting: Setting, cfg: LlavaConfig) -> int:
    """Count the operations if every row were asked by itself, vision tower included."""
    shared = len(plan.prompt_ids) + len(plan.common_ids)
    tower = costs.encode_flops(cfg.vision, cfg.vision.num_layers)
    total = 0
    for rows, ids, layout in _asked(plan):
        counts, _ = computed(setting, cfg, layout)
        alone = costs.alone_flops(cfg, counts, shared + len(ids))
        total += rows * (alone + (_squares(layout) - 1) * tower)
    return total


def computed(
    setting: Setting, cfg: LlavaConfig, layout: Layout | None = None
) -> tuple[tuple[int, ...], int]:
    """Return the visual tokens of every layer that is run, and the first that runs on fewer."""
    n, layers = cfg.vision.num_tokens, cfg.text.num_layers
    if layout is not None:
        return (setting.handed(layout),) * layers, 0
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

    Where the question decides how many tokens are left, these are upper bounds; of a LLaVA-NeXT
    they are means over pictures.

    Args:
        setting: with a budget of K tokens.
        cfg: the model.
        plan: of the run.
    """
    layers = cfg.text.num_layers
    per_layer: Sequence[float] = setting.tokens_per_layer(cfg.vision.num_tokens, layers)
    if plan.layouts:
        per_layer = (statistics.fmean(_handed(plan, setting)),) * layers
    return {
        "visual_tokens_per_layer": per_layer,
        "flop": flops(plan, setting, cfg),
        "flop_alone": flops_alone(plan, setting, cfg),
    }


def _handed(plan: Plan, setting: Setting) -> list[int]:
    """Return how many tokens the decoder is given of each picture, or for each question."""
    if setting.by_question:
        return [setting.handed(layout) for *_, layout in _asked(plan)]
    return [setting.handed(plan.layout(group)) for group in plan.groups]


def _squares(layout: Layout | None) -> int:
    """Return how many squares the vision tower sees of a picture."""
    return layout.num_tiles if layout else 1


def _asked(plan: Plan) -> list[tuple[int, tuple[int, ...], Layout | None]]:
    """Return (rows that ask it, tokens of its own, layout) per picture and distinct question."""
    return [
        (len(question), plan.suffixes[question[0].user_text], plan.layout(group))
        for group in plan.groups
        for question in group.questions
    ]
