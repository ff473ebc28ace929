"""Balanced brackets of bounded depth: say what may come next (Wen et al. 2023, arXiv 2312.01429).

    >>> task = Dyck(length=10)
    >>> example = task.sample(jax.random.key(0), 10)
    >>> print(task.render(example))
    ( ( [ ] ) [ [ ] ] )

Read through a perfect first layer, a token is its bracket and its depth: an opening one has the depth that it
reaches, a closing one that of the bracket it closes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import ConsistencyLoss, OptimizerConfig, ReaderConfig, Recipe, TrainConfig
from lm.strict import ConfigError, require_choice
from lm.types import Array, Example, Key, Mean
from tasks.build import below, fraction
from tasks.score import masked
from tasks.task import Task

PAD, MASK, START, END, BRACKETS = range(5)  # opening brackets from BRACKETS on, then closing ones
SURE = 0.8  # of the probability of all closing brackets, that the right one must have


@dataclass(frozen=True)
class Dyck(Task):
    """Prefixes of balanced strings of `kinds` kinds of brackets, at most `depth` deep; START is in front.

    The size is the length of a prefix. Form `tokens` hands out brackets, `depths` brackets with their depths. With
    `pumped`, `info["same"]` is the string behind a balanced one, which asks for the same predictions.
    """

    name: ClassVar[str] = "dyck"
    size_name: ClassVar[str] = "brackets"

    kinds: int = 2
    depth: int = 4
    length: int = 28
    longest: int = 300
    form: str = "depths"  # tokens, depths
    pumped: bool = False

    def __post_init__(self):
        require_choice("task.form", self.form, ("tokens", "depths"))
        if not (1 <= self.kinds <= 8 and 1 <= self.depth <= 16):
            raise ConfigError(f"task.kinds and task.depth must lie in 1..8 and 1..16, got {self.kinds}, {self.depth}")
        if not 2 <= self.length <= self.longest:
            raise ConfigError(f"task.length must lie in 2..task.longest, got {self.length} and {self.longest}")

    @property
    def outputs(self) -> int:
        """Tokens that are predicted."""
        return BRACKETS + 2 * self.kinds

    @property
    def vocabulary(self) -> int:
        return self.outputs + (2 * self.kinds * self.depth if self.form == "depths" else 0)

    @property
    def max_length(self) -> int:
        return self.longest

    @property
    def train_length(self) -> int:
        return self.length

    @property
    def train_sizes(self) -> tuple[int, int]:
        return self.length, self.length

    @property
    def test_sizes(self) -> tuple[int, ...]:
        return tuple(sorted({self.length, (self.length + self.longest) // 2, self.longest}))

    @property
    def test_count(self) -> int:
        return 256

    def sample(self, key: Key, size: Array) -> Example:
        return self._sample(key, size, self.length)

    def sample_test(self, key: Key, size: Array) -> Example:
        return self._sample(key, size, self.longest)

    def _sample(self, key: Key, size: Array, length: int) -> Example:
        key_walk, key_pump = jax.random.split(key)
        example = self.example(*walk(jax.random.bits(key_walk, (length, 2)), self.kinds, self.depth), size)
        if not self.pumped:
            return example
        before_P = self.ids(*pump(key_pump, self.kinds, self.depth))
        same = jnp.concatenate([example.inputs[:1], before_P, example.inputs[1:]])
        return example._replace(info=example.info | {"same": same})

    def example(self, tokens_L: Array, depths_L: Array, size: Array | int) -> Example:
        """Return a string as an example that asks for each bracket from those before it."""
        length = tokens_L.shape[0]
        order_L = jnp.arange(length)
        read_L = self.ids(tokens_L, depths_L)
        inside_L = order_L < size
        return Example(
            inputs=jnp.where(inside_L, jnp.concatenate([jnp.full(1, START), read_L[:-1]]), START).astype(jnp.int32),
            targets=jnp.where(inside_L, tokens_L, PAD).astype(jnp.int32),
            weights=inside_L.astype(jnp.float32),
            positions=order_L,
            info={"closes": inside_L & (tokens_L >= BRACKETS + self.kinds)},
        )

    def ids(self, tokens_L: Array, depths_L: Array) -> Array:
        """Return what a model reads: brackets, or from `outputs` on brackets with their depths."""
        return tokens_L if self.form == "tokens" else self.outputs + (tokens_L - BRACKETS) * self.depth + depths_L - 1

    def score(self, predictions_L: Array, example: Example) -> dict[str, Array | Mean]:
        """Grade all brackets, and the closing ones apart: what opens is chance, what closes is not."""
        wrong = masked(predictions_L != example.targets, example.info["closes"])
        return super().score(predictions_L, example) | {"closing_error": wrong}

    def render(self, example: Example) -> str:
        targets = np.asarray(example.targets)
        return self.spell(targets[targets >= BRACKETS])

    def spell(self, tokens: Sequence[int]) -> str:
        brackets = [*"([{<abcd"[: self.kinds], *")]}>ABCD"[: self.kinds]]
        names = ["_", "?", "^", "$", *brackets, *(f"{b}{d + 1}" for b in brackets for d in range(self.depth))]
        return " ".join(names[t] for t in map(int, tokens))


def walk(bits_L2: Array, kinds: int, depth: int) -> tuple[Array, Array]:
    """Return the tokens of a random prefix and their depths 1..depth, by a scan over the stack.

    A bracket opens at depth 0 and closes at full depth; elsewhere both have probability 1/2, and kinds are even.
    """

    def step(carry: tuple[Array, Array], bits: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        stack_D, height = carry
        opens = (height == 0) | ((height < depth) & (fraction(bits[0]) < 0.5))
        kind = jnp.where(opens, below(bits[1], kinds), stack_D[jnp.maximum(height - 1, 0)])
        at = jnp.where(opens, height, height - 1)
        stack_D = stack_D.at[at].set(kind)
        token = BRACKETS + kind + jnp.where(opens, 0, kinds)
        return (stack_D, jnp.where(opens, height + 1, height - 1)), (token, at + 1)

    return jax.lax.scan(step, (jnp.zeros(depth, jnp.int32), jnp.int32(0)), bits_L2)[1]


def pump(key: Key, kinds: int, depth: int) -> tuple[Array, Array]:
    """Return a balanced string that goes straight up and down, with one more pair at a random depth, [2 depth + 2]."""
    key_kinds, key_pair, key_depth = jax.random.split(key, 3)
    kinds_D = jax.random.randint(key_kinds, (depth,), 0, kinds)
    pair, at = jax.random.randint(key_pair, (), 0, kinds), jax.random.randint(key_depth, (), 0, depth)
    order = jnp.arange(2 * depth + 2)
    inserted = (order == at) | (order == at + 1)
    place = jnp.where(order < at, order, order - 2)  # in the string without the pair
    level = jnp.where(inserted, at, jnp.where(place < depth, place, 2 * depth - 1 - place))
    closes = jnp.where(inserted, order == at + 1, place >= depth)
    kind = jnp.where(inserted, pair, kinds_D[level])
    return BRACKETS + kind + kinds * closes, level + 1


def measure(tokens: Sequence[int], kinds: int) -> list[int] | None:
    """Return the depth of each bracket of a string, or None where brackets do not match."""
    stack: list[int] = []
    depths = []
    for token in tokens:
        kind, closes = (token - BRACKETS) % kinds, token >= BRACKETS + kinds
        if closes and (not stack or stack[-1] != kind):
            return None
        if not closes:
            stack.append(kind)
        depths.append(len(stack))
        if closes:
            stack.pop()
    return depths


def balanced(pairs: int, kinds: int, depth: int) -> Iterator[tuple[int, ...]]:
    """Yield every balanced string with so many pairs of brackets."""

    def go(prefix: tuple[int, ...], stack: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(prefix) == 2 * pairs:
            yield prefix
            return
        if stack:
            yield from go((*prefix, BRACKETS + kinds + stack[-1]), stack[:-1])
        if len(stack) < min(depth, 2 * pairs - len(prefix)) and len(prefix) + len(stack) < 2 * pairs:
            for kind in range(kinds):
                yield from go((*prefix, BRACKETS + kind), (*stack, kind))

    return go((), ())


def entropy(length: int, kinds: int, depth: int) -> float:
    """Return the nats a token that no predictor of prefixes of this length can do without."""
    law = np.zeros(depth + 1)
    law[0], total = 1.0, 0.0
    opening = np.array([1.0, *([0.5] * (depth - 1)), 0.0])
    here = np.where(opening == 1, math.log(kinds), np.where(opening == 0.5, math.log(2) + math.log(kinds) / 2, 0.0))
    for _ in range(length):
        total += float(law @ here)
        law = np.roll(law * opening, 1) + np.roll(law * (1 - opening), -1)
    return total / length


def dyck_cpu() -> Recipe:
    """One layer that reads brackets with their depths by attention without a residual: 1,500 steps.

    Wen et al. 2023, the minimal first layer.
    python scripts/train.py dyck_cpu
    """
    return Recipe(
        name="dyck_cpu",
        task=Dyck(),
        model=ReaderConfig(vocabulary=24, width=50),
        optimizer=OptimizerConfig(learning_rate=1e-2, final_fraction=0.0, beta2=0.999, clip=None),
        train=TrainConfig(steps=1500, batch_size=100),
    )


def dyck_balanced_cpu() -> Recipe:
    """The same, held to equal predictions behind a balanced string, which is what long strings need.

    Wen et al. 2023, the contrastive term with weight 0.3.
    python scripts/train.py dyck_balanced_cpu
    """
    plain = dyck_cpu()
    return replace(plain, name="dyck_balanced_cpu", task=replace(plain.task, pumped=True), objective=ConsistencyLoss())
