"""Full parity from few samples, those with few minus signs first: the degree curriculum (Abbe et al. 2023).

Source: arXiv 2301.13105. On points with at most r minus signs a monomial of any degree is a polynomial of degree r, so
that what was learned there is the minimum-degree beginning of the parity. A pass is over the samples with at most r
minus signs; as soon as its mean loss is below `SETTLED` r grows by `stride`. A stride of all signs is no curriculum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import OptimizerConfig, Recipe
from lm.report.pictures import Lines, Picture
from lm.report.svg import Series
from lm.step import DATA, init_state, make_step, purpose, repeat
from lm.strict import ConfigError
from lm.sweep import over_members
from lm.train import build_net, parts_of
from lm.types import Array, Batch, Key, TrainState
from tasks.formal.boolean.unseen import Unseen
from tasks.formal.boolean.unseen_study import unseen_cpu
from tasks.task import Claim, Experiment

PAPER = "Degree curriculum (Abbe et al. 2023)"
SETTLED = 1e-3  # mean loss of a pass below which the next samples join
ENOUGH = 0.95  # accuracy on the points that are no samples, at which a run has succeeded
ORDER = 7_000_021  # folded into a run's key: the order of its passes


class Grid(NamedTuple):
    """The runs of a study: a pair with and without the curriculum for every number of samples."""

    stride: int
    samples: tuple[int, ...]  # the claim is about the first one
    every: int  # steps between looks at the tests


CPU = Grid(4, (2304, 2560, 3072), 250)
FULL = Grid(4, (5056, 3008, 8000, 11008), 1000)


def degree_curriculum_cpu() -> Recipe:
    """A perceptron learns the parity of all of 12 signs, from any points of the cube.

    Adam at 3e-4, 64 points a batch, squared loss. The experiment `degree_curriculum` draws samples of it; in phases of
    equal length it is the command with `--curriculum most 4 8 12`.
    python scripts/train.py degree_curriculum_cpu
    """
    points, task = unseen_cpu(), Unseen("parity", bits=12)
    return replace(
        points,
        name="degree_curriculum_cpu",
        task=task,
        model=replace(points.model, inputs=task.bits),
        optimizer=OptimizerConfig(learning_rate=3e-4, schedule="constant", beta2=0.999, clip=None),
        train=replace(points.train, steps=40_000),
    )


def degree_curriculum_full() -> Recipe:
    """The paper's size: 16 signs, a perceptron with four hidden layers of 512, Adam at 1e-4.

    Abbe et al. 2023; at most 2,000 passes over some 5,000 samples in the experiment.
    python scripts/train.py degree_curriculum_full
    """
    small = degree_curriculum_cpu()
    task = replace(small.task, bits=16)
    return replace(
        small,
        name="degree_curriculum_full",
        task=task,
        model=replace(small.model, inputs=task.bits, width=512, depth=3),
        optimizer=replace(small.optimizer, learning_rate=1e-4),
        train=replace(small.train, steps=160_000),
    )


def split(task: Unseen, samples: int, key: Key) -> tuple[Batch, Batch]:
    """Return so many points of the cube, drawn without replacement, and all the others."""
    points_X = jax.random.permutation(key, 2**task.bits)
    write = jax.vmap(task.write)
    return write(points_X[:samples]), write(points_X[samples:])


def batches_of_pass(train: Batch, most: Array, key: Key, batch_size: int) -> tuple[Batch, Array]:
    """Return the samples with at most `most` minus signs in random order, [passes, batch, ...], and their batches.

    The others stand behind them with weights of 0, so that one program serves every threshold.
    """
    count = len(train.inputs)
    inside_N = jnp.sum(train.inputs, axis=1) <= most
    order_N = jnp.argsort(jnp.where(inside_N, jax.random.uniform(key, (count,)), 1.0))
    train = train._replace(weights=train.weights * inside_N[:, None])
    batches = jax.tree.map(lambda x: x[order_N].reshape(count // batch_size, batch_size, *x.shape[1:]), train)
    return batches, -(-jnp.sum(inside_N) // batch_size)


def climb(recipe: Recipe, samples: int, every: int, seeds: Sequence[int], strides: Sequence[int]) -> tuple[Any, Any]:
    """Return the step at which each member stopped and its accuracy then, [members] each, from one program.

    A member draws its samples and its net from its seed, and is examined on the other points after every `every` steps
    at the end of a pass. It stops where `ENOUGH` of them are right, or at the recipe's last step.
    """
    task, batch_size, limit = recipe.task, recipe.train.batch_size, recipe.train.steps
    if samples % batch_size or not 0 < samples < 2**task.bits:
        raise ConfigError(f"samples must be a multiple of {batch_size} below {2**task.bits}, got {samples}")
    net = build_net(recipe)[1]
    objective, optimizer, _ = parts_of(recipe)
    stretch = repeat(make_step(net, objective, optimizer))

    def member(seed: Array, stride: Array) -> tuple[Array, Array]:
        key = jax.random.key(seed)
        train, test = split(task, samples, purpose(key, DATA))

        def one_pass(carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
            state, most = carry
            order_key = jax.random.fold_in(jax.random.fold_in(key, ORDER), state.step)
            state, metrics = stretch(state, *batches_of_pass(train, most, order_key, batch_size))
            return state, most + stride * (metrics["loss"].value < SETTLED)

        def advance(carry: tuple[TrainState, Array, Array]) -> tuple[TrainState, Array, Array]:
            state, most, _ = carry
            mark = jnp.minimum((state.step // every + 1) * every, limit)
            state, most = jax.lax.while_loop(lambda c: c[0].step < mark, one_pass, (state, most))
            logits_TV = net.apply(state.params, test).logits[:, -1]
            return state, most, jnp.mean(jnp.argmax(logits_TV, axis=-1) == test.targets[:, -1], dtype=jnp.float32)

        begun = (init_state(net, optimizer, key), stride, jnp.float32(0))
        state, _, accuracy = jax.lax.while_loop(lambda c: (c[2] < ENOUGH) & (c[0].step < limit), advance, begun)
        return state.step, accuracy

    return jax.jit(lambda *trees: over_members(member, *trees))(jnp.asarray(seeds), jnp.asarray(strides))


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Learn the parity from each number of samples, with the curriculum and without."""
    recipe, grid = (degree_curriculum_cpu(), CPU) if scale == "cpu" else (degree_curriculum_full(), FULL)
    figures: dict[str, float] = {}
    for samples in grid.samples:
        found = climb(recipe, samples, grid.every, (seed, seed), (grid.stride, recipe.task.bits))
        for arm, steps, accuracy in zip(("curriculum", "plain"), *map(np.asarray, found), strict=True):
            figures[f"steps/{arm}/{samples}"] = float(steps)
            figures[f"accuracy/{arm}/{samples}"] = float(accuracy)
    first = grid.samples[0]
    return figures | {
        "steps_ratio": figures[f"steps/curriculum/{first}"] / figures[f"steps/plain/{first}"],
        "censored": float(sum(rate < ENOUGH for name, rate in figures.items() if name.startswith("accuracy/"))),
    }


