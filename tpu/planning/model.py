"""What a recipe's training step needs on each device, without a compiler: memory, operations, what the network carries.

The state is counted from its shapes and its sharding, which is exact. What the forward pass keeps for the backward one
is counted from the trace of that very step, so that any model and any remat policy is covered. How a compiler overlaps
buffers is not known, so that the sum is within a factor (`WITHIN`) of what it says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from lm.collectives import Collective
from lm.config import Recipe, TransformerConfig
from lm.flops import count_flops
from lm.losses import augmented, chunks_of
from lm.mesh import AXES, BATCH_AXES, mesh_sizes, state_shardings
from lm.models.transformer import resolve
from lm.step import init_state
from lm.train import build_net, parts_of
from lm.types import Batch, TrainState
from tpu.planning.compiled import stand_in

WITHIN = 1.6  # factor between this model's memory and the compilers', either way
SPLIT = 2.5  # a backward pass of attention over a forward one: five products where that one has two


class Trace(NamedTuple):
    """A recipe's step as traced: shapes of the state and of the whole batch, and what goes from forwards to backwards.

    `saved` are the arrays that the forward pass keeps, `open` those that it would keep without recomputation.
    """

    state: TrainState
    batch: Batch
    saved: list[jax.ShapeDtypeStruct]
    open: list[jax.ShapeDtypeStruct]
    logits: float  # bytes of those that are alive at once
    flops: float  # of the step as the model is written
    again: float  # of the step with what it computes again


class Needs(NamedTuple):
    """Bytes on one device; `peak` is the sum that must fit."""

    parameters: float
    optimizer: float
    average: float
    gradients: float
    activations: float
    workspace: float
    peak: float


def on_platform(platform: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return function(*arguments), traced for one device of a platform that is not there."""
    device = AbstractDevice(platform, None, platform)
    mesh = AbstractMesh((1,) * len(AXES), AXES, (AxisType.Auto,) * len(AXES), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        return function(*arguments)


def trace(recipe: Recipe) -> Trace:
    """Trace the step of a recipe on one device with kernels for attention, the whole batch at once."""
    state, batch = shapes_of(recipe)
    plain = without_remat(recipe)
    saved, flops = _saved(recipe, state, batch), model_flops(recipe)
    whole, least = (saved, flops) if plain == recipe else (_saved(plain, state, batch), model_flops(plain))
    return Trace(state, batch, saved, whole, _logits(recipe, state, batch), least, flops)


def shapes_of(recipe: Recipe) -> tuple[TrainState, Batch]:
    """Return the shapes of the training state and of a batch."""
    _, optimizer, average = parts_of(recipe)
    source = stand_in(recipe)

    def state() -> TrainState:
        return init_state(build_net(recipe)[1], optimizer, jax.random.key(0), average)

    abstract = jax.eval_shape(state)
    if source.draw is not None:
        return abstract, jax.eval_shape(source.draw, abstract.key, abstract.step)
    assert source.at is not None
    return abstract, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), source.at(0))


def _loss(recipe: Recipe) -> Callable[..., Any]:
    net, objective = build_net(recipe)[1], augmented(parts_of(recipe)[0], stand_in(recipe).augment)
    return lambda params, batch, key: objective(net.apply, params, batch, key)


def _saved(recipe: Recipe, state: TrainState, batch: Batch) -> list[jax.ShapeDtypeStruct]:
    def saved(params: Any, batch: Batch, key: Any) -> Any:
        return jax.vjp(lambda p: _loss(recipe)(p, batch, key), params, has_aux=True)[1]

    leaves = jax.tree.leaves(on_platform("tpu", jax.eval_shape, saved, state.params, batch, state.key))
    # What has the shape of a weight, or of its transpose, is one, or its gradient.
    weights = {tuple(sorted(leaf.shape)) for leaf in jax.tree.leaves(state.params)}
    return [leaf for leaf in leaves if tuple(sorted(leaf.shape)) not in weights and leaf.size >= batch.inputs.shape[0]]


def _logits(recipe: Recipe, state: TrainState, batch: Batch) -> float:
    outputs = jax.eval_shape(build_net(recipe)[1].apply, state.params, batch)
    if outputs.head is None:
        return 0.0
    parts = chunks_of(outputs, getattr(recipe.objective, "chunks", 1))
    return 4.0 * math.prod(outputs.features.shape[:2]) * outputs.head.shape[-1] / parts


def is_remat(recipe: Recipe) -> bool:
    """Say whether blocks are computed again in the backward pass."""
    return getattr(recipe.model, "remat", "none") != "none"


def without_remat(recipe: Recipe) -> Recipe:
    """Return the recipe with nothing computed again."""
    return replace(recipe, model=replace(recipe.model, remat="none")) if is_remat(recipe) else recipe


def model_flops(recipe: Recipe) -> float:
    """Return the operations of one step as it is written, recomputation in; attention reads no future."""
    if isinstance(recipe.model, TransformerConfig):
        recipe = replace(recipe, model=replace(recipe.model, unroll=False))

    def count() -> int:
        state, batch = shapes_of(recipe)
        return count_flops(jax.grad(_loss(recipe), has_aux=True), state.params, batch, state.key)

    return float(on_platform("cpu", count))


