"""A transformer looked into and changed while it runs, without a change to the model.

    seen = observe(config, params, batch, r"attention/(weights|heads)$")
    seen["blocks/attention/weights"]                       # [N, B, H, L, L]
    edit = {"blocks/feedforward": Edit(where, value)}      # both spread to [N, B, L, D]
    logits_BLV = edited(config, params, batch, edit).logits

Names are those of modules: what a module returns goes by its path. Besides "blocks/attention/query" and the other
layers there are "heads", the outputs of all heads side by side, "stream", what a block hands on, and "weights", the
attention, which is seen only.
Depth is the first axis of everything under `blocks`, and where an edit holds is data, so one program serves all edits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from lm.config import TransformerConfig
from lm.models.transformer import Transformer, resolve
from lm.strict import ConfigError, nearest
from lm.types import Array, Batch, Outputs, Params


class Edit(NamedTuple):
    """Where, as booleans, and by what an activation is replaced; both spread to its shape."""

    where: Array
    value: Array


def observe(config: TransformerConfig, params: Params, batch: Batch, pattern: str) -> dict[str, Array]:
    """Return the activations whose paths match, [N, B, L, ...] under `blocks` and [B, L, ...] elsewhere.

    Raises ConfigError where no path matches.
    """
    seen = _all_seen(config, params, batch)
    found = {path: value for path, value in seen.items() if re.search(pattern, path)}
    if not found:
        raise ConfigError(f"no activation matches {pattern!r}{nearest(pattern, seen)} (there are {', '.join(seen)})")
    return found


def edited(config: TransformerConfig, params: Params, batch: Batch, edits: Mapping[str, Edit]) -> Outputs:
    """Return the outputs of a pass in which activations are replaced, layer by layer in the order of the model.

    Raises ConfigError with the nearest path where there is no such activation.
    """
    shapes = jax.eval_shape(lambda: _all_seen(config, params, batch))
    variables: dict[str, Any] = {}
    for path, edit in edits.items():
        if path not in shapes or path.endswith("/weights"):
            known = [name for name in shapes if not name.endswith("/weights")]
            raise ConfigError(f"no activation {path!r} to edit{nearest(path, known)} (there are {', '.join(known)})")
        whole, flat = shapes[path].shape, _flat_shape(path, shapes[path].shape)
        for name, part in edit._asdict().items():
            variables[f"{path}/{name}"] = jnp.broadcast_to(part, whole).reshape(flat)

    def replace(next_fun: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        outputs = next_fun(*args, **kwargs)
        module = context.module
        if context.method_name != "__call__" or not module.has_variable("edits", "where"):
            return outputs
        edit = Edit(*(module.get_variable("edits", name) for name in Edit._fields))
        return jnp.where(edit.where, edit.value.astype(outputs.dtype), outputs)

    with nn.intercept_methods(replace):
        return _run(config, {"params": params, "edits": unflatten_dict(variables, sep="/")}, batch)


def without(shape: tuple[int, ...], index: Mapping[int, Any]) -> Array:
    """Return booleans of a shape, true where each of the named axes has this index: the `where` of an ablation."""
    where = jnp.ones(shape, bool)
    for axis, chosen in index.items():
        here = jnp.zeros(shape[axis], bool).at[jnp.asarray(chosen)].set(True)
        where &= here.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return where


def _all_seen(config: TransformerConfig, params: Params, batch: Batch) -> dict[str, Array]:
    _, variables = _run(config, {"params": params}, batch, capture_intermediates=True, mutable=["intermediates"])
    seen = {}
    for path, value in flatten_dict(variables["intermediates"]).items():
        *names, last = path
        if last == "__call__":
            value = value[0] if isinstance(value[0], jax.Array) else None  # blocks return more than an array
        else:
            names, value = [*names, last], value[0]
        if value is not None and names and not names[-1].startswith("Dropout"):
            seen["/".join(names)] = _with_length(value, "blocks" in names, batch)
    return seen


def _with_length(value: Array, stacked: bool, batch: Batch) -> Array:
    """Return rows [B * L, ...] as [B, L, ...], behind the depth where there is one."""
    axis, (rows, length) = int(stacked), batch.inputs.shape[:2]
    if value.ndim > axis and value.shape[axis] == rows * length:
        return value.reshape(*value.shape[:axis], rows, length, *value.shape[axis + 1 :])
    return value


def _flat_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    axis = int("blocks" in path.split("/"))
    return (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])


def _run(config: TransformerConfig, variables: Mapping[str, Any], batch: Batch, **settings: Any) -> Any:
    run: Callable[..., Any] = Transformer(resolve(config)).apply
    found = run(variables, batch.inputs, batch.positions, batch.segments, batch.groups, **settings)
    return found if settings else found[0]
