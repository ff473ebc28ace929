"""Optimizers and learning-rate schedules from a configuration; every float may be a traced array.

optimizer = make_optimizer(OptimizerConfig(schedule="wsd", warmup_steps=100), steps=5_000)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lm.config import OptimizerConfig
from lm.types import Array, Params

Schedule = Callable[[Array], Array]


def make_schedule(config: OptimizerConfig, steps: int) -> Schedule:
    """Return step -> learning rate: linear warm-up to the peak, then the named decay ending at `steps`.

    The first of W warm-up steps has rate peak / W, so no step is wasted at rate zero. `wsd` keeps the peak and
    decays linearly over the last `decay_fraction` of the steps (Hu et al. 2024, MiniCPM, section 4).
    """
    peak, final = config.learning_rate, config.final_fraction
    span = max(steps - config.warmup_steps, 1)
    falling = max(round(config.decay_fraction * steps), 1)
    main = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, peak * final, span),
        "cosine": optax.cosine_decay_schedule(peak, span, final),
        "wsd": optax.linear_schedule(peak, peak * final, falling, transition_begin=max(span - falling, 0)),
    }[config.schedule]

    def schedule(step: Array) -> Array:
        step = jnp.asarray(step)
        warm = jnp.minimum(1.0, (step + 1) / max(config.warmup_steps, 1))
        return warm * main(jnp.maximum(step - config.warmup_steps, 0))

    return schedule


def match_paths(params: Params, pattern: str) -> Any:
    """Return a tree of booleans: which parameters' paths ("blocks/attention/query/kernel") match the pattern."""
    found = re.compile(pattern).search
    return jax.tree_util.tree_map_with_path(
        lambda path, _: found(jax.tree_util.keystr(path, simple=True, separator="/")) is not None, params
    )


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Return clipping, the update rule, decoupled weight decay on the matching paths, and the schedule."""
    rule = {
        "adamw": lambda: optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        "sgd": lambda: optax.trace(config.beta1),
    }[config.name]()
    parts = [rule]
    if config.clip is not None:
        parts.insert(0, optax.clip_by_global_norm(config.clip))
    # A traced decay cannot be compared with zero; a plain zero needs no pass over the parameters.
    if not (isinstance(config.weight_decay, int | float) and config.weight_decay == 0):
        parts.append(
            optax.add_decayed_weights(config.weight_decay, lambda params: match_paths(params, config.decay_pattern))
        )
    return optax.chain(*parts, optax.scale_by_learning_rate(make_schedule(config, steps)))