def pictures(figures: Mapping[str, Sequence[float]]) -> list[Picture]:
    """Draw the steps to success over the number of samples: median, with whiskers from the lowest to the highest."""
    drawn = []
    for arm in ("curriculum", "plain"):
        name = f"steps/{arm}/"
        found = {int(each.removeprefix(name)): values for each, values in figures.items() if each.startswith(name)}
        rows = [(count, np.median(found[count]), min(found[count]), max(found[count])) for count in sorted(found)]
        drawn.append(Series(arm, *zip(*rows, strict=True)))
    return [
        Lines(
            f"Steps until {ENOUGH:.0%} of the other points are right",
            drawn,
            x_label="samples",
            y_label="steps",
            log=True,
        )
    ]


DEGREE_CURRICULUM = Experiment(
    name="degree_curriculum",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "Parity of 12 signs from 2,304 samples, few minus signs first: steps to 95 % of the other points over those"
            " without the curriculum",
            "steps_ratio",
            at_most=0.5,
            paper_value="(fewer iterations)",
        ),
        Claim(
            PAPER,
            "Full size: parity of 16 signs from 5,056 samples: the same ratio",
            "steps_ratio",
            at_most=0.5,
            scale="full",
        ),
    ),
    run=run,
    pictures=pictures,
)
