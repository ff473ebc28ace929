"""How a transform is put around a net, and the one convention on parameters that all transforms share.

Layers that are alike are stored as one stack under a component `blocks` of their path, with the depth as first axis.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lm.types import Batch, Key, Net, Outputs, Params, Reader, Transform

STACK = re.compile(r"(^|/)blocks/")


def wrap(net: Net, transform: Transform) -> Net:
    """Return the net that has the transform's parameters."""

    def apply(params: Params, batch: Batch, key: Key | None = None, **wanted: bool) -> Outputs:
        return net.apply(transform.settle(params, key), batch, key, **wanted)

    def reader(params: Params) -> Reader:
        assert net.reader is not None
        return net.reader(transform.settle(params))

    return net._replace(
        init=lambda key: transform.init(net.init, key),
        apply=apply,
        reader=None if net.reader is None else reader,
    )


def is_stacked(path: str) -> bool:
    """Say whether the first axis of the parameter at this path ("blocks/attention/query/kernel") is the depth."""
    return STACK.search(path) is not None


def widened(tree: Any) -> Any:
    """Return the tree with what is kept in bfloat16 in float32."""
    return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, tree)


def map_paths(function: Callable[..., Any], *trees: Any) -> Any:
    """Map (path, leaf, ...) over trees of one structure, the path written with slashes."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(jax.tree_util.keystr(path, simple=True, separator="/"), *leaves), *trees
    )
