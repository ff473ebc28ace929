"""Majority kernels for any net: each expanded parameter has copies, mixed anew in every step and collapsed at the end.

    net = wrap(build(model), majority(MajorityKernels(factor=3)))
    plain = majority(config).settle(params)                         # collapsed: names and shapes of the plain model

Mazzawi et al. 2024 (arXiv 2402.05033). The copies are the first axis of a parameter, or the second of a stack, so that
depth stays first. As the weights c of the copies sum to one, copy i has the gradient c_i G, where G is that of the
mixed kernel; under SGD the mean therefore moves at 1 / factor of the learning rate, under Adam at the full one.
Weight decay and clipping act on the copies.
"""

from __future__ import annotations

import re
import zlib

import jax

from lm.config import MajorityKernels
from lm.models.majority import collapse, draw_weights, join_copies, mix
from lm.strict import ConfigError
from lm.transforms.wrap import is_stacked, map_paths
from lm.types import Array, Key, Params, Transform

PURPOSE = zlib.crc32(b"majority")  # sets its keys apart from those that a net folds out of the same key


def key_of(config: MajorityKernels, key: Key, path: str) -> Key:
    """Return the key of a parameter's weights out of that of a step; all have the same where the model shares it."""
    key = jax.random.fold_in(key, PURPOSE)
    return key if config.share == "model" else jax.random.fold_in(key, zlib.crc32(path.encode()))


def majority(config: MajorityKernels) -> Transform:
    """Return the transform that trains `factor` copies of each parameter that `pattern` names."""
    expanded = re.compile(config.pattern).search

    def init(net_init, key: Key) -> Params:
        draws = [net_init(key)]
        for i in range(1, config.factor):
            draws.append(net_init(jax.random.fold_in(jax.random.fold_in(key, PURPOSE), i)))
        found = []

        def expand(path: str, *leaves: Array) -> Array:
            if not expanded(path):
                return leaves[0]
            found.append(path)
            return join_copies(config, leaves, axis=int(is_stacked(path)))

        params = map_paths(expand, *draws)
        if not found:
            raise ConfigError(f"transforms.pattern {config.pattern!r} names no parameter of the model")
        return params

    def settle(params: Params, key: Key | None = None) -> Params:
        def one(path: str, leaf: Array) -> Array:
            axis = int(is_stacked(path))
            if not expanded(path):
                return leaf
            if key is None:
                return collapse(leaf, axis)
            return mix(leaf, draw_weights(config, key_of(config, key, path), leaf.shape, axis), axis)

        return map_paths(one, params)

    return Transform(init, settle)
