"""Does a run fit into memory: estimates before it begins, and what to do when it does not.

Axis letters: G pictures, Q questions, K kept, T suffix.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from experiments.harness.accounts import computed
from experiments.harness.batching import padded
from experiments.harness.errors import InterruptedRunError
from experiments.harness.grid import Setting
from experiments.harness.source import Source
from llava_jax import costs, sharding
from llava_jax.config import LlavaConfig

if TYPE_CHECKING:
    from experiments.harness.plan import Plan

_TOKENS_PER_PASS = 2048
"""With fewer, an accelerator waits for the weights instead of computing."""
_MEMORY_SHARE = 0.8
"""Of an accelerator's memory; the rest is for what no estimate sees."""
REMEDIES = (
    "--dtype=bfloat16 (or float16) halves weights and activations of float32",
    "fewer tokens: a smaller --budget, --max_new_tokens, or one setting a run",
    "free the device of other programs, or JAX_PLATFORMS=cpu",
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes that a run needs, as far as they can be foreseen.

    Attributes:
        weights: of the model, on each device.
        batch: of the largest batch, beside them.
        available: of a device; None if it does not say.
    """

    weights: int
    batch: int
    available: int | None

    @property
    def fits(self) -> bool:
        """Whether it is likely to fit."""
        return self.available is None or self.weights + self.batch <= self.available

    def __str__(self) -> str:
        known = "" if self.available is None else f"; {_bytes(self.available)} are there"
        return f"weights {_bytes(self.weights)}, a batch at most {_bytes(self.batch)} more{known}"


def estimate(plan: Plan, grid: Sequence[Setting], source: Source, images: int) -> Estimate:
    """Estimate the memory of a run.

    Args:
        plan: the run.
        grid: its settings; the one that takes most memory decides.
        source: the model.
        images: pictures of a batch.
    """
    itemsize = np.dtype(source.dtype).itemsize
    each = math.ceil(images / _data_parts(source))
    return Estimate(source.num_bytes, peak(plan, grid, source.cfg, itemsize, each), _available())


def exhausted(error: BaseException) -> bool:
    """Return whether a device said that its memory is full."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


@contextlib.contextmanager
def said(need: Callable[[], Estimate]) -> Iterator[None]:
    """Say what helps where a device's memory is too small even for one picture.

    Args:
        need: estimates a batch of one.

    Raises:
        InterruptedRunError: it is.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not exhausted(error):
            raise
        remedies = "; or ".join(REMEDIES)
        line = f"out of memory with one picture a batch: {need()} (estimate); try {remedies}"
        raise InterruptedRunError(line) from None


def _available() -> int | None:
    """Return the bytes of the first device, for a CPU those that are free now."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    meminfo = pathlib.Path("/proc/meminfo")
    for line in meminfo.read_text("utf-8").splitlines() if meminfo.is_file() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 2**10
    return None


def images_per_batch(plan: Plan, grid: Sequence[Setting], source: Source) -> int:
    """Return G, a multiple of the devices that divide the pictures.

    One picture a device on CPU, where larger batches fall out of the cache.
    """
    devices = _data_parts(source)
    if jax.local_devices()[0].platform == "cpu":
        return devices
    itemsize, available = np.dtype(source.dtype).itemsize, _available()
    room = math.inf if available is None else _MEMORY_SHARE * available - source.num_bytes
    most = math.ceil(len(plan.groups) / devices)
    return devices * batch_size(plan, grid, source.cfg, itemsize, room, most)


def batch_size(
    plan: Plan, grid: Sequence[Setting], cfg: LlavaConfig, itemsize: int, room: float, most: int
) -> int:
    """Return how many pictures an accelerator takes at once.

    So many that a pass has 2,048 tokens, fewer where the memory does not hold them, at least one.

    Args:
        plan: the run.
        grid: its settings; the one that takes most memory decides.
        cfg: the model's shapes.
        itemsize: bytes of an activation.
        room: bytes of the device beside the weights.
        most: pictures that there are for it.
    """
    questions, suffix = _fullest(plan)
    wanted = min(math.ceil(_TOKENS_PER_PASS / (questions * suffix)), most)
    return max(
        [g for g in range(1, wanted + 1) if peak(plan, grid, cfg, itemsize, g) <= room] + [1]
    )


def _data_parts(source: Source) -> int:
    """Return how many devices divide the pictures."""
    return source.mesh.shape[sharding.DATA] if source.mesh else 1


def _fullest(plan: Plan) -> tuple[int, int]:
    """Return (questions of the fullest picture, tokens of the longest question), padded."""
    questions = max(len(group.questions) for group in plan.groups)
    return padded(questions, max(map(len, plan.suffixes.values())))


def peak(plan: Plan, grid: Sequence[Setting], cfg: LlavaConfig, itemsize: int, images: int) -> int:
    """Estimate the bytes of a batch of pictures beside the weights."""
    shapes = [_shape(plan, setting, cfg, images) for setting in grid]
    tiles = max((layout.num_tiles for layout in plan.kinds if layout), default=1)
    shapes.append(costs.Batch(images * tiles, 0, 0, 0))  # the vision tower's
    return max(costs.peak_bytes(cfg, shape, itemsize) for shape in shapes)


def _shape(plan: Plan, setting: Setting, cfg: LlavaConfig, images: int) -> costs.Batch:
    """Return a batch's shape; where the question decides, each has a picture of its own."""
    questions, suffix = _fullest(plan)
    text, kept = len(plan.prompt_ids) + len(plan.common_ids), plan.most_handed(setting)
    said = plan.max_new_tokens or 0
    if plan.eviction:  # what is kept is a copy of each question's own
        said += plan.eviction.budget
    if not (setting.inside or setting.by_question):
        return costs.Batch(images, questions, text + kept, suffix, said)
    if setting.inside:
        counts, first = computed(setting, cfg)
        kept = max(counts[first:])
    return costs.Batch(images * questions, 1, text + kept, suffix, said)


def _bytes(count: float) -> str:
    return f"{count / 2**30:.3g} GiB" if count >= 2**29 else f"{count / 2**20:.3g} MiB"
