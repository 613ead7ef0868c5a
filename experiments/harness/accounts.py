"""What a plan comes to, counted: tokens and operations, beside those of asking row by row.

Axis letters: N visual tokens, K kept, S text before the picture, C common start of the questions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.harness.grid import Setting
from llava_jax import costs
from llava_jax.config import LlavaConfig

if TYPE_CHECKING:
    from experiments.harness.plan import Plan


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
        counts, first = computed(setting, cfg)
        parts = [costs.cut_flops(cfg.text, s, counts, first, c + text) for text in texts]
        picture = costs.project_flops(cfg, counts[0]) + parts[0][0]
        return once + len(plan.groups) * picture + sum(question for _, question in parts)
    picture = costs.project_flops(cfg, k) + costs.extend_flops(cfg.text, s, k + c)
    pictures = len(texts) if setting.by_question else len(plan.groups)
    questions = sum(costs.answer_flops(cfg.text, s + k + c, text) for text in texts)
    return once + pictures * picture + questions


def flops_alone(plan: Plan, setting: Setting, cfg: LlavaConfig) -> int:
    """Count the operations if every row were asked by itself, vision tower included."""
    shared, (counts, _) = len(plan.prompt_ids) + len(plan.common_ids), computed(setting, cfg)
    return sum(
        rows * costs.alone_flops(cfg, counts, shared + len(ids)) for rows, ids in _asked(plan)
    )


def computed(setting: Setting, cfg: LlavaConfig) -> tuple[tuple[int, ...], int]:
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
