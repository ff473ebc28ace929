"""Several tasks in one batch, in proportions that change from phase to phase.

Multitask training, hints and curricula over size are all this: a curriculum is one task with several ranges of sizes.

    >>> from dataclasses import replace
    >>> from tasks.arithmetic.sorting import Sorting
    >>> sort = Sorting(values=10, longest_train=4, longest_test=6)
    >>> task = TaskMixture(
    ...     parts=(("sort", sort), ("count", replace(sort, ask="count"))),
    ...     phases=(Phase(0.5, (("count", 1.0),)), Phase(0.5, (("sort", 2.0), ("count", 1.0)))),
    ... )
    >>> [[round(float(w), 2) for w in task.weights(step, steps=100)] for step in (0, 49, 50)]
    [[0.0, 1.0], [0.0, 1.0], [0.67, 0.33]]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lm.data.mixture import Phase, boundaries
from lm.evaluate import examine
from lm.strict import ConfigError, nearest
from lm.types import Array, Batch, Evaluation, Example, Key, Mean, Net, Params, Source
from tasks.task import Task


@dataclass(frozen=True)
class TaskMixture(Task):
    """Named tasks that share a vocabulary; each training example comes from one, by the weights of its phase.

    Phases are shares of the steps, each with the weight of every task that it has. The first task is the one examined
    by size; the others are examined too, under their names. Shorter examples are padded behind their end.
    """

    name: ClassVar[str] = "mixture"

    parts: tuple[tuple[str, Task], ...] = ()
    phases: tuple[Phase, ...] = ()

    def __post_init__(self):
        names = [name for name, _ in self.parts]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"task.parts must hold tasks by different names, got {names}")
        for phase in self.phases:
            for name, _ in phase.weights:
                if name not in names:
                    raise ConfigError(
                        f"task.phases weigh {name!r}{nearest(name, names)} (there are {', '.join(names)})"
                    )
        if len({task.vocabulary for task in self.tasks}) > 1:
            vocabularies = ", ".join(f"{name} {task.vocabulary}" for name, task in self.parts)
            raise ConfigError(f"task.parts must share a vocabulary, got {vocabularies}")

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(task for _, task in self.parts)

    @property
    def main(self) -> Task:
        """The task that is examined by size."""
        return self.tasks[0]

    @property
    def vocabulary(self) -> int:
        return self.main.vocabulary

    @property
    def max_length(self) -> int:
        return self.main.max_length

    @property
    def train_length(self) -> int:
        return max(task.train_length for task in self.tasks)

    @property
    def train_sizes(self) -> tuple[int, int]:
        return self.main.train_sizes

    @property
    def test_sizes(self) -> tuple[int, ...]:
        return self.main.test_sizes

    @property
    def test_count(self) -> int:
        return self.main.test_count

    def weights(self, step: Array | int, steps: int) -> Array:
        """Return the probability of each task at a step, [tasks]; the same at all steps where there are no phases."""
        names = [name for name, _ in self.parts]
        phases = self.phases or (Phase(1.0, tuple((name, 1.0) for name in names)),)
        table = jnp.asarray([[dict(phase.weights).get(name, 0.0) for name in names] for phase in phases])
        ends = jnp.asarray(boundaries(phases, steps)[:-1], jnp.int32)
        row = table[jnp.searchsorted(ends, step, side="right")]
        return row / jnp.sum(row)

    def mix(self, key: Key, weights: Array, batch_size: int) -> Batch:
        """Return a batch whose examples are drawn from the tasks by these weights; its `info` says from which."""
        key_which, key_parts = jax.random.split(key)
        which_B = jax.random.choice(key_which, len(self.parts), (batch_size,), p=weights)
        drawn = [
            _padded(task.draw(jax.random.fold_in(key_parts, number), batch_size), self.train_length, axis=1)
            for number, task in enumerate(self.tasks)
        ]
        if any(part.groups is not None for part in drawn):
            drawn = [part if part.groups is not None else _in_one_group(part) for part in drawn]
        chosen = jax.tree.map(lambda *rows: jnp.stack(rows)[which_B, jnp.arange(batch_size)], *drawn)
        return chosen._replace(info={"part": which_B})

    def draw(self, key: Key, batch_size: int) -> Batch:
        """Return a batch of the last phase, which is what training ends with."""
        return self.mix(key, self.weights(1, 2), batch_size)

    def sample(self, key: Key, size: Array) -> Example:
        """Return an example of the task that is examined by size."""
        example = self.main.sample(key, size)
        return _padded(example, self.train_length)._replace(info=example.info)

    def sample_test(self, key: Key, size: Array) -> Example:
        return self.main.sample_test(key, size)

    def test_example(self, key: Key, index: Array, size: Array) -> Example:
        return self.main.test_example(key, index, size)

    def score(self, predictions_L: Array, example: Example) -> dict[str, Array | Mean]:
        return self.main.score(predictions_L, example)

    def render(self, example: Example) -> str:
        return self.main.render(example)

    def spell(self, tokens: Sequence[int]) -> str:
        return self.main.spell(tokens)

    def source(self, recipe: Any, folder: Path) -> Source:
        """Return the mixture's data, whose weights follow the step, and an examination of every task."""
        train = recipe.train

        def draw(key: Key, step: Array) -> Batch:
            return self.mix(jax.random.fold_in(key, step), self.weights(step, train.steps), train.batch_size)

        def evaluate(net: Net, params: Params, key: Key) -> Evaluation:
            found = [examine(net, params, task, key) for task in self.tasks]
            metrics, slices = dict(found[0].metrics), dict(found[0].slices)
            for (name, task), each in zip(self.parts[1:], found[1:], strict=True):
                metrics |= {f"{name}_{metric}": rate for metric, rate in each.metrics.items()}
                slices |= {f"{task.size_name} of {name}": part for part in each.slices.values()}
            return Evaluation(metrics, slices, [example for each in found for example in each.examples])

        return super().source(recipe, folder)._replace(draw=draw, evaluate=evaluate)


def _in_one_group(example: Example) -> Example:
    """Return an example without groups as one whose tokens are all of group 0."""
    return example._replace(groups=jnp.zeros_like(example.inputs))


def _padded(example: Example, length: int, axis: int = 0) -> Example:
    """Return an example, or a batch, without `info` whose length is `length`; what is added is asked of nobody."""

    def widen(x: Array) -> Array:
        return jnp.pad(x, [(0, length - x.shape[axis]) if i == axis else (0, 0) for i in range(x.ndim)])

    return jax.tree.map(widen, example._replace(info={}))
