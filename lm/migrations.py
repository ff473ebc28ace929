"""What past formats of checkpoints and run folders said otherwise, and how it is read today: one function a version.

Format 1 had no guard in the state, and recipes gave tempered scores a bare length. What a configuration takes in its
old spelling by itself (an objective's name) needs nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from lm.types import TrainState

FORMAT = 2

Read = Callable[[TrainState], TrainState]


def begin_guard(read: Read, target: TrainState) -> TrainState:
    """Return a state of format 1 as one of format 2: its guard begins at the step where it was saved."""
    import jax
    import jax.numpy as jnp

    if target.guard is None:
        return read(target)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, target.guard)
    zeros = jax.jit(lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), target.guard), out_shardings=shardings)
    return read(target._replace(guard=None))._replace(guard=zeros())


# How a state of each past format is read as one of the format after it.
STATES: Mapping[int, Callable[[Read, TrainState], TrainState]] = MappingProxyType({1: begin_guard})


def recipe_of_today(data: Any) -> Any:
    """Return a recipe of any format, as JSON gives it, in the words of today; fields that came later stay absent."""
    if not isinstance(data, dict) or data.get("kind") != "Recipe":
        return data
    model = data.get("model")
    if isinstance(model, dict) and isinstance(model.get("tempered"), int):
        data = data | {"model": model | {"tempered": {"kind": "Tempered", "length": model["tempered"]}}}
    return data
