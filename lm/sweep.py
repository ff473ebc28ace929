"""Populations: one recipe over seeds and hyper-parameters, trained as one program.

    result = run_sweep(recipe, {"optimizer.learning_rate": [1e-3, 3e-4]}, seeds=range(8))

A float of the optimizer or of the objective is traced, so all its values share one compiled program; any other
field (a depth, a batch size) splits the grid into groups with a program each. Members are spread over the data axis of
the recipe's mesh. On one device they run under `vmap`, or on CPU under `lax.map`, where batched small products are
slower than a loop; the results are equal.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import OBJECTIVES, OptimizerConfig, Recipe
from lm.guard import make_guard
from lm.losses import augmented
from lm.memory import trimmed
from lm.mesh import Mesh, members_mesh, on_one_device, over_data, platform
from lm.step import EVALUATE, init_state, make_step, purpose, repeat, weights
from lm.strict import ConfigError, override
from lm.train import build_net, parts_of, weights_for_use
from lm.transforms import Stage, grow, stages_of
from lm.types import Array, Evaluation, Key, Mean, Source, TrainState

TRACED = tuple(
    f"{part}.{f.name}"
    for part, kinds in {"optimizer": (OptimizerConfig,), "objective": OBJECTIVES.values()}.items()
    for kind in kinds
    for f in dataclasses.fields(kind)
    if f.type in ("float", "float | None")
)


class Member(NamedTuple):
    """One run of a population: its settings and what came of it."""

    seed: int
    values: dict[str, Any]
    state: TrainState
    losses: list[tuple[int, float]]  # (step, mean loss since the row before)
    evaluation: Evaluation


class SweepResult(NamedTuple):
    """All members in the order of the grid, seeds innermost, and the seconds that training took."""

    members: list[Member]
    seconds: float

    def points(self) -> dict[str, list[Member]]:
        """Return the members of each grid point, under a name such as `model.depth 2, optimizer.beta1 0.9`."""
        points: dict[str, list[Member]] = {}
        for member in self.members:
            name = ", ".join(f"{field} {value}" for field, value in member.values.items())
            points.setdefault(name, []).append(member)
        return points


def grid_points(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the grid's values; an empty grid has one point without any."""
    return [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())]


def run_sweep(
    recipe: Recipe,
    grid: Mapping[str, Sequence[Any]],
    seeds: Sequence[int],
    folder: Path = Path("."),
    say: Callable[[str], None] = lambda line: None,
) -> SweepResult:
    """Train and examine every grid point with every seed; each member equals the single run of its recipe.

    A member takes no step that its guard finds bad; one whose budget is spent stands still where its run would end.
    Raises ConfigError for an unknown field, an empty list, or a task whose data is not drawn in the step.
    """
    if not seeds or not all(grid.values()):
        raise ConfigError("a sweep needs at least one seed and one value for every field of the grid")
    if recipe.weights is not None:
        raise ConfigError(f"a sweep draws its weights; {recipe.weights} is for single runs")
    begun = time.perf_counter()
    points = grid_points(grid)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, point in enumerate(points):
        override(recipe, point)  # validates every combination before any of them runs
        groups.setdefault(tuple(point[name] for name in grid if name not in TRACED), []).append(index)
    found: dict[int, list[Member]] = {}
    for number, indices in enumerate(groups.values()):
        say(f"program {number + 1} of {len(groups)}: {len(indices) * len(seeds)} members")
        for index, members in zip(
            indices, _run_group(recipe, [points[i] for i in indices], seeds, folder), strict=True
        ):
            found[index] = members
    return SweepResult([m for index in range(len(points)) for m in found[index]], time.perf_counter() - begun)


