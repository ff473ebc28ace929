"""Memory: none is held that nobody needs, and one sentence with numbers and knobs where it is too small all the same.

with trimmed(), explained(recipe):
    state, metrics = stretch(state, batch, count)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import sys
from collections.abc import Iterator

import jax
from jax import monitoring

from lm.config import Recipe
from lm.exits import UserError

# As the runtime says it (CPU, GPU), and as the TPU compiler does.
BYTES = re.compile(r"[Oo]ut of memory (?:while trying to allocate|allocating) (\d+) ?bytes")
COMPILED = re.compile(r"(?:Used |\()([\d.]+)([KMGT]?)\)? (?:of |exceeds\D*)([\d.]+)([KMGT]?)")
GIB = 2**30
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}
COMPILING, LONG = "/jax/core/compile/backend_compile_duration", 0.3  # what JAX reports, seconds from which it counts


@contextlib.contextmanager
def trimmed() -> Iterator[None]:
    """Give back to the system, before a program runs, what its compilation has left behind.

    On CPU that is 200 to 300 MB, which the GNU C library would keep beside all that a step needs.
    """
    trim = getattr(ctypes.CDLL(None) if sys.platform == "linux" else None, "malloc_trim", None)

    def react(event: str, duration_secs: float, **_: str | int) -> None:
        if trim is not None and event == COMPILING and duration_secs > LONG:
            trim(0)

    monitoring.register_event_duration_secs_listener(react)
    try:
        yield
    finally:
        monitoring.unregister_event_duration_listener(react)


@contextlib.contextmanager
def explained(recipe: Recipe) -> Iterator[None]:
    """Raise UserError in place of an allocation that fails within the context."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"{shortage(str(error), limit())}; {knobs(recipe)}") from error


def shortage(said: str, limit: float) -> str:
    """Return how much memory was asked for, and of how much: from the error's own words where they tell both."""
    if sizes := needed(said):
        wanted, there = (size / GIB for size in sizes)
        return f"out of memory: the program needs {wanted:.2f} GiB of the {there:.2f} GiB of a device"
    asked = f"{int(found[1]) / GIB:.2f} GiB more" if (found := BYTES.search(said)) else "more"
    return f"out of memory: {asked} asked for, a device has {limit:.2f} GiB in all"


def needed(said: str) -> tuple[float, float] | None:
    """Return the bytes of a program that the TPU compiler found too large and of a device; None where it said else."""
    found = COMPILED.search(said) if "Ran out of memory" in said else None
    return found and (float(found[1]) * UNITS[found[2]], float(found[3]) * UNITS[found[4]])


def limit() -> float:
    """Return the memory of a device in GiB: its own, or on CPU what this process may use."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] / GIB
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (here if allowed == resource.RLIM_INFINITY else min(here, allowed)) / GIB


def knobs(recipe: Recipe) -> str:
    """Return what a recipe may change to need less, what costs least first."""
    train, model = recipe.train, recipe.model
    parts = next((n for n in range(train.accumulate + 1, train.batch_size + 1) if train.batch_size % n == 0), None)
    ways = [] if parts is None else [f"--train.accumulate {parts}"]
    if getattr(model, "remat", None) == "none":
        ways.append("--model.remat full")
    ways.append(f"more devices that share the model (--mesh.fsdp, now {recipe.mesh.fsdp})")
    return f"try, in this order: {', then '.join(ways)}"
