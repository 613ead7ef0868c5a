"""The paper's work as plans that need no data: as many pictures and questions as there are.

Sizes are the benchmarks' own; text lengths are log-normal with the mean and the 99th percentile
that Llama's tokenizer gives on them, in a fixed random order, and assumed where none is known.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections.abc import Sequence

import numpy as np

from experiments import catalogue
from experiments.harness import grid, memory
from experiments.harness.batching import ImageGroup
from experiments.harness.benchmark import Example
from experiments.harness.config import RunConfig
from experiments.harness.plan import Plan
from experiments.studies import definition
from llava_jax.config import LlavaConfig

ITEMSIZE = 2  # bytes: float16 on GPUs, bfloat16 on TPUs
PROMPT = 35
"""Tokens before the picture: BOS, system prompt, ``USER:`` and a blank (LLaVA-1.5, vicuna_v1)."""


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a benchmark is.

    Attributes:
        rows: questions as they are listed.
        questions: pairs of picture and question that differ.
        pictures: that differ.
        most: questions of one picture.
        common: tokens that all questions begin with.
        mean: tokens after the picture.
        high: their 99th percentile.
        longest: their maximum.
        said: tokens of an answer without the end token, where text is generated.
        steps: the same of the longest answer of a batch; assumed.
    """

    rows: int
    questions: int
    pictures: int
    most: int
    common: int
    mean: float
    high: int
    longest: int
    said: float = 1.0
    steps: int = 1

    @property
    def groups(self) -> tuple[ImageGroup, ...]:
        """As many pictures, each with its questions, each with the rows that ask it."""
        rest = _evenly(self.questions - self.most, self.pictures - 1)
        rows, lengths = iter(_evenly(self.rows, self.questions)), iter(self._lengths())
        return tuple(
            ImageGroup(str(i), tuple((_example(next(lengths)),) * next(rows) for _ in range(count)))
            for i, count in enumerate([self.most, *rest])
        )

    def _lengths(self) -> list[int]:
        """Return tokens of every question, the longest first, the others in a random order."""
        normal = statistics.NormalDist()
        z = normal.inv_cdf(0.99)
        sigma = z - math.sqrt(z**2 - 2 * math.log(self.high / self.mean))
        middle = math.log(self.mean) - sigma**2 / 2
        n = self.questions - 1
        drawn = [math.exp(middle + sigma * normal.inv_cdf((i + 0.5) / n)) for i in range(n)]
        some = np.random.default_rng(0).permutation(np.rint(drawn).astype(int))
        return [self.longest, *(min(int(length), self.longest) for length in some)]


SIZES = {
    "pope": Size(9000, 5127, 500, 12, 4, 26.7, 29, 29),
    "scienceqa": Size(2017, 2017, 2017, 1, 2, 96.7, 305, 544),
    "mme": Size(2374, 2374, 1187, 2, 2, 31.3, 43, 52),
    "mmbench": Size(4329, 4329, 1164, 4, 2, 83, 338, 655),
    "textvqa": Size(5000, 5000, 3166, 2, 2, 81, 285, 444, 3.1, 8),
    "seed": Size(17990, 17990, 17990, 1, 2, 80, 160, 240),
    "gqa": Size(12578, 12570, 398, 92, 2, 28.7, 39, 47, 1.4, 3),
}
"""Benchmark → its size: counted in the files that LLaVA-1.5 is evaluated with; SEED with videos."""


def _evenly(total: int, parts: int) -> list[int]:
    """Divide a number into parts that differ by at most one."""
    return [total * (i + 1) // parts - total * i // parts for i in range(parts)]


def _example(length: int) -> Example:
    """Return a question that is nothing but so many tokens long."""
    return Example(str(length), "", str(length), (), None, "")


def settings(run: definition.Run, num_tokens: int) -> dict[grid.Setting, int]:
    """Return the settings of a run, one for all that cost the same, and how many they are.

    Args:
        run: a benchmark's part of a study.
        num_tokens: visual tokens N of the model.
    """
    names = [field.name for field in dataclasses.fields(RunConfig)]
    usual = {"data": definition.HUB, "out": "", "seeds": (0,)}
    usual |= {"order": "raster", "positions": "contiguous"}
    configs = run.configs(RunConfig(**dict.fromkeys(names) | usual))
    found: dict[tuple[str, int], list[grid.Setting]] = collections.defaultdict(list)
    for setting in grid.settings(num_tokens, *configs):
        found[setting.name if setting.inside else "", setting.budget].append(setting)
    return {same[0]: len(same) for same in found.values()}


def plan(run: definition.Run, size: Size) -> Plan:
    """Plan a run as the harness does; ``fit`` it to a device.

    Args:
        run: a benchmark's part of a study.
        size: of the benchmark.
    """
    groups = size.groups
    lengths = {question[0].user_text for group in groups for question in group.questions}
    speaks = run.asked.get("route") == "generate"
    return Plan(
        groups=groups,
        prompt_ids=(0,) * PROMPT,
        common_ids=(0,) * size.common,
        suffixes={text: (0,) * (int(text) - size.common) for text in lengths},
        images_per_batch=1,
        max_new_tokens=catalogue.get(run.benchmark).max_new_tokens if speaks else None,
    )


def fit(
    made: Plan, settings_: Sequence[grid.Setting], cfg: LlavaConfig, room: float, replicas: int
) -> Plan:
    """Return a plan with as many pictures a pass as the harness would give devices.

    Args:
        made: the plan.
        settings_: of the run; the one that takes most memory decides.
        cfg: the model.
        room: bytes of a device beside the weights.
        replicas: of the model, which divide the pictures.
    """
    most = math.ceil(len(made.groups) / replicas)
    images = memory.batch_size(made, settings_, cfg, ITEMSIZE, room, most)
    return dataclasses.replace(made, images_per_batch=replicas * images)
