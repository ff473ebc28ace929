"""Running statistics among the parameters: what they are called, and how they are estimated anew.

A parameter under a component `statistics` of its path is no weight. Its gradient is (1 - momentum) times its distance
from the statistic of the batch, and the optimizer subtracts just that (`lm.models.convolution.BatchNorm`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from lm.transforms.wrap import map_paths
from lm.types import Array, Batch, Key, Net, Params

STATISTICS = re.compile(r"(^|/)statistics/")


def is_statistic(path: str) -> bool:
    """Say whether the parameter at this path ("stem_norm/statistics/mean") is a running statistic."""
    return STATISTICS.search(path) is not None


def has_statistics(params: Params) -> bool:
    """Say whether any parameter is a running statistic."""
    return any(jax.tree.leaves(map_paths(lambda path, _: is_statistic(path), params)))


def calibrate(net: Net, params: Params, batches: Iterable[Batch], key: Key) -> Params:
    """Return the parameters with the mean of the batches' statistics in place of the running ones.

    Averaged or collapsed weights need it: the running statistics belong to the weights of the steps. ValueError
    where there are no batches. Training batches are meant, of the size of training; the key is for dropout.
    """

    @jax.jit
    def statistics(params: Params, batch: Batch, key: Key) -> Params:
        def gradient(running: float) -> Params:
            start = map_paths(lambda path, leaf: jnp.full_like(leaf, running) if is_statistic(path) else leaf, params)
            return jax.grad(lambda p: jnp.sum(net.apply(p, batch, key).features))(start)

        # It is linear in the running value r: share * (r - statistic). Its values at 0 and 1 give the statistic.
        return map_paths(
            lambda path, at_0, at_1: at_0 / (at_0 - at_1) if is_statistic(path) else jnp.zeros(()),
            gradient(0.0),
            gradient(1.0),
        )

    found = [statistics(params, batch, jax.random.fold_in(key, i)) for i, batch in enumerate(batches)]
    if not found:
        raise ValueError("calibrate needs at least one batch")

    def mean(path: str, leaf: Array, *seen: Array) -> Array:
        return sum(seen) / len(seen) if is_statistic(path) else leaf  # type: ignore[return-value]

    return map_paths(mean, params, *found)
