"""Moving averages of the parameters, kept beside them by the training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm.transforms.wrap import widened
from lm.types import Array, Params


class Average(NamedTuple):
    """init(params) -> average; update(average, params, step) -> average after that step."""

    init: Callable[[Params], Params]
    update: Callable[[Params, Params, Array], Params]


def ema(decay: float) -> Average:
    """Return the exponential moving average with this decay, warmed up as min(decay, (1 + t) / (10 + t)).

    The warm-up forgets the random start (as in TensorFlow's and timm's averages); t counts steps from 0. The average
    of weights in bfloat16 is in float32: what it moves by is too small for eight bits.
    """

    def update(average: Params, params: Params, step: Array) -> Params:
        kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
        return jax.tree.map(lambda a, p: a + (1.0 - kept).astype(a.dtype) * (p - a), average, params)

    return Average(init=lambda params: jax.tree.map(jnp.copy, widened(params)), update=update)
