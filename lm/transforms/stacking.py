"""Growth by stacking: a deeper model starts from a shallower one through one index map on the depth axis.

    stages = stages_of(recipe)                      # a recipe and a range of steps for each depth
    taller = grow(state, fresh, recipe.growth)      # fresh: init_state of the next stage, of which the shapes count

With copies this is accelerated gradient descent over stages, with zeros the plain one (Agarwal et al. 2024).
Nothing here knows the model: a parameter whose path has the component `blocks` is a stack (`lm.transforms.wrap`),
and one whose shape differs between the stages is mapped, whether it is a weight, a moment or an average.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lm.config import Growth, Recipe
from lm.strict import ConfigError
from lm.transforms.wrap import is_stacked, map_paths
from lm.types import Array, Params, TrainState


class Stage(NamedTuple):
    """The part of a run at one depth: its recipe, and the steps from `start` up to `stop`."""

    recipe: Recipe
    start: int
    stop: int


class IndexMap(NamedTuple):
    """Which layer of the old stack each layer of the new one is taken from, and which layers are new."""

    source: tuple[int, ...]
    added: tuple[int, ...]


def stage_lengths(growth: Growth, steps: int) -> tuple[int, ...]:
    """Return the steps of each stage: whole numbers that sum to `steps`; ConfigError where a stage gets none.

    PROP-alpha gives stage i a share i ** alpha of the steps (Agarwal et al. 2024, section 5); what rounding
    leaves goes to the last stage.
    """
    if growth.schedule == "explicit":
        lengths = growth.steps
        if sum(lengths) != steps:
            raise ConfigError(f"growth.steps sum to {sum(lengths)}, train.steps is {steps}")
    else:
        doubling = growth.schedule == "doubling"
        shares = [2.0**i if doubling else i**growth.alpha for i in range(1, len(growth.depths) + 1)]
        short = [math.floor(steps * share / sum(shares)) for share in shares[:-1]]
        lengths = (*short, steps - sum(short))
    if min(lengths) < 1:
        raise ConfigError(f"growth.schedule gives stages of {', '.join(map(str, lengths))} steps; train for more")
    return tuple(lengths)


def stages_of(recipe: Recipe) -> list[Stage]:
    """Return the stages of a recipe; one that does not grow has a single one."""
    growth, steps = recipe.growth, recipe.train.steps
    if growth is None:
        return [Stage(recipe, 0, steps)]
    full = getattr(recipe.model, "depth", None)
    if full != growth.depths[-1]:
        raise ConfigError(f"growth.depths must end at model.depth {full}, got {growth.depths}")
    stages, start = [], 0
    for depth, length in zip(growth.depths, stage_lengths(growth, steps), strict=True):
        model = dataclasses.replace(recipe.model, depth=depth)
        stages.append(Stage(dataclasses.replace(recipe, model=model), start, start + length))
        start += length
    return stages


def stages_from(recipe: Recipe, step: int) -> list[Stage]:
    """Return the stages yet to come, the first being that of a state saved at `step`, which has not grown yet."""
    return [stage for stage in stages_of(recipe) if step <= stage.stop]


def growth_steps(growth: Growth, steps: int) -> tuple[int, ...]:
    """Return the steps before which the model grows."""
    return tuple(itertools.accumulate(stage_lengths(growth, steps)[:-1]))


def index_map(place: str, old: int, new: int) -> IndexMap:
    """Return how a stack of `old` layers becomes one of `new`; ConfigError where it has no such block to copy.

    The block has new - old layers. On `top` it follows the last block; in the `middle` it stands right behind
    the middle block, number ceil(n / 2) of n (MIDAS, Saunshi et al. 2024).
    """
    block = new - old
    if not 0 < block <= old:
        raise ConfigError(f"a stack of {old} layers cannot grow to {new}: at most {2 * old} in one stage")
    count = old // block
    end = old if place == "top" else math.ceil(count / 2) * block
    source = (*range(end), *range(end - block, end), *range(end, old))
    return IndexMap(source, tuple(range(end, end + block)))


def preserved(growth: Growth) -> frozenset[str]:
    """Return what a growth leaves as it was.

    layers    each old layer has its parameters, at its new place
    copies    each new layer has the parameters of the layer it is taken from
    moments   the optimizer's moments follow their parameters, and the count goes on
    outputs   the net computes the same function, where it has a residual stream that only `scaled` writes to
    """
    kept = {"layers"}
    if growth.fill == "copy" and growth.scale == 1.0:
        kept.add("copies")
    if growth.moments == "copy":
        kept.add("moments")
    if growth.scale == 0.0:
        kept.add("outputs")
    return frozenset(kept)


def grow(state: TrainState, fresh: TrainState, growth: Growth) -> TrainState:
    """Return the state of the deeper model: weights, moments and average through one index map.

    `fresh` is a new state of the deeper model: it gives the shapes, the layers of a random fill, and the
    optimizer's state where moments are reset. Jittable; the step and what has no depth axis stay as they are, and the
    guard learns anew how large gradients are.
    """
    opt_state = fresh.opt_state if growth.moments == "reset" else stack(state.opt_state, fresh.opt_state, growth)
    if growth.moments == "reset":
        opt_state = _keep_schedule(state.opt_state, opt_state)
    guard = state.guard
    if guard is not None and fresh.guard is not None:
        guard = guard._replace(norm=fresh.guard.norm, seen=fresh.guard.seen)
    return TrainState(
        step=state.step,
        params=scale_added(stack(state.params, fresh.params, growth), state.params, growth),
        opt_state=opt_state,
        ema=None if state.ema is None else scale_added(stack(state.ema, fresh.params, growth), state.params, growth),
        key=state.key,
        guard=guard,
    )


def stack(old: Any, fresh: Any, growth: Growth) -> Any:
    """Map every leaf of a tree whose depth differs from that of `fresh`, a tree of the deeper model."""

    def place(path: str, tall: Array, short: Array) -> Array:
        if tall.shape == short.shape:
            return short
        if not is_stacked(path) or tall.shape[1:] != short.shape[1:]:
            raise ConfigError(f"growth cannot take {path} from shape {list(short.shape)} to {list(tall.shape)}")
        layers = index_map(growth.place, short.shape[0], tall.shape[0])
        taken = short[jnp.array(layers.source)]
        if growth.fill == "copy":
            return taken
        new = jnp.array(layers.added)
        return taken.at[new].set(tall[new])

    if jax.tree.structure(old) != jax.tree.structure(fresh):  # type: ignore[operator]
        raise ConfigError("growth needs stages of the same parameters; does the first depth leave a stack empty?")
    return map_paths(place, fresh, old)


def scale_added(tall: Params, short: Params, growth: Growth) -> Params:
    """Multiply by `growth.scale` what the new layers add to the residual stream; ConfigError where nothing adds."""
    if growth.scale == 1.0:
        return tall
    writes = re.compile(growth.scaled).search
    found = []

    def scale(path: str, leaf: Array, before: Array) -> Array:
        if leaf.shape == before.shape or not writes(path):
            return leaf
        found.append(path)
        added = jnp.array(index_map(growth.place, before.shape[0], leaf.shape[0]).added)
        return leaf.at[added].multiply(growth.scale)

    scaled = map_paths(scale, tall, short)
    if not found:
        raise ConfigError(f"growth.scaled {growth.scaled!r} names no parameter of the layers that are added")
    return scaled


def _keep_schedule(old: Any, fresh: Any) -> Any:
    """Return the fresh optimizer state with the count that the learning rate follows."""
    is_count = lambda node: isinstance(node, optax.ScaleByScheduleState)  # noqa: E731
    return jax.tree.map(lambda new, kept: kept if is_count(new) else new, fresh, old, is_leaf=is_count)
