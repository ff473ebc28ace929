"""Optimizers and learning-rate schedules from a configuration; every float may be a traced array.

config = OptimizerConfig(schedule="wsd", warmup_steps=100)
optimizer = make_optimizer(config, make_schedule(config, steps=5_000))
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lm.config import OptimizerConfig, Recipe
from lm.transforms.stacking import growth_steps
from lm.transforms.statistics import is_statistic
from lm.transforms.wrap import map_paths, widened
from lm.types import Array, Key, Params

ROUNDING = 5_000_011  # the seed of the bits that round

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
    rule = optax.chain(*parts, optax.scale_by_learning_rate(schedule))
    return beside_statistics(in_few_bits(rule, config.moments == "bfloat16", config.rounding == "stochastic"))


def in_few_bits(rule: optax.GradientTransformation, moments: bool, stochastic: bool) -> optax.GradientTransformation:
    """Return the rule computed in float32 whatever the weights are kept in, with its moments in bfloat16 on demand.

    Stochastic rounding is of those moments and of weights in bfloat16: it keeps steps too small for eight bits, on
    average. The count that the schedule follows names the random bits of a step.
    """

    def keep(state: Any, round_: Callable[[Any], Any]) -> Any:
        return round_(state) if moments else state

    def init(params: Params) -> Any:
        return keep(rule.init(widened(params)), narrowed)

    def update(gradient: Any, state: Any, params: Params | None = None) -> tuple[Any, Any]:
        wide = None if params is None else widened(params)
        steps, after = rule.update(widened(gradient), widened(state), wide)
        if not stochastic:
            return steps, keep(after, narrowed)
        key = jax.random.fold_in(jax.random.key(ROUNDING), state[-1].count)
        key_moments, key_weights = jax.random.split(key)
        if params is not None:
            steps = _to_neighbours(key_weights, params, steps)
        return steps, keep(after, partial(_at_random, key_moments))

    return optax.GradientTransformation(init, update)


def narrowed(tree: Any) -> Any:
    """Return the tree with its float32 arrays in bfloat16, to nearest."""
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, tree)


def round_stochastically(key: Key, x: Array) -> Array:
    """Return float32 in bfloat16: one of the two neighbours, the likelier the nearer it is, so that the mean is x."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + jax.random.bits(key, x.shape, jnp.uint16)
    cut = jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x), cut, x).astype(jnp.bfloat16)


def _at_random(key: Key, tree: Any) -> Any:
    def one(key: Key, x: Array) -> Array:
        return round_stochastically(key, x) if x.dtype == jnp.float32 else x

    return jax.tree.map(one, _keys(key, tree), tree)


def _to_neighbours(key: Key, params: Params, steps: Any) -> Any:
    """Return steps that take weights in bfloat16 to a neighbour of where these lead, and others as they are."""

    def one(key: Key, x: Array, step: Array) -> Array:
        if x.dtype != jnp.bfloat16:
            return step
        wide = x.astype(jnp.float32)
        return round_stochastically(key, wide + step).astype(jnp.float32) - wide

    return jax.tree.map(one, _keys(key, params), params, steps)


def _keys(key: Key, tree: Any) -> Any:
    """Return a key for every leaf."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [jax.random.fold_in(key, i) for i in range(len(leaves))])


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
