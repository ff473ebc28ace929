"""Learn a Boolean function from the examples in the prompt (Bhattamishra et al. 2023, arXiv 2310.03016).

A prompt is x1, y1, x2, y2, ... with points x in {-1, +1}^width and labels y in {-1, +1}, each input a vector: a label
is its own first coordinate, zeros behind. Every label is asked where its point stands; function and points are fresh.

    >>> task = BooleanFunctions(width=4, points=6)
    >>> example = task.sample(jax.random.key(4), 6)
    >>> print(task.render(example), "->", task.spell(example.targets[example.weights > 0]))
    ---- +-++ ++-- ---- +-++ +--+ -> + - + + - -
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import Learned, OptimizerConfig, Recipe, TrainConfig, TransformerConfig
from lm.exits import UserError
from lm.strict import ConfigError, override, require_choice
from lm.types import Array, Example, Key, Mean
from tasks.task import Task

RANDOM = 20  # points whose label is a coin, where later ones take that of their nearest neighbour


class Function(NamedTuple):
    """Integer weights [C, N], one row a clause, and a threshold; a family says how they label a point."""

    weights: Array
    threshold: Array


def literals(positive: float, negative: float, key: Key, shape: tuple[int, ...]) -> Array:
    """Return 0, +1 or -1 for each coordinate by itself."""
    u = jax.random.uniform(key, shape)
    return jnp.where(u < positive, 1, jnp.where(u < positive + negative, -1, 0))


def subset(size: int, key: Key, shape: tuple[int, ...]) -> Array:
    """Return 1 for `size` coordinates of each row, 0 for the others."""
    ranks = jnp.argsort(jnp.argsort(jax.random.uniform(key, shape), axis=-1), axis=-1)
    return (ranks < size).astype(jnp.int32)


def integers(bound: int, key: Key, shape: tuple[int, ...]) -> Array:
    """Return weights uniform over -bound..bound."""
    return jax.random.randint(key, shape, -bound, bound + 1)


def any_conjunction(function: Function, x_MN: Array) -> Array:
    """Say for each point whether all literals of some clause hold, [M]."""
    return jnp.any(x_MN @ function.weights.T >= jnp.abs(function.weights).sum(axis=1)[None], axis=1)


def every_disjunction(function: Function, x_MN: Array) -> Array:
    """Say for each point whether some literal of every clause holds, [M]."""
    return jnp.all(x_MN @ function.weights.T > -jnp.abs(function.weights).sum(axis=1)[None], axis=1)


def odd(function: Function, x_MN: Array) -> Array:
    """Say for each point whether an odd number of the chosen coordinates is +1, [M]."""
    return (x_MN > 0) @ function.weights[0] % 2 == 1


def above(function: Function, x_MN: Array) -> Array:
    """Say for each point whether its weighted sum exceeds the threshold, which no sum equals, [M]."""
    return x_MN @ function.weights[0] > function.threshold


def copied(key: Key, x_MN: Array) -> Array:
    """Return a coin for the first points, and for later ones the label of the earlier point nearest by angle, [M].

    Ties go to the first; among the first points the same point has the same label.
    """
    points, width = x_MN.shape
    order_M = jnp.arange(points)
    likeness_MM = jnp.where(order_M[None] < order_M[:, None], x_MN @ x_MN.T, -width - 1)
    nearest_M = jnp.argmax(likeness_MM, axis=1)
    alone_M = (order_M < RANDOM) & (jnp.max(likeness_MM, axis=1) < width)
    source_M = jnp.where(alone_M, order_M, nearest_M)
    for _ in range(points.bit_length()):  # each turn doubles how far a label has come
        source_M = source_M[source_M]
    return jax.random.bernoulli(key, 0.5, (points,))[source_M]


class Family(NamedTuple):
    """How functions of a kind are drawn, how they label, and which points are made to have a label.

    A share `forced` of the points satisfies one clause of the prompt (`towards` 1) or falsifies it (-1). A prompt that
    `teaches` begins with that many positive points of each clause, which differ in all that is irrelevant, and with
    all points that miss the first of these by one relevant coordinate.
    """

    weights: Callable[[Key, tuple[int, ...]], Array]
    label: Callable[[Function, Array], Array] | None  # None: `copied`
    clauses: int = 1
    forced: float = 0.0
    towards: int = 1
    thresholds: int = 0  # the threshold is drawn from -thresholds + 1/2 .. thresholds - 1/2; 0: it is 1/2
    teaches: int = 0

    def draw(self, key: Key, width: int) -> Function:
        """Return a function of `width` coordinates."""
        key_weights, key_threshold = jax.random.split(key)
        threshold = jax.random.randint(key_threshold, (), -self.thresholds, max(self.thresholds, 1))
        return Function(self.weights(key_weights, (self.clauses, width)), threshold + 0.5)


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "conjunction": Family(partial(literals, 0.15, 0.15), any_conjunction, forced=0.3),
        "disjunction": Family(partial(literals, 0.15, 0.15), every_disjunction, forced=0.3, towards=-1),
        "dnf": Family(partial(literals, 0.1, 0.1), any_conjunction, clauses=3, forced=0.35),
        "cnf": Family(partial(literals, 0.1, 0.1), every_disjunction, clauses=3, forced=0.3, towards=-1),
        "sparse_disjunction": Family(partial(subset, 4), every_disjunction, forced=0.3, towards=-1),
        "sparse_parity": Family(partial(subset, 2), odd),
        "parity": Family(partial(literals, 0.5, 0.0), odd),
        "majority": Family(partial(literals, 0.3, 0.0), above),
        "halfspace": Family(partial(integers, 3), above),
        "sparse_threshold": Family(partial(literals, 0.15, 0.15), above, thresholds=3),
        "nearest_neighbour": Family(partial(literals, 0.0, 0.0), None),
        "taught_monotone_conjunction": Family(partial(literals, 0.3, 0.0), any_conjunction, forced=0.4, teaches=1),
        "taught_conjunction": Family(partial(literals, 0.15, 0.15), any_conjunction, forced=0.4, teaches=2),
        "taught_dnf": Family(partial(literals, 0.2, 0.0), any_conjunction, clauses=3, forced=0.35, teaches=1),
    }
)


def teaching(function: Function, positives: int, points: int) -> tuple[Array, Array]:
    """Return the points that teach a function, clause after clause, [points, N], and how many of them do."""
    w_CN = function.weights
    width = w_CN.shape[1]
    low_CN, high_CN = (jnp.where(w_CN == 0, filler, w_CN) for filler in (-1, 1))
    misses_CNN = jnp.where(jnp.eye(width, dtype=bool)[None], -low_CN[:, None], low_CN[:, None])
    rows = jnp.concatenate([jnp.stack([low_CN, high_CN], axis=1), misses_CNN], axis=1).reshape(-1, width)
    given = jnp.broadcast_to(jnp.arange(2) < positives, (len(w_CN), 2))
    teaches = jnp.concatenate([given, w_CN != 0], axis=1).ravel()
    order = jnp.argsort(~teaches, stable=True)
    return rows[order[jnp.minimum(jnp.arange(points), len(rows) - 1)]], jnp.sum(teaches)


@dataclass(frozen=True)
class BooleanFunctions(Task):
    """Prompts of up to `points` points of `width` coordinates, labelled by a function of the family."""

    name: ClassVar[str] = "boolean_functions"
    size_name: ClassVar[str] = "points"

    family: str = "conjunction"
    width: int = 8
    points: int = 24

    def __post_init__(self):
        require_choice("task.family", self.family, tuple(FAMILIES))
        if self.width < 4:
            raise ConfigError(f"task.width must be at least 4, got {self.width}")
        if self.points < 2:
            raise ConfigError(f"task.points must be at least 2, got {self.points}")

    @property
    def vocabulary(self) -> int:
        """Labels: 0 is -1, 1 is +1."""
        return 2

    @property
    def max_length(self) -> int:
        return 2 * self.points - 1

    @property
    def train_sizes(self) -> tuple[int, int]:
        return self.points, self.points

    @property
    def test_sizes(self) -> tuple[int, ...]:
        return (self.points,)

    def sample(self, key: Key, size: Array) -> Example:
        x_MN, label_M, taught = self.prompt(key)
        order_L = jnp.arange(self.max_length)
        asked_L = (order_L % 2 == 0) & (order_L < 2 * size)
        labels_MN = jnp.zeros_like(x_MN).at[:, 0].set(2 * label_M - 1)
        inputs_LN = jnp.stack([x_MN, labels_MN], axis=1).reshape(2 * self.points, self.width)[:-1]
        return Example(
            inputs=jnp.where(order_L[:, None] < 2 * size - 1, inputs_LN, 0).astype(jnp.float32),
            targets=jnp.where(asked_L, jnp.repeat(label_M, 2)[:-1], 0).astype(jnp.int32),
            weights=asked_L.astype(jnp.float32),
            positions=order_L,
            info={"points": x_MN, "labels": label_M, "taught": taught, "size": jnp.asarray(size)},
        )

    def prompt(self, key: Key) -> tuple[Array, Array, Array]:
        """Return points [M, N] of -1 and 1, whether each is positive [M], and how many of them teach."""
        family = FAMILIES[self.family]
        key_function, key_points, key_forced, key_clause, key_coins = jax.random.split(key, 5)
        function = family.draw(key_function, self.width)
        x_MN = 2 * jax.random.bernoulli(key_points, 0.5, (self.points, self.width)).astype(jnp.int32) - 1
        clause_N = function.weights[jax.random.randint(key_clause, (), 0, family.clauses)]
        forced_M = jax.random.bernoulli(key_forced, family.forced, (self.points,))
        x_MN = jnp.where(forced_M[:, None] & (clause_N != 0)[None], family.towards * clause_N[None], x_MN)
        taught = jnp.zeros((), jnp.int32)
        if family.teaches:
            lesson_MN, taught = teaching(function, family.teaches, self.points)
            x_MN = jnp.where(jnp.arange(self.points)[:, None] < taught, lesson_MN, x_MN)
        label_M = copied(key_coins, x_MN) if family.label is None else family.label(function, x_MN)
        return x_MN, label_M, taught

    def score(self, predictions_L: Array, example: Example) -> dict[str, Array | Mean]:
        last = 2 * (example.info["size"] - 1)
        right = predictions_L[last] == example.targets[last]
        return super().score(predictions_L, example) | {"last_point": right.astype(jnp.float32)}

    def render(self, example: Example) -> str:
        shown = np.asarray(example.info["points"])[: int(example.info["size"])]
        return " ".join("".join("+" if x > 0 else "-" for x in point) for point in shown)

    def spell(self, tokens: Sequence[int]) -> str:
        return " ".join("-+"[int(t)] for t in tokens)

    def read(self, text: str) -> list[int]:
        raise UserError(f"{self.name} asks about vectors, which cannot be given as text")


def boolean_conjunction_cpu() -> Recipe:
    """Three layers of width 64 learn conjunctions of 8 literals from up to 23 examples in the prompt.

    Bhattamishra et al. 2023. 97 % right at the last point, as elimination 99 % and the nearest neighbour 84 %; about
    two minutes on one CPU core.
    python scripts/train.py boolean_conjunction_cpu
    """
    task = BooleanFunctions()
    return Recipe(
        name="boolean_conjunction_cpu",
        task=task,
        model=TransformerConfig(
            vocabulary=2,
            inputs=task.width,
            depth=3,
            width=64,
            heads=4,
            norm="layer",
            bias=True,
            tied=False,
            positions=Learned(rows=2 * task.points),
            initialisation="lecun",
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=100, beta2=0.999),
        train=TrainConfig(steps=4000, batch_size=32),
    )


def boolean_parity_cpu() -> Recipe:
    """Parities of 8 bits stay at chance, although eight independent examples determine each of them.

    Bhattamishra et al. 2023; less than a minute on one CPU core.
    python scripts/train.py boolean_parity_cpu
    """
    small = boolean_conjunction_cpu()
    return replace(
        small,
        name="boolean_parity_cpu",
        task=replace(small.task, family="parity"),
        train=replace(small.train, steps=1500),
    )


def boolean_taught_cpu() -> Recipe:
    """A prompt that begins with a teaching sequence: every label right as soon as the function is determined.

    Bhattamishra et al. 2023, section 5; less than a minute on one CPU core.
    python scripts/train.py boolean_taught_cpu
    """
    small = boolean_conjunction_cpu()
    return replace(
        small,
        name="boolean_taught_cpu",
        task=replace(small.task, family="taught_conjunction"),
        train=replace(small.train, steps=1000),
    )


def boolean_conjunction_full() -> Recipe:
    """The paper's size: 28 coordinates, 70 points, 12 layers of width 256.

    Bhattamishra et al. 2023, figure 1: near 100 % at 40 to 70 examples.
    python scripts/train.py boolean_conjunction_full
    """
    small, task = boolean_conjunction_cpu(), BooleanFunctions(width=28, points=70)
    larger = {"inputs": 28, "depth": 12, "width": 256, "heads": 8, "positions": Learned(rows=2 * task.points)}
    return replace(
        small,
        name="boolean_conjunction_full",
        task=task,
        model=override(small.model, larger),
        optimizer=replace(small.optimizer, learning_rate=1e-4, warmup_steps=1000),
        train=replace(small.train, steps=20_000, batch_size=64, save_every=5000),
    )
