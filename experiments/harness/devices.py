"""From flags to devices: which processes work together, and which devices share a model.

--distributed   joins the processes of a cluster; each answers its share of the pictures with a
                model of its own, and the first seals and reports when all are done
--mesh          divides pictures (data) and decoder (model) among devices: this process's own,
                or, where it takes more than those, among all processes', which then answer
                everything together with one model
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
from collections.abc import Mapping

import jax
from absl import logging
from jax.sharding import Mesh

from experiments.harness.config import RunConfig
from experiments.harness.errors import InputError, UsageError
from llava_jax import sharding

_CLUSTER = {
    "JAX_COORDINATOR_ADDRESS": "",
    "SLURM_STEP_NUM_TASKS": "1",
    "OMPI_COMM_WORLD_SIZE": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
"""Variables that say that a process is one of several, and what they hold if it is alone."""
_A_WEEK = 7 * 24 * 3600 * 1000
"""Milliseconds that a process waits for the others; one that has died is noticed long before."""


@dataclasses.dataclass(frozen=True)
class Place:
    """What a process is among those it works with.

    Attributes:
        mesh: of the devices that share a model; None for one device.
        index: of the process, from 0.
        count: of the processes that were joined; 1 for a process that knows of no other.
    """

    mesh: Mesh | None = None
    index: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process seals and reports."""
        return self.index == 0

    @property
    def records(self) -> bool:
        """Whether this process writes what it answers; of those that share a model one does."""
        return self.leads or not self._shares_a_model

    @property
    def _shares_a_model(self) -> bool:
        return self.mesh is not None and self.mesh.is_multi_process

    def share(self, config: RunConfig) -> RunConfig:
        """Return the flags with the share of the pictures that falls to this process."""
        if self.count == 1:
            return config
        count, index = (1, 0) if self._shares_a_model else (self.count, self.index)
        return dataclasses.replace(config, num_processes=count, process_id=index)

    def wait(self) -> None:
        """Wait until every process that was joined has come here.

        At the coordinator, not by devices, whose libraries give up after half a minute. Where one
        has died, JAX ends the others.
        """
        if self.count == 1:
            return
        from orbax.checkpoint import multihost

        with concurrent.futures.ThreadPoolExecutor(1, "others") as pool:
            how = {"key": "answered", "timeout_ms": _A_WEEK}
            answered = pool.submit(multihost.get_barrier_sync_fn(), **how)
            while not answered.done():  # signals are heard in between
                concurrent.futures.wait([answered], timeout=1)
            answered.result()


def find(config: RunConfig) -> Place:
    """Join the processes of a cluster once, before any device is used, and lay out the devices.

    Args:
        config: the flags; JAX's and the cluster's own variables say what they leave out.

    Raises:
        UsageError: ``--distributed=on``, and nothing says where the others are; or ``--mesh``
            cannot be read, or takes devices that are not there.
        InputError: the others cannot be reached.
    """
    alone = config.distributed == "off" or (config.distributed == "auto" and not _in_a_cluster())
    if not alone and not jax.distributed.is_initialized():
        _join(config)
    return Place(mesh(config.mesh), *(() if alone else (jax.process_index(), jax.process_count())))


def _join(config: RunConfig) -> None:
    """Make the processes of a cluster known to each other."""
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is the harness's
    told = config.num_processes > 1
    try:
        jax.distributed.initialize(
            num_processes=config.num_processes if told else None,
            process_id=config.process_id if told else None,
        )
    except ValueError as error:
        raise UsageError(
            f"--distributed={config.distributed}: {error}; outside Slurm, Open MPI and TPU pods "
            "JAX_COORDINATOR_ADDRESS=host:port, --num_processes and --process_id say it"
        ) from None
    except RuntimeError as error:
        raise InputError(f"--distributed={config.distributed}: {error}") from None
    logging.info("process %d of %d", jax.process_index(), jax.process_count())


def _refuse_part(sizes: Mapping[str, int], own: int) -> None:
    """Refuse a mesh over several processes that is not one model over all their devices.

    Raises:
        ValueError: it is not.
    """
    if sizes != {sharding.DATA: 1, sharding.MODEL: jax.device_count()}:
        raise ValueError(
            f"over several processes there is one model, model:{jax.device_count()}; a mesh of "
            f"the {own} devices of each process divides the pictures among the processes"
        )


def _in_a_cluster(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether this process was started as one of several."""
    return any(environment.get(name, "") not in ("", alone) for name, alone in _CLUSTER.items())


def mesh(flag: str | None) -> Mesh | None:
    """Return the mesh that ``--mesh`` asks for; None for one device.

    Without the flag all accelerators of this process divide the pictures. A CPU is one device:
    virtual ones share its cores.

    Raises:
        UsageError: it cannot be read, or takes devices that are not there.
    """
    here = jax.local_devices()
    if flag is None:
        alone = here[0].platform == "cpu" or len(here) == 1
        return None if alone else sharding.make_mesh(len(here), 1)
    try:
        sizes = sharding.parse(flag)
        spans = sizes[sharding.DATA] * sizes[sharding.MODEL] > len(here)
        if spans and jax.process_count() > 1:
            _refuse_part(sizes, len(here))
        return sharding.make_mesh(**sizes, devices=jax.devices() if spans else here)
    except ValueError as error:
        raise UsageError(f"--mesh={flag}: {error}") from None
