"""Several tasks in one batch, in proportions that change from phase to phase.

Multitask training, hints and curricula over size are all this: a curriculum is one task with several values of a field.

    >>> from dataclasses import replace
    >>> from tasks.arithmetic.sorting import Sorting
    >>> sort = Sorting(values=10, longest_train=4, longest_test=6)
    >>> task = TaskMixture(
    ...     parts=(("sort", sort), ("count", replace(sort, ask="count"))),
    ...     phases=(Phase(0.5, (("count", 1.0),)), Phase(0.5, (("sort", 2.0), ("count", 1.0)))),
    ... )
    >>> [[round(float(w), 2) for w in task.weights(step, steps=100)] for step in (0, 49, 50)]
    [[0.0, 1.0], [0.0, 1.0], [0.67, 0.33]]
    >>> shorter = curriculum(sort, "longest_train", (2, 3, 4))
    >>> [int(shorter.weights(step, steps=90).argmax()) for step in (0, 30, 60)]  # the last one stands first
    [1, 2, 0]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lm.data.mixture import Phase, boundaries
from lm.evaluate import examine
from lm.strict import ConfigError, check_types, nearest, require_choice
from lm.types import Array, Batch, Evaluation, Example, Key, Mean, Net, Params, Source
from tasks.task import Task


@dataclass(frozen=True)
class TaskMixture(Task):
    """Named tasks that share a vocabulary; each training example comes from one, by the weights of its phase.

    Phases are shares of the steps, each with the weight of every task that it has. The first task is examined by size;
    unless it is to be `alone` the others are examined too, under their names. Shorter examples are padded behind.
    """

    name: ClassVar[str] = "mixture"

    parts: tuple[tuple[str, Task], ...] = ()
    phases: tuple[Phase, ...] = ()
    alone: bool = False  # only the first task is examined

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
        """Return a batch whose examples are drawn from the tasks by these weights; `info["part"]` says from which.

        Of their own `info` it holds what all tasks have in one shape.
        """
        key_which, key_parts = jax.random.split(key)
        which_B = jax.random.choice(key_which, len(self.parts), (batch_size,), p=weights)
        drawn = [
            _padded(task.draw(jax.random.fold_in(key_parts, number), batch_size), self.train_length, axis=1)
            for number, task in enumerate(self.tasks)
        ]
        if any(part.groups is not None for part in drawn):
            drawn = [part if part.groups is not None else _in_one_group(part) for part in drawn]
        shapes = [{(name, x.shape) for name, x in batch.info.items()} for batch in drawn]
        shared = [name for name, _ in set.intersection(*shapes)]
        drawn = [batch._replace(info={name: batch.info[name] for name in shared}) for batch in drawn]
        chosen = jax.tree.map(lambda *rows: jnp.stack(rows)[which_B, jnp.arange(batch_size)], *drawn)
        return chosen._replace(info=chosen.info | {"part": which_B})

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
            examined = self.parts[:1] if self.alone else self.parts
            found = [examine(net, params, task, key) for _, task in examined]
            metrics, slices = dict(found[0].metrics), dict(found[0].slices)
            for (name, task), each in zip(examined[1:], found[1:], strict=True):
                metrics |= {f"{name}_{metric}": rate for metric, rate in each.metrics.items()}
                slices |= {f"{task.size_name} of {name}": part for part in each.slices.values()}
            return Evaluation(metrics, slices, [example for each in found for example in each.examples])

        return super().source(recipe, folder)._replace(draw=draw, evaluate=evaluate)


def _in_one_group(example: Example) -> Example:
    """Return an example without groups as one whose tokens are all of group 0."""
    return example._replace(groups=jnp.zeros_like(example.inputs))


def curriculum(task: Task, field: str, values: Sequence[int], shares: Sequence[float] = ()) -> TaskMixture:
    """Return a task that is trained with one value of a field after another, and examined with the last.

    Any field that says how hard the task is will do: `curriculum(task, "longest_train", (5, 10, 20))`. Phases are
    equally long unless `shares` says otherwise. Raises ConfigError for what the task does not take.
    """
    require_choice("curriculum", field, [each.name for each in fields(task)])
    if len(set(values)) < max(len(values), 2):
        raise ConfigError(f"a curriculum needs different values of {field}, got {list(values)}")
    if len(shares or values) != len(values):
        raise ConfigError(f"a curriculum over {len(values)} values of {field} needs as many shares, got {len(shares)}")
    for value in values:
        check_types(type(task), {field: value}, "task")
    parts = [(f"{field} {value}", replace(task, **{field: value})) for value in values]
    shares = shares or [1.0] * len(parts)
    phases = [Phase(share, ((name, 1.0),)) for share, (name, _) in zip(shares, parts, strict=True)]
    return TaskMixture((parts[-1], *parts[:-1]), tuple(phases), alone=True)


def _padded(example: Example, length: int, axis: int = 0) -> Example:
    """Return an example, or a batch, whose length is `length`; what is added is asked of nobody."""
    own = example.inputs.shape[axis]

    def widen(x: Array) -> Array:
        if x.ndim <= axis or x.shape[axis] != own:  # one thing an example
            return x
        return jnp.pad(x, [(0, length - own) if i == axis else (0, 0) for i in range(x.ndim)])

    return jax.tree.map(widen, example)
