"""A recipe's own training program, compiled by the TPU compiler for a topology that is not there.

Nothing is allocated: state and batches are shapes, and the compiler needs no device. It comes with the extra `tpu`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm.config import Recipe
from lm.exits import UserError
from lm.types import Batch, Example, Source
from tpu.planning.chips import Topology

# Without these libtpu asks its machine which TPU it has, complains that it has none, and lets one process in.
QUIET = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class Compiled(NamedTuple):
    """What the compiler made, or why it made nothing."""

    fits: bool
    seconds: float
    memory: Mapping[str, int]  # by the compiler's own account; empty where the program does not fit
    needed: float  # bytes on a device
    text: str  # of the program
    said: str  # why it does not fit
    mesh: Any


def devices_of(topology: Topology) -> list[Any]:
    """Return the devices of a topology; UserError where the compiler is missing or does not know it."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    settings: dict[str, Any] = {"num_slices": topology.slices} if topology.slices > 1 else {}
    if topology.chip.name == "v4":
        settings["chip_config_name"] = "megacore"  # one device a chip, as its machines have it
    try:
        return list(topologies.get_topology_desc(topology.slice_name, "tpu", **settings).devices)
    except RuntimeError as error:
        if "not installed" in str(error):
            raise UserError("the TPU compiler is not installed: pip install 'cambium-lm[tpu]'") from None
        raise UserError(f"the installed TPU compiler does not know {topology.name}: {error}") from None


def stand_in(recipe: Recipe) -> Source:
    """Return a source with batches of the recipe's shapes; where they come from a corpus it need not be there."""
    from lm.data.packing import FIELDS

    length = getattr(recipe.data, "length", None)
    if length is None:
        with tempfile.TemporaryDirectory() as folder:
            return recipe.task.source(recipe, Path(folder))
    shape = (recipe.train.batch_size, length)
    batch = Example(**{name: np.zeros(shape, dtype) for name, dtype in FIELDS.items()}, info={})
    return Source(None, lambda step: batch, _never, {})


def _never(*_: Any) -> Any:
    raise AssertionError("a plan examines nothing")


def compile_recipe(recipe: Recipe, topology: Topology) -> Compiled:
    """Compile the stretch of steps that training a recipe on a topology runs."""
    import jax

    from lm.memory import needed

    lowered, mesh = lower(recipe, devices_of(topology))
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            # Written by the compiler itself: as_text() fails on the asynchronous programs of v5p, v6e and tpu7x.
            compiled = lowered.compile({"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        except jax.errors.JaxRuntimeError as error:
            said, sizes = str(error).splitlines()[0], needed(str(error))
            if sizes is None:
                raise UserError(f"the TPU compiler refuses {recipe.name} on {topology.name}: {said}") from None
            return Compiled(False, time.monotonic() - begun, {}, sizes[0], "", said, mesh)
        seconds = time.monotonic() - begun
        text = max(Path(folder).glob("*.after_codegen.txt"), key=lambda file: file.stat().st_size).read_text()
    memory = memory_of(compiled)
    return Compiled(True, seconds, memory, float(memory["peak"]), text, "", mesh)


def lower(recipe: Recipe, devices: Sequence[Any]) -> tuple[Any, Any]:
    """Return the training program of a recipe on devices, ready to be compiled, and their mesh."""
    import jax

    from lm.mesh import batch_sharding
    from lm.train import prepare

    run = prepare(recipe, Path(), stand_in(recipe), devices)
    mesh = jax.tree.leaves(run.target)[0].sharding.mesh
    batches = None
    if run.source.at is not None:
        batches = _stacked(run.batch, recipe.train.steps_per_dispatch, batch_sharding(mesh, leading=1))
    stretch: Any = run.stretch
    return stretch.lower(run.target, batches, jax.ShapeDtypeStruct((), np.int32)), mesh


def _stacked(batch: Batch, count: int, sharding: Any) -> Any:
    import jax

    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype, sharding=sharding), batch)


def memory_of(compiled: Any) -> dict[str, int]:
    """Return the bytes of a compiled program on one device, by kind; results that overwrite arguments are aliased."""
    stats = compiled.memory_analysis()
    found = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "aliased": stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    return found | {"peak": found["arguments"] + found["outputs"] - found["aliased"] + found["temporaries"]}
