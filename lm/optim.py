"""Optimizers and learning-rate schedules from a configuration; every float may be a traced array.

config = OptimizerConfig(schedule="wsd", warmup_steps=100)
optimizer = make_optimizer(config, make_schedule(config, steps=5_000))
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import optax

from lm.config import OptimizerConfig, Recipe
from lm.transforms.stacking import growth_steps
from lm.transforms.statistics import is_statistic
from lm.transforms.wrap import map_paths
from lm.types import Array, Params

Schedule = Callable[[Array], Array]


def make_schedule(config: OptimizerConfig, steps: int, growths: Sequence[int] = (), rewarm_steps: int = 0) -> Schedule:
    """Return step -> learning rate: linear warm-up to the peak, then the named decay ending at `steps`.

    The first of W warm-up steps has rate peak / W, so no step is wasted at rate zero. `wsd` keeps the peak and
    decays linearly over the last `decay_fraction` of the steps (Hu et al. 2024, MiniCPM, section 4). At each of
    `growths` the rate starts again from a small one and is back on its course after `rewarm_steps`.
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
        for grown in growths if rewarm_steps else ():
            warm *= jnp.where(step < grown, 1.0, jnp.minimum(1.0, (step - grown + 1) / rewarm_steps))
        return warm * main(jnp.maximum(step - config.warmup_steps, 0))

    return schedule


def schedule_of(recipe: Recipe) -> Schedule:
    """Return the learning rate of a recipe over all its stages."""
    growth = recipe.growth
    again = () if growth is None else (growth_steps(growth, recipe.train.steps), growth.rewarm_steps)
    return make_schedule(recipe.optimizer, recipe.train.steps, *again)


def match_paths(params: Params, pattern: str) -> Any:
    """Return a tree of booleans: which parameters' paths ("blocks/attention/query/kernel") match the pattern."""
    found = re.compile(pattern).search
    return map_paths(lambda path, _: found(path) is not None, params)


def make_optimizer(config: OptimizerConfig, schedule: Schedule) -> optax.GradientTransformation:
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
    return beside_statistics(optax.chain(*parts, optax.scale_by_learning_rate(schedule)))


def beside_statistics(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return the rule for weights that subtracts from running statistics their gradient, and nothing else.

    The rule sees no statistics: they have no moments, no decay and no part in the norm that is clipped.
    """

    def weights(tree: Any) -> Any:
        return map_paths(lambda path, leaf: optax.MaskedNode() if is_statistic(path) else leaf, tree)

    def update(gradient: Any, state: Any, params: Params | None = None) -> tuple[Any, Any]:
        steps, state = rule.update(weights(gradient), state, None if params is None else weights(params))
        return map_paths(lambda path, g, step: -g if is_statistic(path) else step, gradient, steps), state

    return optax.GradientTransformation(lambda params: rule.init(weights(params)), update)
