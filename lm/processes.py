"""The processes of one job: how they find each other, which one writes, when they stop together."""

from __future__ import annotations

import os

import jax
from jax.experimental import multihost_utils

from lm.strict import ConfigError


def start_processes(timeout: int = 60) -> None:
    """Join the other processes where JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID are set.

    Call it before anything else of JAX. Without these variables it does nothing.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if address is None:
        return
    try:
        count, index = int(os.environ["JAX_NUM_PROCESSES"]), int(os.environ["JAX_PROCESS_ID"])
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"JAX_COORDINATOR_ADDRESS is set, so JAX_NUM_PROCESSES and JAX_PROCESS_ID must be whole numbers ({error})"
        ) from None
    try:
        jax.distributed.initialize(address, count, index, initialization_timeout=timeout)
    except RuntimeError as error:
        raise ConfigError(f"process {index} of {count} found no coordinator at {address}: {error}") from None


def is_main_process() -> bool:
    """Say whether this process writes the files that are written once."""
    return jax.process_index() == 0


def reached_preemption(step: int) -> bool:
    """Say whether all processes have agreed to save at this step (several processes only)."""
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)