def attention_flops(recipe: Recipe, batch: Batch) -> float:
    """Return the operations of attention in one step, forward, backward and recomputed: what kernels hide.

    A query sees (L + 1) / 2 keys on average, or those of its window.
    """
    if not isinstance(recipe.model, TransformerConfig):
        return 0.0
    model, (rows, length) = resolve(recipe.model), batch.inputs.shape[:2]
    window = min(model.window or length, length)
    keys = window - window * (window - 1) / (2 * length)
    forward = 4.0 * rows * length * keys * model.heads * model.head_width * model.depth
    return forward * (1 + SPLIT + (recipe.model.remat in ("dots", "full")))


def _split(leaves: Sequence[jax.ShapeDtypeStruct], recipe: Recipe, mesh: Mapping[str, int]) -> tuple[float, float]:
    """Return the bytes of a micro-batch's arrays on one device: in the blocks, and around them.

    They are split over the axes of the batch; those as wide as heads, feed-forward or vocabulary over tensor too.
    """
    depth, wide = getattr(recipe.model, "depth", 1), _tensor_sizes(recipe)
    parts = math.prod(mesh[axis] for axis in (*BATCH_AXES, "sequence")) * recipe.train.accumulate
    blocks = rest = 0.0
    for leaf in leaves:
        size = leaf.size * leaf.dtype.itemsize / parts / (mesh["tensor"] if wide & set(leaf.shape[1:]) else 1)
        stacked = leaf.ndim > 2 and leaf.shape[0] == depth
        blocks += size / mesh["pipeline"] if stacked else 0.0
        rest += 0.0 if stacked else size
    return blocks, rest


def _tensor_sizes(recipe: Recipe) -> set[int]:
    if not isinstance(recipe.model, TransformerConfig):
        return set()
    model = resolve(recipe.model)
    return {model.feedforward, model.vocabulary, model.heads, model.kv_heads} - {model.width, 1}


def needs(recipe: Recipe, devices: int, traced: Trace) -> Needs:
    """Return the memory of a recipe's step on each of so many devices, arranged as its mesh says.

    The peak lies at the loss, where all that was kept meets the logits' gradient, or in the first layer of the backward
    pass, where it meets the gradients and one block computed again.
    """
    mesh = mesh_sizes(recipe.mesh, devices)
    abstract = AbstractMesh(tuple(mesh.values()), AXES, (AxisType.Auto,) * len(AXES))
    share = jax.tree.map(_share, traced.state, state_shardings(traced.state, abstract))
    parameters, optimizer, average = (
        float(sum(jax.tree.leaves(part))) for part in (share.params, share.opt_state, share.ema)
    )
    gradients = parameters * (2 if recipe.train.accumulate > 1 else 1)
    blocks, rest = _split(traced.saved, recipe, mesh)
    depth = getattr(recipe.model, "depth", 1)
    # Weights are multiplied by in bfloat16; those of one block are gathered whole.
    block = (_split(traced.open, recipe, mesh)[0] + parameters / 2 * mesh["fsdp"]) / depth
    parts = math.prod(mesh[axis] for axis in (*BATCH_AXES, "sequence", "tensor")) * recipe.train.accumulate
    logits = traced.logits / parts
    working = max(rest + logits, gradients + block)
    peak = parameters + optimizer + average + blocks + working
    return Needs(parameters, optimizer, average, gradients, blocks + rest, working - gradients, peak)


def _share(leaf: Any, sharding: Any) -> float:
    """Return the bytes of an array on one device; a key's are not worth counting."""
    size = 0 if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize
    return math.prod(sharding.shard_shape(leaf.shape)) * float(size)


def traffic(recipe: Recipe, devices: int, traced: Trace) -> list[Collective]:
    """Return what a layout must send in one step, counted as `lm.collectives` does.

    FSDP gathers the bfloat16 weights forwards and backwards and scatters their gradients, once a micro-batch; data
    parallelism sums the gradients; tensor parallelism sums each block's two results, forwards and backwards (and again
    where blocks are computed again); a sequence gathers keys and values.
    """
    mesh, accumulate = mesh_sizes(recipe.mesh, devices), recipe.train.accumulate
    count = sum(leaf.size for leaf in jax.tree.leaves(traced.state.params)) / mesh["tensor"] / mesh["pipeline"]
    sent = [
        Collective("all-gather", ("fsdp",), round(2 * count), 2 * accumulate),
        Collective("reduce-scatter", ("fsdp",), round(4 * count), accumulate),
        Collective("all-reduce", ("data",), round(4 * count / mesh["fsdp"]), 1),
    ]
    if isinstance(recipe.model, TransformerConfig):
        model = resolve(recipe.model)
        tokens = traced.batch.inputs.size / math.prod(mesh[axis] for axis in (*BATCH_AXES, "sequence")) / accumulate
        times = (2 + is_remat(recipe)) * model.depth // mesh["pipeline"] * accumulate
        keys = 2 * model.kv_heads * model.head_width / mesh["tensor"] * mesh["sequence"]
        sent += [
            Collective("all-reduce", ("tensor",), round(2 * tokens * model.width), 2 * times),
            Collective("all-gather", ("sequence",), round(2 * tokens * keys), times),
        ]
    return [each for each in sent if mesh[each.axes[0]] > 1]
