"""Devices, meshes and shardings: the one file that knows of them.

mesh = make_mesh(MeshConfig(data=2, fsdp=4))
shardings = state_shardings(abstract_state, mesh)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lm.config import MeshConfig
from lm.strict import ConfigError
from lm.types import Array, Batch

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

# Path of a parameter -> mesh axes of its last dimensions. Leading dimensions (depth, copies, a population) stay whole.
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


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange devices as (data, fsdp, tensor); ConfigError where the sizes do not multiply to their number.

    The axes are Auto on every JAX version: plain Linen code fails on the Explicit axes that jax.make_mesh builds.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
        raise ConfigError(f"mesh sizes must be positive with at most one -1, got {dict(zip(AXES, sizes, strict=True))}")
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(len(devices) // -math.prod(sizes), 1)
    if math.prod(sizes) != len(devices):
        shown = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
        raise ConfigError(f"mesh {shown} needs {math.prod(sizes)} devices, found {len(devices)}")
    array = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(array, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def platform() -> str:
    """Return what programs are traced for, cpu, gpu or tpu: the mesh in context says it, else JAX's default backend.

    `under` and jax.sharding.use_abstract_mesh put a mesh in context, be its devices there or only compiled for.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def under(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, called or traced with the mesh in context."""

    def called(*args: Any, **settings: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **settings)

    return called


def over_heads(attend: Callable[..., Array], q_BHLh: Array, k_BKLh: Array, v_BKLh: Array, tokens_BL: Any) -> Array:
    """Return `attend` of each device's part of batch and heads: a kernel is nothing that the compiler could split."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return attend(q_BHLh, k_BKLh, v_BKLh, tokens_BL)
    batch = BATCH_AXES if q_BHLh.shape[0] % math.prod(mesh.shape[axis] for axis in BATCH_AXES) == 0 else None
    heads = "tensor" if k_BKLh.shape[1] % mesh.shape["tensor"] == 0 else None
    apart = P(batch, heads)
    free = frozenset(mesh.axis_names) - frozenset(mesh.manual_axes)
    spread = jax.shard_map(
        attend, in_specs=(apart, apart, apart, P(batch)), out_specs=apart, axis_names=free, check_vma=False
    )
    return spread(q_BHLh, k_BKLh, v_BKLh, tokens_BL)


def parameter_spec(path: str, shape: tuple[int, ...], mesh: Mesh, rules: Rules = RULES) -> P:
    """Return the partition of one array by the first rule that matches its path; no match is a ConfigError.

    An axis that does not divide its dimension is left out: that dimension stays whole.
    """
    if not shape:
        return P()
    for pattern, axes in rules:
        if re.search(pattern, path):
            kept = axes[-len(shape) :]
            tail = shape[len(shape) - len(kept) :]
            names = [a if a and n % mesh.shape[a] == 0 else None for a, n in zip(kept, tail, strict=True)]
            return P(*[None] * (len(shape) - len(kept)), *names)
    raise ConfigError(f"no sharding rule matches parameter {path} of shape {shape}; add one to lm.mesh.RULES")


def state_shardings(abstract: Any, mesh: Mesh, rules: Rules = RULES) -> Any:
    """Return a sharding for every leaf of a training state: moments and averages follow their parameter."""

    def place(path: Any, leaf: Any) -> NamedSharding:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return NamedSharding(mesh, P())
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, parameter_spec(name, leaf.shape, mesh, rules))

    return jax.tree_util.tree_map_with_path(place, abstract)


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Return the sharding of a batch over the data and fsdp axes, behind `leading` whole axes."""
    return NamedSharding(mesh, P(*[None] * leading, BATCH_AXES))


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


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raise ConfigError unless the batch splits evenly over the mesh."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % parts:
        raise ConfigError(f"batch of {batch_size} does not split over data x fsdp = {parts} devices")
