"""Width, data, steps and luck: which perceptrons find a sparse parity, and when (Edelman et al. 2023).

A run succeeds at the first step at which at most a tenth of fresh strings is wrong, within the limit of steps.
Runs that never do count as lasting the whole limit; `censored` says how many they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import Recipe
from lm.report.pictures import HeatMap, Picture
from lm.step import EVALUATE, init_state, make_step, purpose, repeat
from lm.strict import override
from lm.sweep import over_members
from lm.train import build_net, parts_of
from lm.types import Array, Key, Params
from tasks.formal.parity.sparse_parity import SparseParity, sparse_parity_cpu
from tasks.task import Claim, Experiment

PAPER = "Pareto frontiers in feature learning (Edelman et al. 2023)"
ERROR = 0.1  # of fresh strings, at which a run has succeeded
STARTS: Mapping[str, int | None] = {"dense": None, "sparse": 2}


class Grid(NamedTuple):
    """The runs of a population: `members` for every problem (bits, degree), start, width and number of samples."""

    problems: tuple[tuple[int, int], ...]
    widths: tuple[int, ...]
    samples: tuple[int, ...]
    members: int
    steps: int


CPU = Grid(((50, 3),), (10, 100, 1000), (600, 1000), 8, 30_000)
FULL = Grid(
    ((50, 3), (50, 4), (100, 3), (100, 4)),
    (10, 100, 1000, 10_000, 100_000),
    (100, 300, 1000, 3000, 10_000, 100_000, 1_000_000),
    50,
    100_000,
)


def race(
    recipe: Recipe,
    seeds: Sequence[int],
    samples: Sequence[int | None],
    every: int = 500,
    begin: Callable[[Params], Params] = lambda params: params,
) -> tuple[np.ndarray, np.ndarray]:
    """Return when each member stopped and the error it had then, [samples, seeds] each, from one program.

    A member draws its hidden set and pool from its seed too; it is looked at after every `every` steps and stops as it
    succeeds. `begin` changes the parameters that it starts with.
    """
    net = build_net(recipe)[1]
    objective, optimizer, _ = parts_of(recipe)
    limit, batch_size = recipe.train.steps, recipe.train.batch_size

    def member(seed: Array, pool: Array | None) -> tuple[Array, Array]:
        task: SparseParity = replace(recipe.task, seed=seed, samples=pool)
        run_key = jax.random.key(seed)
        test_keys = jax.random.split(purpose(run_key, EVALUATE), task.test_count)
        test = jax.vmap(task.sample_test, (0, None))(test_keys, task.bits)

        def draw(key: Key, step: Array):
            return task.draw(jax.random.fold_in(key, step), batch_size)

        stretch = repeat(make_step(net, objective, optimizer, draw))
        state = init_state(net, optimizer, run_key)

        def advance(carry):
            state, _ = stretch(carry[0], None, jnp.minimum(every, limit - carry[0].step))
            wrong = jnp.argmax(net.apply(state.params, test).logits, axis=-1) != test.targets
            return state, jnp.mean(wrong, dtype=jnp.float32)

        begun = (state._replace(params=begin(state.params)), jnp.float32(1))
        state, error = jax.lax.while_loop(lambda c: (c[1] > ERROR) & (c[0].step < limit), advance, begun)
        return state.step, error

    shape = (len(samples), len(seeds))
    pools = None if None in samples else jnp.repeat(jnp.asarray(samples), len(seeds))
    steps_P, errors_P = jax.jit(lambda *trees: over_members(member, *trees))(
        jnp.tile(jnp.asarray(seeds), shape[0]), pools
    )
    return np.asarray(steps_P).reshape(shape), np.asarray(errors_P).reshape(shape)


def grid_figures(grid: Grid, seed: int) -> dict[str, float]:
    """Return the share of successes, the censored runs and the median step of every cell, by name."""
    figures = {}
    seeds = range(seed * grid.members, (seed + 1) * grid.members)
    for bits, degree in grid.problems:
        for start, sparse in STARTS.items():
            for width in grid.widths:
                fields = {"task.bits": bits, "task.degree": degree, "model.inputs": bits, "model.width": width}
                recipe = override(sparse_parity_cpu(), fields | {"model.sparse": sparse, "train.steps": grid.steps})
                for samples, steps_P, errors_P in zip(grid.samples, *race(recipe, seeds, grid.samples), strict=True):
                    cell = f"bits={bits}/degree={degree}/start={start}/width={width}/samples={samples}"
                    figures[f"success/{cell}"] = float(np.mean(errors_P <= ERROR))
                    figures[f"censored/{cell}"] = float(np.sum(errors_P > ERROR))
                    figures[f"steps/{cell}"] = float(np.median(steps_P))
    return figures


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Run the grid of the scale and read from it what the claims are about."""
    if scale == "full":
        return frontier(FULL, grid_figures(FULL, seed))
    found = grid_figures(CPU, seed)

    def both(figure: str, width: int, samples: int) -> list[float]:
        cells = (f"{figure}/bits=50/degree=3/start={start}/width={width}/samples={samples}" for start in STARTS)
        return [found[cell] for cell in cells]

    dense, sparse = both("steps", 1000, 1000)
    few_dense, few_sparse = both("success", 1000, 600)
    return found | {
        "wide": min(both("success", 1000, 1000)),
        "narrow": max(both("success", 10, 1000)),
        "steps_ratio": sparse / dense,
        "sparse_lead": (few_sparse - few_dense) * CPU.members,
    }


