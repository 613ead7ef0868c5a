"""The plan of a run: what is computed once, in which batches, and what that costs.

It is a function of the whole run, not of what is left of it, so that a run that was interrupted
ends as one that was not. Axis letters: G pictures, S text before the picture, C common start of
the questions.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from experiments.harness import accounts, memory, terminal
from experiments.harness.batching import ImageGroup
from experiments.harness.grid import Setting
from experiments.harness.source import Source
from llava_jax import prompts
from llava_jax.anyres import Layout
from llava_jax.eviction import Eviction


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
        eviction: what is left in its cache; None for all.
        layouts: picture → where its tiles lie; nothing of a LLaVA-1.5.
    """

    groups: tuple[ImageGroup, ...]
    prompt_ids: tuple[int, ...]
    common_ids: tuple[int, ...]
    suffixes: Mapping[str, tuple[int, ...]]
    images_per_batch: int
    max_new_tokens: int | None = None
    eviction: Eviction | None = None
    layouts: Mapping[str, Layout] = dataclasses.field(default_factory=dict)

    @property
    def batches(self) -> tuple[tuple[ImageGroup, ...], ...]:
        """The pictures of each batch; those of one layout come together."""
        alike: dict[Layout | None, list[ImageGroup]] = {}
        for group in self.groups:
            alike.setdefault(self.layout(group), []).append(group)
        size = self.images_per_batch
        return tuple(
            tuple(groups[i : i + size])
            for groups in alike.values()
            for i in range(0, len(groups), size)
        )

    @functools.cached_property
    def kinds(self) -> tuple[Layout | None, ...]:
        """The layouts that occur; None of a LLaVA-1.5."""
        return tuple(dict.fromkeys(map(self.layout, self.groups)))

    def layout(self, group: ImageGroup) -> Layout | None:
        """Return where a picture's tiles lie; None of a LLaVA-1.5."""
        return self.layouts.get(group.image)

    def most_handed(self, setting: Setting) -> int:
        """Return the most tokens that the decoder is given of a picture under a setting."""
        return max(map(setting.handed, self.kinds))


def make(
    groups: tuple[ImageGroup, ...],
    grid: Sequence[Setting],
    source: Source,
    max_new_tokens: int | None = None,
    eviction: Eviction | None = None,
    layouts: Mapping[str, Layout] | None = None,
) -> Plan:
    """Plan a run.

    With eviction no start of the questions is shared: it belongs to what observes the prompt, and
    what observes it must not depend on the other questions of a run.

    Args:
        groups: all its pictures.
        grid: all its settings.
        source: the model.
        max_new_tokens: of a generated answer; None reads the first token only.
        eviction: what is left in its cache; None for all.
        layouts: picture → where its tiles lie, of a LLaVA-NeXT.
    """
    texts = dict.fromkeys(q[0].user_text for group in groups for q in group.questions)
    ids = {text: source.tokenizer.rest(prompts.vicuna_v1(text)[1]) for text in texts}
    common = [] if eviction else common_start(list(ids.values()))
    plan = Plan(
        groups=groups,
        prompt_ids=tuple(source.tokenizer.first(prompts.vicuna_v1("")[0])),
        common_ids=tuple(common),
        suffixes={text: tuple(tokens[len(common) :]) for text, tokens in ids.items()},
        images_per_batch=1,
        max_new_tokens=max_new_tokens,
        eviction=eviction,
        layouts=layouts or {},
    )
    return dataclasses.replace(plan, images_per_batch=memory.images_per_batch(plan, grid, source))


def common_start(sequences: Sequence[list[int]]) -> list[int]:
    """Return the longest common start that leaves every sequence a token of its own."""
    first, last = min(sequences), max(sequences)  # no two have less in common
    longest = min(map(len, sequences)) - 1
    same = [a == b for a, b in zip(first, last, strict=False)]
    return first[: min([*same, False].index(False), longest)]


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
    need = memory.estimate(plan, grid, source, plan.images_per_batch)
    pictures = len(plan.groups)
    lines = [
        terminal.inert(
            f"{name}: {rows} rows, {len(questions)} distinct questions, {pictures} pictures"
        ),
        f"tokens: {len(plan.prompt_ids)} before the picture, once; {len(plan.common_ids)} that all "
        f"questions begin with, once a picture; {min(lengths)}-{max(lengths)} of each question",
        f"{len(plan.batches)} batches of {plan.images_per_batch} pictures; {source.dtype}",
        f"memory: {need} (estimate)",
        *_tiles(plan),
        "",
        f"{'setting':<44}{'answers':>9}{'tokens':>13}{'alone':>13}{'TFLOP':>11}{'alone':>11}{'less':>8}",
    ]
    seen = accounts.vision_flops(plan, source.cfg)
    lines.append(f"{'vision tower, once for all settings':<44}{'':>35}{seen / 1e12:>11.4g}")
    n = source.cfg.vision.num_tokens
    for setting in grid:
        shared, alone = (
            count(plan, setting, n) for count in (accounts.tokens, accounts.tokens_alone)
        )
        ours = accounts.flops(plan, setting, source.cfg)
        theirs = accounts.flops_alone(plan, setting, source.cfg)
        lines.append(
            f"{setting.id:<44}{rows:>9}{shared:>13}{alone:>13}"
            f"{ours / 1e12:>11.4g}{theirs / 1e12:>11.4g}{theirs / (ours + seen):>7.1f}x"
        )
    lines.append("alone: every row asked by itself, picture and all; less: vision tower included")
    if plan.max_new_tokens is not None:
        lines.append(f"generated text, up to {plan.max_new_tokens} tokens a question, not counted")
    if plan.eviction is not None:
        lines.append(f"its cache: {plan.eviction}")
    return "\n".join(lines)


def _tiles(plan: Plan) -> list[str]:
    """Say in one line what a LLaVA-NeXT makes of the pictures."""
    kinds = [layout for layout in plan.kinds if layout]
    if not kinds:
        return []
    tiles, tokens = [k.num_tiles for k in kinds], [k.num_tokens for k in kinds]
    return [
        f"tiles: {min(tiles)}-{max(tiles)} a picture, {min(tokens)}-{max(tokens)} tokens unpruned; "
        f"{len(kinds)} layouts, each with programs of its own"
    ]
