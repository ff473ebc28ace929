"""A plan: what a recipe's training step needs of a topology, and how fast it can be there at best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lm.collectives import Collective, collectives, totals
from lm.config import MeshConfig, Recipe
from lm.mesh import AXES, FULL, check_layout, mesh_sizes
from lm.strict import ConfigError, nearest
from tpu.planning.chips import Chip, Topology
from tpu.planning.compiled import Compiled, compile_recipe
from tpu.planning.model import Trace, attention_flops, needs, trace, traffic
from tpu.planning.program import Work, work_of


@dataclass(frozen=True)
class Plan:
    """All quantities are those of one device and one step: bytes, operations, seconds.

    `memory` holds `limit`, `needed` (by the compiler where there is one) and `model` (by the model); the state and
    gradients counted from their shapes, activations and workspace by the model; and the compiler's arguments, outputs,
    temporaries and code. `seconds` are those of compute, memory, network and kernels at peak rates, and of the program
    by the compiler's own estimate, kernels and network left out.
    """

    recipe: str
    topology: str
    devices: int
    mesh: dict[str, int]
    batch_size: int
    accumulate: int
    remat: str
    tokens: int  # of all devices
    compiled: bool  # False: by the model alone
    fits: bool
    memory: dict[str, float]
    flops: dict[str, float]  # model: as written; step: as compiled, recomputation in
    bytes: float | None  # to and from memory
    collectives: list[dict[str, Any]]
    seconds: dict[str, float]
    bound: float
    mfu_bound: float
    compile_seconds: float | None
    note: str


def parse_mesh(text: str) -> MeshConfig:
    """Return a mesh from its spelling, fsdp=64,tensor=4; what it does not name is 1."""
    sizes: dict[str, int] = dict.fromkeys(AXES, 1)
    for part in text.split(","):
        axis, _, size = part.partition("=")
        if axis not in AXES:
            raise ConfigError(f"--mesh: no axis {axis!r}{nearest(axis, AXES)} (axes: {', '.join(AXES)})")
        if not size.removeprefix("-").isdecimal():
            raise ConfigError(f"--mesh: {axis} must be a whole number, got {size!r}")
        sizes[axis] = int(size)
    return MeshConfig(**sizes)


def plan(recipe: Recipe, topology: Topology, compiling: bool, traced: Trace | None = None) -> Plan:
    """Return the plan of a recipe on a topology: compiled where asked for, else by the model.

    Raises ConfigError where the mesh does not fit the topology or the batch.
    """
    sizes = mesh_sizes(recipe.mesh, topology.devices)
    recipe = replace(recipe, mesh=MeshConfig(**sizes))
    if topology.slices > 1 and sizes["data"] % topology.slices:
        raise ConfigError(f"mesh.data {sizes['data']} does not split over {topology.slices} slices")
    check_sizes(recipe, sizes)
    traced = trace(recipe) if traced is None else traced
    compiled = compile_recipe(recipe, topology) if compiling else None
    return _assembled(recipe, topology, sizes, traced, compiled)


def check_sizes(recipe: Recipe, sizes: Mapping[str, int]) -> None:
    """Raise ConfigError where a recipe cannot run on a mesh of these sizes."""
    from jax.sharding import AbstractMesh, AxisType

    check_layout(recipe, AbstractMesh(tuple(sizes[axis] for axis in AXES), AXES, (AxisType.Auto,) * len(AXES)))


def _assembled(
    recipe: Recipe, topology: Topology, sizes: dict[str, int], traced: Trace, compiled: Compiled | None
) -> Plan:
    chip, devices = topology.chip, topology.devices
    model = needs(recipe, devices, traced)
    memory = {"limit": chip.memory, "needed": model.peak, "model": model.peak, **model._asdict()}
    del memory["peak"]
    work, found = None, traffic(recipe, devices, traced)
    if compiled is not None:
        memory |= {"needed": compiled.needed, **compiled.memory}
        if compiled.fits:
            work, found = work_of(compiled.text), collectives(compiled.text, sizes)
    ideal = traced.flops / devices
    hidden = attention_flops(recipe, traced.batch) / devices
    # The stages of a pipeline wait for its first microbatches.
    waiting = 1 + (sizes["pipeline"] - 1) / (FULL * sizes["pipeline"])
    flops = {"model": ideal, "step": traced.again / devices * waiting}
    if work is not None:
        flops["step"] = work.flops + (hidden if work.kernels else 0.0)
    seconds = _seconds(chip, flops["step"], work, hidden) | {"network": network_seconds(found, sizes, topology)}
    least = bound(seconds)
    return Plan(
        recipe=recipe.name,
        topology=topology.name,
        devices=devices,
        mesh={axis: size for axis, size in sizes.items() if size > 1},
        batch_size=recipe.train.batch_size,
        accumulate=recipe.train.accumulate,
        remat=getattr(recipe.model, "remat", "none"),
        tokens=int(np.prod(traced.batch.positions.shape[:2])),
        compiled=compiled is not None,
        fits=memory["needed"] <= chip.memory if compiled is None else compiled.fits,
        memory=memory,
        flops=flops,
        bytes=None if work is None else work.bytes,
        collectives=_summed(found),
        seconds=seconds,
        bound=least,
        mfu_bound=ideal / chip.flops / least,
        compile_seconds=None if compiled is None else round(compiled.seconds, 1),
        note="" if compiled is None or compiled.fits else compiled.said,
    )


def _seconds(chip: Chip, flops: float, work: Work | None, hidden: float) -> dict[str, float]:
    seconds = {"compute": flops / chip.flops}
    if work is not None:
        seconds["memory"] = work.bytes / chip.bandwidth
        if work.kernels:  # the compiler does not look into them: taken at the peak rate
            seconds["kernels"] = hidden / chip.flops
        if chip.clock is not None:
            seconds["compiler"] = work.cycles / chip.clock
    return seconds


def bound(seconds: Mapping[str, float]) -> float:
    """Return the longest of compute, memory, network, and the compiler's program with its kernels."""
    program = seconds.get("compiler", 0.0) + seconds.get("kernels", 0.0)
    return max(program, *(seconds.get(kind, 0.0) for kind in ("compute", "memory", "network")))


