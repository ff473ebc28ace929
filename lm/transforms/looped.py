"""Looped depth: a few distinct layers, applied in turn until the model's depth is reached.

The limit case of growth by stacking, in which the copies stay tied (Saunshi et al. 2025, arXiv 2502.17416).
"""

from __future__ import annotations

import jax.numpy as jnp

from lm.config import Looped
from lm.strict import ConfigError
from lm.transforms.wrap import is_stacked, map_paths
from lm.types import Array, Key, Params, Transform


def looped(config: Looped, depth: int) -> Transform:
    """Return the transform of a net of `depth` layers whose stacks hold the distinct layers alone."""
    layers = config.layers
    if depth % layers:
        raise ConfigError(f"model.depth {depth} is not a multiple of transforms.layers {layers}")
    order = tuple(range(layers)) * (depth // layers)

    def init(net_init, key: Key) -> Params:
        return map_paths(lambda path, x: x[:layers] if is_stacked(path) else x, net_init(key))

    def settle(params: Params, key: Key | None = None) -> Params:
        def repeat(path: str, leaf: Array) -> Array:
            return leaf[jnp.array(order)] if is_stacked(path) else leaf

        return map_paths(repeat, params)

    return Transform(init, settle)