def frontier(grid: Grid, found: Mapping[str, float]) -> dict[str, float]:
    """Return the figures with what the claims of full size are about: what width and a sparse start are worth."""
    rising, cells, leap, leads = 0, 0, 0.0, []
    for bits, degree in grid.problems:
        for samples in grid.samples:
            columns = []
            for start in STARTS:
                names = (
                    f"success/bits={bits}/degree={degree}/start={start}/width={w}/samples={samples}"
                    for w in grid.widths
                )
                columns.append([found[name] for name in names])
                for narrow, wide in zip(columns[-1], columns[-1][1:], strict=False):
                    spread = np.sqrt((narrow * (1 - narrow) + wide * (1 - wide)) / grid.members)
                    rising, cells = rising + (wide >= narrow - 2 * spread), cells + 1
                low, high = columns[-1][grid.widths.index(100)], columns[-1][-1]
                leap = max(leap, high * (low == 0))
            if (bits, degree) == (50, 4):
                leads.append(np.mean(columns[1]) - np.mean(columns[0]))
    return {**found, "rising": rising / cells, "leap": leap, "sparse_lead": float(np.mean(leads))}


def pictures(figures: Mapping[str, Sequence[float]]) -> list[Picture]:
    """Draw the chance of success over width and samples, a map for each problem and start, of all seeds together."""
    maps: dict[str, dict[tuple[int, int], float]] = {}
    for name, values in figures.items():
        if name.startswith("success/"):
            _, *problem, width, samples = name.split("/")
            cell = int(width.removeprefix("width=")), int(samples.removeprefix("samples="))
            maps.setdefault(", ".join(problem).replace("=", " "), {})[cell] = float(np.mean(values))
    drawn: list[Picture] = []
    for title, cells in maps.items():
        widths, samples = (sorted({cell[axis] for cell in cells}) for axis in (0, 1))
        drawn.append(
            HeatMap(
                f"Chance of success: {title}",
                [[cells[width, count] for count in samples] for width in widths],
                rows=[f"{width:,}" for width in widths],
                columns=[f"{count:,}" for count in samples],
                row_label="neurons",
                column_label="examples",
                high=1.0,
                percent=True,
            )
        )
    return drawn


SPARSE_PARITY = Experiment(
    name="sparse_parity",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "1,000 neurons find the parity of 3 of 50 bits from 1,000 examples, from either start: share of 8 runs",
            "wide",
            at_least=1,
            paper_value="(width helps)",
        ),
        Claim(PAPER, "10 neurons do so by luck alone: share of 8 runs, the better start", "narrow", at_most=5 / 8),
        Claim(
            PAPER,
            "Two coordinates a neuron to begin with cost fewer steps: median over that of a dense start",
            "steps_ratio",
            at_most=0.75,
        ),
        Claim(
            PAPER,
            "And fewer examples: runs out of 8 by which they lead at 600 examples and 1,000 neurons",
            "sparse_lead",
            at_least=2,
        ),
        Claim(
            PAPER,
            "Full size: success does not fall with width: share of pairs, within two standard errors",
            "rising",
            at_least=0.95,
            paper_value="exceptions within the error",
            scale="full",
        ),
        Claim(
            PAPER,
            "Full size: where 100 neurons never succeed 100,000 do: best share of runs",
            "leap",
            at_least=0.9,
            scale="full",
        ),
        Claim(
            PAPER,
            "Full size: two coordinates to begin with lead at 4 of 50 bits: share of runs",
            "sparse_lead",
            at_least=0,
            scale="full",
        ),
    ),
    run=run,
    pictures=pictures,
)