def network_seconds(found: Sequence[Collective], sizes: Mapping[str, int], topology: Topology) -> float:
    """Return the time that a step's collectives take at least, all links of a device in use at once.

    Within an island (a slice, a host of GPUs) over the fast links, between islands over the network: there each device
    of an island receives its share of what the island lacks.
    """
    return sum(each.count * _collective_seconds(each, sizes, topology) for each in found)


def _collective_seconds(each: Collective, sizes: Mapping[str, int], topology: Topology) -> float:
    chip = topology.chip
    islands = _islands(each.axes, sizes, topology)
    members = math.prod(sizes[axis] for axis in each.axes)
    inside = max(members // islands, 1)
    if each.kind == "collective-permute":
        return each.bytes / (chip.network if islands > 1 else chip.links * chip.link)
    size = each.bytes * (2 if each.kind == "all-reduce" else 1)
    near = size * (inside - 1) / inside / (chip.links * chip.link)
    return max(near, size * (islands - 1) / islands / inside / chip.network)


def _islands(axes: Sequence[str], sizes: Mapping[str, int], topology: Topology) -> int:
    """Return over how many islands a group along these axes of the mesh is spread; devices are numbered as in it."""
    places = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
    group = places[tuple(slice(None) if axis in axes else 0 for axis in sizes)]
    return len(np.unique(group // topology.island))


def _summed(found: Sequence[Collective]) -> list[dict[str, Any]]:
    sums = sorted(totals(found).items(), key=lambda entry: -entry[1][1])
    return [{"kind": kind, "axes": list(axes), "count": n, "bytes": size} for (kind, axes), (n, size) in sums]
