"""Weights kept in bfloat16: half the memory, and eight bits, which small steps only move where they round at random."""

from __future__ import annotations

import re

import jax.numpy as jnp

from lm.config import Bfloat16Weights
from lm.transforms.statistics import is_statistic
from lm.transforms.wrap import map_paths, widened
from lm.types import Array, Key, Params, Transform


def bfloat16_weights(config: Bfloat16Weights) -> Transform:
    """Return the transform whose weights are rounded ones of the net, which sees them in float32."""
    named = re.compile(config.pattern).search

    def init(net_init, key: Key) -> Params:
        def narrow(path: str, leaf: Array) -> Array:
            kept = named(path) and leaf.dtype == jnp.float32 and not is_statistic(path)
            return leaf.astype(jnp.bfloat16) if kept else leaf

        return map_paths(narrow, net_init(key))

    def settle(params: Params, key: Key | None = None) -> Params:
        return widened(params)

    return Transform(init, settle)
