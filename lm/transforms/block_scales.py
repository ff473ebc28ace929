"""A trainable factor for each block on what it adds to the residual stream.

With growth by stacking this is the scalar beta of Agarwal et al. 2024, which makes a scaled copy exact: grow with
`Growth(scaled=r"blocks/branch_scale$", scale=beta)` and the factor of each new block starts at beta times the old one.
"""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp

from lm.config import BlockScales
from lm.strict import ConfigError
from lm.transforms.wrap import is_stacked, map_paths
from lm.types import Array, Key, Params, Transform

NAME = "branch_scale"


def block_scales(config: BlockScales) -> Transform:
    """Return the transform that adds `blocks/branch_scale` [N] and multiplies the parameters that `pattern` names."""
    writes = re.compile(config.pattern).search

    def init(net_init, key: Key) -> Params:
        params = net_init(key)
        if not isinstance(params, dict) or "blocks" not in params:
            raise ConfigError("transforms: BlockScales needs a model with one stack of blocks")
        depth = jax.tree.leaves(params["blocks"])[0].shape[0]
        return {**params, "blocks": {**params["blocks"], NAME: jnp.full(depth, config.initial)}}

    def settle(params: Params, key: Key | None = None) -> Params:
        blocks = dict(params["blocks"])
        scale_N = blocks.pop(NAME)

        def multiply(path: str, leaf: Array) -> Array:
            if not is_stacked(path) or not writes(path):
                return leaf
            return leaf * jnp.expand_dims(scale_N, tuple(range(1, leaf.ndim)))

        return map_paths(multiply, {**params, "blocks": blocks})

    return Transform(init, settle)
