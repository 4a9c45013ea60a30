"""Processes: join the others when the environment says that there are several hosts, and who is the first."""

import os

import jax

from humpback.errors import UserError


def start() -> None:
    """Calls `jax.distributed.initialize` when this process is one of several. Before anything else touches JAX.

    On Cloud TPU the environment names the hosts and nothing else is needed. Elsewhere JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID say it.
    """
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        try:
            count, index = (int(os.environ[name]) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
        except (KeyError, ValueError) as error:
            raise UserError(
                "JAX_COORDINATOR_ADDRESS is set, so JAX_NUM_PROCESSES and JAX_PROCESS_ID must be whole numbers, too "
                f"({error}); set them, or unset all three to run alone"
            ) from error
        if count > 1:
            jax.distributed.initialize(os.environ["JAX_COORDINATOR_ADDRESS"], count, index)
    elif len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1 or "MEGASCALE_COORDINATOR_ADDRESS" in os.environ:
        jax.distributed.initialize()


def is_first() -> bool:
    """Whether this process is the one that writes records and draws progress."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
