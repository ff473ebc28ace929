"""The meshes and remat policies that make sense for a recipe on a topology: ranked by the model, the best compiled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lm.config import MeshConfig, Recipe, TransformerConfig
from lm.exits import UserError
from lm.models.layers import REMAT
from lm.models.transformer import resolve
from lm.strict import ConfigError
from tpu.planning.chips import Topology
from tpu.planning.model import Trace, needs, trace
from tpu.planning.plans import Plan, bound, check_sizes, plan

MOST = 8  # devices along an axis that splits a layer: more wait for each other longer than they compute
ROOM = 0.75  # share of the memory that the model's peak may fill, for it is not exact
TRIES = 3  # plans that are compiled in place of those that turn out too large


def search(recipe: Recipe, topology: Topology, compiles: int) -> list[Plan]:
    """Return the plans of all candidates, best first; the `compiles` best of those that fit stand compiled in front.

    Where the compiler finds one too large that the model let in, the next is compiled as well.

    Raises UserError where no mesh suits the batch.
    """
    ranked, recipes = [], []
    for candidate, traced in candidates(recipe, topology):
        ranked.append(plan(candidate, topology, False, traced))
        recipes.append((candidate, traced))
    if not ranked:
        raise UserError(f"no mesh of {topology.devices} devices suits batches of {recipe.train.batch_size}")
    order = sorted(range(len(ranked)), key=lambda i: rank(ranked[i]))
    best: list[Plan] = []
    for i in order:
        if sum(each.fits for each in best) == compiles or len(best) == compiles + TRIES or not ranked[i].fits:
            break
        best.append(plan(recipes[i][0], topology, True, recipes[i][1]))
    return sorted(best + [ranked[i] for i in order[len(best) :]], key=lambda each: (not each.compiled, *rank(each)))


def rank(found: Plan) -> tuple[bool, float]:
    """Return what plans are sorted by: by the step, as if the network overlapped with nothing; behind them by need."""
    room = 1.0 if found.compiled else ROOM
    fits = found.fits and found.memory["needed"] <= room * found.memory["limit"]
    if not fits:
        return True, found.memory["needed"]
    return False, bound(found.seconds | {"network": 0.0}) + found.seconds["network"]


def candidates(recipe: Recipe, topology: Topology) -> Iterator[tuple[Recipe, Trace]]:
    """Yield the recipe on every mesh with every policy, each with the fewest micro-batches that fit."""
    for policy in policies(recipe):
        traced = trace(policy)
        for mesh in meshes(recipe, topology):
            yield _in_parts(replace(policy, mesh=mesh), topology, traced), traced


def policies(recipe: Recipe) -> list[Recipe]:
    """Return the recipe with each remat policy."""
    if not isinstance(recipe.model, TransformerConfig):
        return [recipe]
    return [replace(recipe, model=replace(recipe.model, remat=remat)) for remat in REMAT]


def meshes(recipe: Recipe, topology: Topology) -> Iterator[MeshConfig]:
    """Yield the meshes on which the recipe runs: parameters whole or split, and one axis more that splits layers.

    Slices of a topology are joined by the data axis alone. The length and the depth are split only where there are
    fewer examples than devices: they cost more than they save elsewhere.
    """
    devices = topology.devices
    for axis, size in _layer_axes(recipe, devices):
        rest = devices // size
        for data in sorted({topology.slices, rest}, reverse=True):  # of equals the one that gathers nothing
            if rest % data or data % topology.slices:
                continue
            mesh = MeshConfig(**{"data": data, "fsdp": rest // data, axis: size})
            try:
                check_sizes(replace(recipe, mesh=mesh, train=replace(recipe.train, accumulate=1)), vars(mesh))
            except ConfigError:
                continue
            yield mesh


def _layer_axes(recipe: Recipe, devices: int) -> Iterator[tuple[str, int]]:
    yield "tensor", 1
    if not isinstance(recipe.model, TransformerConfig):
        return
    model = resolve(recipe.model)
    split = {
        "tensor": (model.kv_heads, model.feedforward, model.vocabulary),
        "sequence": (getattr(recipe.data, "length", 1),),
        "pipeline": (model.depth,),
    }
    for axis, dimensions in split.items():
        few = recipe.train.batch_size < devices
        for size in range(2, MOST + 1) if axis == "tensor" or few else ():
            if devices % size == 0 and all(dimension % size == 0 for dimension in dimensions):
                yield axis, size


def _in_parts(recipe: Recipe, topology: Topology, traced: Trace) -> Recipe:
    """Return the recipe with its batch in as few micro-batches as fit in memory, or in as many as there can be."""
    rows = recipe.train.batch_size // (recipe.mesh.data * recipe.mesh.fsdp)
    for parts in (n for n in range(1, rows + 1) if rows % n == 0):
        tried = replace(recipe, train=replace(recipe.train, accumulate=parts))
        if needs(tried, topology.devices, traced).peak <= ROOM * topology.chip.memory:
            break
    return tried
