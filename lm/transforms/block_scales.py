"""A trainable factor for each block on what it adds to the residual stream.

With growth by stacking this is the scalar beta of Agarwal et al. 2024: grow with
`Growth(scaled=r"branch_scale$", scale=beta)` and the factor of each new block starts at beta times that of its copy.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lm.config import BlockScales
from lm.strict import ConfigError
from lm.transforms.wrap import is_stacked, map_paths
from lm.types import Array, Key, Params, Transform

NAME = "branch_scale"


def block_scales(config: BlockScales) -> Transform:
    """Return the transform that adds `blocks/branch_scale` [N] to each stack and multiplies what `pattern` names."""
    writes = re.compile(config.pattern).search

    def add(stack: Params) -> Params:
        return {**stack, NAME: jnp.full(len(jax.tree.leaves(stack)[0]), config.initial)}

    def multiply(stack: Params) -> Params:
        scale_N = stack[NAME]

        def one(path: str, leaf: Array) -> Array:
            return leaf * jnp.expand_dims(scale_N, tuple(range(1, leaf.ndim))) if writes(path) else leaf

        return map_paths(one, {name: leaf for name, leaf in stack.items() if name != NAME})

    def init(net_init: Callable[[Key], Params], key: Key) -> Params:
        params = net_init(key)
        found: list[bool] = []
        map_paths(lambda path, _: found.append(is_stacked(path) and writes(path) is not None), params)
        if not any(found):
            raise ConfigError(f"transforms.pattern {config.pattern!r} names no parameter of a stack of blocks")
        return on_stacks(add, params)

    def settle(params: Params, key: Key | None = None) -> Params:
        return on_stacks(multiply, params)

    return Transform(init, settle)


def on_stacks(change: Callable[[Params], Params], params: Params) -> Params:
    """Return the parameters with each of their stacks of blocks changed."""
    if not isinstance(params, dict):
        return params
    changed: dict[str, Any] = {}
    for name, inner in params.items():
        changed[name] = change(inner) if name == "blocks" else on_stacks(change, inner)
    return changed