@trimmed()
def _run_group(
    recipe: Recipe, points: Sequence[Mapping[str, Any]], seeds: Sequence[int], folder: Path
) -> list[list[Member]]:
    """Train the points that share a program, stage by stage; returns their members, one list a point."""
    recipe = override(recipe, {k: v for k, v in points[0].items() if k not in TRACED})
    source = recipe.task.source(recipe, folder)
    if source.draw is None:
        raise ConfigError(f"a sweep draws data inside the step; {type(recipe.task).__name__} reads a corpus")
    traced = {name: jnp.asarray([p[name] for p in points for _ in seeds]) for name in points[0] if name in TRACED}
    keys_P = jnp.stack([jax.random.key(seed) for _ in points for seed in seeds])
    mesh = members_mesh(recipe.mesh, len(keys_P))
    states_P, rows = None, []
    for stage in stages_of(recipe):
        states_P, more = _run_stage(stage, source, states_P, keys_P, traced, mesh)
        rows += more
    host_P = jax.device_get(on_one_device(states_P)._replace(key=None))  # a member is taken from it without a program
    losses_RP = [(step, np.where(loss.count > 0, loss.value, np.nan)) for step, loss in jax.device_get(rows)]
    plain, settle = build_net(recipe)[0], weights_for_use(recipe, source)
    members = []
    for number, (point, seed) in enumerate(itertools.product(points, seeds)):
        key = jax.random.key(seed)
        state = jax.tree.map(lambda x, i=number: jnp.asarray(x[i]), host_P)._replace(key=key)
        evaluation = source.evaluate(plain, settle(weights(state)), purpose(key, EVALUATE))
        losses = [(step, float(loss_P[number])) for step, loss_P in losses_RP]
        members.append(Member(seed, dict(point), state, losses, evaluation))
    return [members[i * len(seeds) : (i + 1) * len(seeds)] for i in range(len(points))]


def _run_stage(
    stage: Stage, source: Source, states_P: Any, keys_P: Array, traced: Mapping[str, Array], mesh: Mesh
) -> tuple[TrainState, list[tuple[int, Mean]]]:
    """Train all members at one depth, from fresh states or from those of the stage before; returns rows of losses."""
    run, recipe = population(stage.recipe, source, mesh), stage.recipe
    states_P = run.begin(keys_P, traced) if states_P is None else run.grow(states_P, keys_P, traced)
    rows, step, every = [], stage.start, recipe.train.log_every
    while step < stage.stop:
        count = min(every - step % every, stage.stop - step)
        step += count
        states_P, metrics_P = run.stretch(states_P, traced, count)
        rows.append((step, metrics_P["loss"]))
    return states_P, rows


class Population(NamedTuple):
    """The programs of all members at one depth; `values` are those of the grid that are traced, one a member."""

    begin: Callable[..., Any]  # (keys, values) -> states
    grow: Callable[..., Any]  # (states of the stage before, keys, values) -> states
    stretch: Callable[..., Any]  # (states, values, steps) -> (states, metrics)


def population(recipe: Recipe, source: Source, mesh: Mesh) -> Population:
    """Return the programs that train the members of a recipe, at one depth, spread over the data axis of a mesh."""
    net, guard = build_net(recipe)[1], make_guard(recipe.train.guard)

    def begin(key: Key, values: Mapping[str, Array]) -> TrainState:
        _, optimizer, average = parts_of(override(recipe, values))
        return init_state(net, optimizer, key, average, guard)

    def taller(state: TrainState, key: Key, values: Mapping[str, Array]) -> TrainState:
        assert recipe.growth is not None
        return grow(state, begin(key, values), recipe.growth)

    def advance(state: TrainState, values: Mapping[str, Array], count: Array) -> tuple[TrainState, Any]:
        objective, optimizer, average = parts_of(override(recipe, values))
        objective = augmented(objective, source.augment)
        step = make_step(net, objective, optimizer, source.draw, recipe.train.accumulate, average, guard)
        return repeat(step)(state, None, count)

    def on_members(function: Callable[..., Any]) -> Callable[..., Any]:
        return over_data(lambda *trees: over_members(function, *trees), mesh)

    def stretch(states: TrainState, values: Mapping[str, Array], count: Array) -> tuple[TrainState, Any]:
        return on_members(lambda s, v: advance(s, v, count))(states, values)

    return Population(jax.jit(on_members(begin)), jax.jit(on_members(taller)), jax.jit(stretch, donate_argnums=0))


def over_members(function: Callable[..., Any], *trees: Any) -> Any:
    """Map a function over the leading axis P of all its arguments, in the way that suits the platform."""
    if platform() == "cpu":
        return jax.lax.map(lambda arguments: function(*arguments), trees)
    return jax.vmap(function)(*trees)
