"""Accelerators by their data sheets."""

from __future__ import annotations

import dataclasses

from benchmarks.stages import Work
from llava_jax import checkpoint
from llava_jax.config import LlavaConfig

MFU = 0.45
"""Share of the peak that is reached, operations on padding included."""
_MEMORY_SHARE = 0.8  # that the harness fills


@dataclasses.dataclass(frozen=True)
class Device:
    """Chips that answer together: ``--mesh=data:<replicas>,model:<chips>``.

    Attributes:
        name: as the tables call it.
        peak: half-precision operations per second of a chip, dense.
        bandwidth: bytes per second between a chip and its memory.
        memory: bytes of a chip.
        source: of these numbers.
        chips: that share a replica of the model.
        replicas: that divide the pictures.
    """

    name: str
    peak: float
    bandwidth: float
    memory: float
    source: str
    chips: int = 1
    replicas: int = 1

    def seconds(self, *works: Work) -> float:
        """Return Σ max(operations / (peak · MFU), bytes / bandwidth) over works in a row."""
        return sum(max(self._computing(work), self._moving(work)) for work in works)

    def bound(self, work: Work) -> str:
        """Return what a work waits for."""
        return "compute" if self._computing(work) >= self._moving(work) else "memory"

    def room(self, cfg: LlavaConfig) -> float:
        """Return the bytes of a chip for activations."""
        return _MEMORY_SHARE * self.memory - checkpoint.num_bytes(cfg, "float16", None, self.chips)

    def _computing(self, work: Work) -> float:
        computed = work.flops + work.padding
        return computed / (self.peak * MFU * self.chips * self.replicas)

    def _moving(self, work: Work) -> float:
        return work.bytes / (self.bandwidth * self.chips * self.replicas)


DEVICES = (
    Device("H200", 989e12, 4.8e12, 141e9, "NVIDIA's data sheet, SXM, without sparsity"),
    Device("A100-80G", 312e12, 2.039e12, 80e9, "NVIDIA's data sheet, SXM, without sparsity"),
    Device(
        "TPU v5e-8",
        197e12,
        0.819e12,
        16e9,
        "docs.cloud.google.com/tpu/docs/v5e",
        chips=4,
        replicas=2,
    ),
)
