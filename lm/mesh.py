"""Devices, meshes and shardings: the one file that knows of them.

mesh = make_mesh(MeshConfig(data=2, fsdp=4))
shardings = state_shardings(abstract_state, mesh)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lm.config import MeshConfig, Recipe, SharpenedLoss, TransformerConfig
from lm.strict import ConfigError
from lm.types import Array, Batch, Params, TrainState

AXES = ("data", "fsdp", "pipeline", "sequence", "tensor")  # the last are the nearest neighbours
HOST = "pinned_host"
BATCH_AXES = ("data", "fsdp")
STACK_AXES = ("pipeline", "sequence")
FULL = 4  # microbatches a stage of a pipeline: the more, the smaller the share of the ticks in which stages wait

# Path of a parameter -> mesh axes of its last dimensions. The depth of a stack is split over the pipeline; other
# leading dimensions (copies, a population) stay whole.
STACKED = re.compile(r"(^|/)blocks/")
Rules = Sequence[tuple[str, tuple[str | None, ...]]]
RULES: Rules = (
    (r"embedding.*/table$", ("tensor", "fsdp")),
    (r"positions.*/table$", (None, "fsdp")),
    (r"(query|key|value|up|gate)/kernel$", ("fsdp", "tensor")),
    (r"(output|down)/kernel$", ("tensor", "fsdp")),
    (r"(input|hidden|recurrent|first|head)/kernel$", ("fsdp", "tensor")),
    (r"(stem|middle|last|shortcut)/kernel$", ("fsdp", "tensor")),
    (r"statistics/(mean|var)$", (None,)),
    (r"(bias|scale|tau)$", (None,)),
)


def mesh_sizes(config: MeshConfig, devices: int) -> dict[str, int]:
    """Return the size of each of AXES; ConfigError where they do not multiply to the number of devices."""
    sizes = [getattr(config, axis) for axis in AXES]
    shown = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
        raise ConfigError(f"mesh sizes must be positive with at most one -1, got {shown}")
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(devices // -math.prod(sizes), 1)
        shown = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if math.prod(sizes) != devices:
        raise ConfigError(f"mesh {shown} needs {math.prod(sizes)} devices, found {devices}")
    return dict(zip(AXES, sizes, strict=True))


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange devices along AXES; ConfigError where the sizes do not multiply to their number.

    Where devices lie in several slices, which a slower network joins, only the data axis runs through them.
    The axes are Auto on every JAX version: plain Linen code fails on the Explicit axes that jax.make_mesh builds.
    """
    devices = jax.devices() if devices is None else devices
    sizes = list(mesh_sizes(config, len(devices)).values())
    return Mesh(arrange(sizes, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def arrange(sizes: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
    """Return the devices as an array of these sizes, neighbours close; only the first axis crosses slices."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if sizes[0] % slices:
        raise ConfigError(
            f"mesh.data {sizes[0]} does not split over {slices} slices, which only the data axis may cross"
        )
    inside, across = [sizes[0] // slices, *sizes[1:]], [slices] + [1] * (len(sizes) - 1)
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return mesh_utils.create_hybrid_device_mesh(inside, across, devices, allow_split_physical_axes=True)


def platform() -> str:
    """Return what programs are traced for, cpu, gpu or tpu: the mesh in context says it, else JAX's default backend.

    `under` and jax.sharding.use_abstract_mesh put a mesh in context, be its devices there or only compiled for.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def compiler_options() -> dict[str, int] | None:
    """Return what the platform's compiler is told of a program that runs a few times: for CPU to take less time.

    LLVM's higher levels are a fifth of a compilation there.
    """
    return {"xla_backend_optimization_level": 1} if platform() == "cpu" else None


def device_kind() -> str:
    """Return the name of the device that programs are traced for, `TPU v5 lite` or `Tesla T4`."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.devices()[0].device_kind if device is None else device.device_kind


def under(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, called or traced with the mesh in context."""

    def called(*args: Any, **settings: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **settings)

    return called


def parameter_spec(path: str, shape: tuple[int, ...], mesh: Mesh, rules: Rules = RULES) -> P:
    """Return the partition of one array by the first rule that matches its path; no match is a ConfigError.

    An axis that does not divide its dimension is left out: that dimension stays whole.
    """
    if not shape:
        return P()
    for pattern, axes in rules:
        if re.search(pattern, path):
            depth = ("pipeline",) if STACKED.search(path) else ()
            inner = len(shape) - len(depth)
            tail = axes[max(len(axes) - inner, 0) :]
            names = (*depth, *(None,) * (inner - len(tail)), *tail)
            return P(*(a if a and n % mesh.shape[a] == 0 else None for a, n in zip(names, shape, strict=True)))
    raise ConfigError(f"no sharding rule matches parameter {path} of shape {shape}; add one to lm.mesh.RULES")


def state_shardings(abstract: Any, mesh: Mesh, rules: Rules = RULES, offload: bool = False) -> Any:
    """Return a sharding for every leaf of a training state: moments and averages follow their parameter.

    With `offload` the optimizer's state lies in the memory of the hosts; ConfigError where devices do not reach it.
    """
    if offload and HOST not in (kinds := [memory.kind for memory in mesh.devices.flat[0].addressable_memories()]):
        raise ConfigError(f"optimizer.offload needs devices that reach {HOST} memory, these have {', '.join(kinds)}")

    def place(path: Any, leaf: Any) -> NamedSharding:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return NamedSharding(mesh, P())
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        kind = HOST if offload and name.startswith("opt_state") else None
        return NamedSharding(mesh, parameter_spec(name, leaf.shape, mesh, rules), memory_kind=kind)

    return jax.tree_util.tree_map_with_path(place, abstract)


def offloaded(change: Callable[..., Any]) -> Callable[..., Any]:
    """Return a change of a training state, (state, ...) -> (state, ...), whose optimizer's state the host keeps."""

    def fetching(state: TrainState, *arguments: Any) -> Any:
        here = jax.device_put(state.opt_state, jax.memory.Space.Device)
        after, *others = change(state._replace(opt_state=here), *arguments)
        return after._replace(opt_state=jax.device_put(after.opt_state, jax.memory.Space.Host)), *others

    return fetching


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Return the sharding of a batch over the data and fsdp axes, behind `leading` whole axes."""
    return NamedSharding(mesh, P(*[None] * leading, BATCH_AXES))


def summed(function: Callable[[Any, Any], Any], whole: Any, rows_BL: Any) -> Any:
    """Return function(whole, rows) summed over the mesh in context, each device taking its part of batch and length.

    So `whole` is gathered once, when the rows are there, and its gradient is summed once, whatever loop uses it.
    """
    if not _shared_out(rows_BL):
        return function(whole, rows_BL)
    if platform() == "tpu":  # else a table would be kept from where it is looked up to where it is the head
        whole, rows_BL = jax.lax.optimization_barrier((whole, rows_BL))
    axes = (*BATCH_AXES, "sequence")
    return _by_parts(lambda whole, rows: jax.lax.psum(function(whole, rows), axes), P())(whole, rows_BL)


def spread(function: Callable[[Any, Any], Any], whole: Any, rows_BL: Any) -> Any:
    """Return function(whole, rows), [B, L, ...], each device making its part of batch and length."""
    if not _shared_out(rows_BL):
        return function(whole, rows_BL)
    return _by_parts(function, P(BATCH_AXES, "sequence"))(whole, rows_BL)


def _by_parts(function: Callable[[Any, Any], Any], out: P) -> Callable[[Any, Any], Any]:
    specs, names = (P(), P(BATCH_AXES, "sequence")), frozenset((*BATCH_AXES, "sequence"))
    return jax.shard_map(function, in_specs=specs, out_specs=out, axis_names=names, check_vma=False)


def _shared_out(rows_BL: Any) -> bool:
    """Say whether the mesh in context has several devices and they divide the batch and the length of rows."""
    mesh, sizes = jax.sharding.get_abstract_mesh(), jax.tree.leaves(rows_BL)[0].shape
    if mesh.empty or mesh.size == 1 or len(sizes) < 2 or mesh.manual_axes:
        return False
    return sizes[0] % _parts(mesh, BATCH_AXES) == 0 and sizes[1] % mesh.shape["sequence"] == 0


def _parts(mesh: AbstractMesh, axes: Sequence[str]) -> int:
    return math.prod(mesh.shape[axis] for axis in axes)


def shard_draw(draw: Callable[..., Batch], mesh: Mesh) -> Callable[..., Batch]:
    """Return a draw whose batch is spread over the mesh, so that each device makes its own examples."""

    def sharded(*args: Any) -> Batch:
        return jax.lax.with_sharding_constraint(draw(*args), batch_sharding(mesh))

    return sharded


def put_batch(batch: Any, mesh: Mesh, leading: int = 0) -> Any:
    """Place a global batch of NumPy arrays, equal on every process, on the mesh; each process copies its part."""
    sharding = batch_sharding(mesh, leading)

    def put(x: Any) -> jax.Array:
        return jax.make_array_from_callback(np.shape(x), sharding, lambda index: np.asarray(x)[index])

    return jax.tree.map(put, batch)


def members_mesh(config: MeshConfig, members: int) -> Mesh:
    """Return a mesh of the data axis alone, of as many of its devices as get equally many members of a population."""
    parts = math.gcd(members, make_mesh(config).shape["data"])
    return make_mesh(MeshConfig(data=parts), jax.devices()[:parts])


def over_data(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Return the function of arrays [P, ...] and results [P, ...], run on each device's part of the data axis."""
    if mesh.size == 1:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False)


def on_one_device(tree: Any) -> Any:
    """Return arrays that lie on several devices of this process on the first of them."""
    return jax.device_put(tree, jax.local_devices()[0])


def check_layout(recipe: Recipe, mesh: Mesh) -> None:
    """Raise ConfigError where a recipe cannot run on the mesh."""
    batch, parts = recipe.train.batch_size // recipe.train.accumulate, mesh.shape["data"] * mesh.shape["fsdp"]
    if batch % parts:
        raise ConfigError(f"batch of {batch} does not split over data x fsdp = {parts} devices")
    for axis in STACK_AXES:
        named = f"mesh.{axis} {mesh.shape[axis]}"
        if mesh.shape[axis] == 1:
            continue
        if not isinstance(recipe.model, TransformerConfig):
            raise ConfigError(f"{named} splits a TransformerConfig alone, got {type(recipe.model).__name__}")
        if recipe.model.dropout:
            raise ConfigError(f"{named} cannot be combined with model.dropout {recipe.model.dropout}, which must be 0")
        if isinstance(recipe.objective, SharpenedLoss):
            raise ConfigError(f"{named} cannot be combined with objective sharpened, which reads all attention")
    for depth in recipe.growth.depths if recipe.growth else (getattr(recipe.model, "depth", 1),):
        if depth % mesh.shape["pipeline"]:
            raise ConfigError(f"model.depth {depth} does not split over mesh.pipeline {mesh.shape['pipeline']}")


# What models call; without a mesh in context all of it does nothing.


def spread_rows(x_MD: Array) -> Array:
    """Keep rows [B * L, D] where their batch is, each whole: what one block hands to the next."""
    return _keep(x_MD, BATCH_AXES)


def spread_tokens(x_BLD: Array) -> Array:
    """Take [B, L, D] from where tables are split, along D, to where the batch and its parts of the length are.

    On TPU tables are looked up whole: a few columns each of all rows would be padded to 128.
    """
    if platform() != "tpu":
        x_BLD = _keep(x_BLD, ("data",), ("sequence",), ("fsdp",))
    return _keep(x_BLD, BATCH_AXES, ("sequence",))


def _keep(x: Array, *axes: tuple[str, ...]) -> Array:
    """Constrain the first dimensions of x to these axes of the mesh in context."""
    mesh = _divided_mesh()
    if mesh is None:
        return x
    kept = [_fitting(mesh, n, each) for n, each in zip(x.shape, axes, strict=False)]
    return jax.lax.with_sharding_constraint(x, P(*kept))


def _divided_mesh() -> AbstractMesh | None:
    """Return the mesh in context where it leaves it to the compiler to divide anything."""
    mesh = jax.sharding.get_abstract_mesh()
    left = math.prod(size for axis, size in mesh.shape.items() if axis not in mesh.manual_axes)
    return mesh if left > 1 else None


def _fitting(mesh: AbstractMesh, size: int, axes: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return those of the axes that are left to the compiler here; None where they do not divide a dimension."""
    free = tuple(axis for axis in axes if axis not in mesh.manual_axes)
    return free if size % math.prod(mesh.shape[axis] for axis in free) == 0 else None


def over_heads(attend: Callable[..., Array], q_BHLh: Array, k_BKLh: Array, v_BKLh: Array, tokens_BL: Any) -> Array:
    """Return `attend` of each device's part of batch and heads: a kernel is nothing that the compiler could split."""
    mesh = _divided_mesh()
    if mesh is None:
        return attend(q_BHLh, k_BKLh, v_BKLh, tokens_BL)
    batch, heads = _fitting(mesh, q_BHLh.shape[0], BATCH_AXES), _fitting(mesh, k_BKLh.shape[1], ("tensor",))
    apart = P(batch, heads)
    free = frozenset(mesh.axis_names) - frozenset(mesh.manual_axes)
    spread = jax.shard_map(
        attend, in_specs=(apart, apart, apart, P(batch)), out_specs=apart, axis_names=free, check_vma=False
    )
    return spread(q_BHLh, k_BKLh, v_BKLh, tokens_BL)


def stack_axes() -> frozenset[str]:
    """Return which of the axes that split a stack of blocks the mesh in context has, of pipeline and sequence."""
    mesh = jax.sharding.get_abstract_mesh()
    return frozenset() if mesh.empty else frozenset(axis for axis in STACK_AXES if mesh.shape[axis] > 1)


def run_stack(run: Callable[..., Array], params: Params, shared: Any, x_BLD: Array, tokens: Any) -> Array:
    """Return `run` (params, shared, x, tokens) -> x over the stack_axes of the mesh in context.

    Every parameter is [N, ...], every array of `tokens` [B, L, ...]. What runs on one device gets its N / pipeline
    layers and its L / sequence tokens, and asks `first_slot` and `gather_tokens` for what it must know of the others.
    """
    mesh, length = jax.sharding.get_abstract_mesh(), x_BLD.shape[1]
    if length % mesh.shape["sequence"]:
        raise ConfigError(f"a length of {length} does not split over mesh.sequence {mesh.shape['sequence']}")
    stages, manual = mesh.shape["pipeline"], {"data", "sequence"}
    if stages > 1:
        run, manual = _in_stages(run, stages, _microbatches(x_BLD.shape[0], mesh)), manual | {"pipeline"}
    layers, rows = P("pipeline") if stages > 1 else P(), P("data", "sequence")
    specs = (layers, P(), rows, rows)
    return jax.shard_map(run, in_specs=specs, out_specs=rows, axis_names=manual, check_vma=False)(
        params, shared, x_BLD, tokens
    )


def _microbatches(batch: int, mesh: AbstractMesh) -> int:
    """Return into how many parts the batch of a pipeline is split, each of which still splits over the batch axes."""
    rows = batch // math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    return max(parts for parts in range(1, FULL * mesh.shape["pipeline"] + 1) if rows % parts == 0)


def _in_stages(run: Callable[..., Array], stages: int, parts: int) -> Callable[..., Array]:
    """Return `run` as one of the stages of a pipeline (Huang et al. 2019): in every tick each works on one microbatch.

    Stages that wait work on what another one needs later; nobody reads it.
    """

    def split(x: Array) -> Array:  # rows that are neighbours go to different microbatches, so no device sends any
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    def staged(params: Params, shared: Any, x_BLD: Array, tokens: Any) -> Array:
        stage = jax.lax.axis_index("pipeline")
        xs, tokens = jax.tree.map(split, (x_BLD, tokens))

        def at(tree: Any, index: Array) -> Any:
            return jax.tree.map(lambda x: x[jnp.clip(index, 0, parts - 1)], tree)

        def tick(handed: Array, now: Array) -> tuple[Array, Array]:
            x = run(params, shared, jnp.where(stage == 0, at(xs, now), handed), at(tokens, now - stage))
            return jax.lax.ppermute(x, "pipeline", [(i, i + 1) for i in range(stages - 1)]), x

        _, made = jax.lax.scan(tick, xs[0], jnp.arange(parts + stages - 1))
        last = jnp.where(stage == stages - 1, made[stages - 1 :], 0)
        return jax.lax.psum(last, "pipeline").swapaxes(0, 1).reshape(x_BLD.shape)

    return staged


def first_slot(length: int) -> Array | int:
    """Return the slot of the first of the `length` tokens that this device has of every example."""
    return jax.lax.axis_index("sequence") * length if _divided() else 0


def gather_tokens(x: Array, axis: int = 1, heads: int | None = None) -> Array:
    """Return the tokens of all devices of the sequence axis along `axis`; B is the first axis, H the `heads`."""
    if not _divided():
        return x
    mesh = jax.sharding.get_abstract_mesh()
    # The compiler would gather along the other axes as well, did this not say where they are.
    names: list[Any] = [_fitting(mesh, x.shape[0], BATCH_AXES), *(None,) * (x.ndim - 1)]
    if heads is not None:
        names[heads] = _fitting(mesh, x.shape[heads], ("tensor",))
    gather = partial(jax.lax.all_gather, axis_name="sequence", axis=axis, tiled=True)
    free = frozenset(mesh.axis_names) - frozenset(mesh.manual_axes)
    return jax.shard_map(gather, in_specs=P(*names), out_specs=P(*names), axis_names=free, check_vma=False)(x)


def _divided() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    return "sequence" in mesh.manual_axes and mesh.shape["sequence"] > 1
