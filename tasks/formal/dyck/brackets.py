"""Balanced brackets of bounded depth: say what may come next (Wen et al. 2023, arXiv 2312.01429).

    >>> task = Dyck(length=10)
    >>> example = task.sample(jax.random.key(0), 10)
    >>> print(task.render(example))
    ( ( [ ] ) [ [ ] ] )

An opening bracket has the depth that it reaches, a closing one that of the bracket it closes. What a model reads are
brackets, or real features of brackets and depths as a perfect first layer would hand them on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import OptimizerConfig, ReaderConfig, Recipe, TrainConfig
from lm.exits import UserError
from lm.strict import ConfigError, require_choice
from lm.types import Array, Example, Key, Mean
from tasks.build import below, fraction
from tasks.score import masked
from tasks.task import Task

PAD, MASK, START, END, BRACKETS = range(5)  # opening brackets from BRACKETS on, then closing ones
SURE = 0.8  # of the probability of all closing brackets, that the right one must have
WIDTH = 50  # of the models, and of the features of forms bare and placed, which a stream of layers carries
FARTHEST = 6000  # the place that form placed writes as 1

FORMS = ("tokens", "pairs", "sums", "angles", "bare", "placed")


@dataclass(frozen=True)
class Dyck(Task):
    """Prefixes of balanced strings of `kinds` kinds of brackets, at most `depth` deep; START is in front.

    The size is the length of a prefix. With `whole` it is the greatest length of a whole string, which END follows.
    Forms: `tokens` hands out ids. The others hand out numbers, one-hot in the kind of token and beside that: `pairs`,
    its depth, jointly; `sums`, its depth; `angles`, cosine and sine of an angle that grows with its depth; `bare`,
    nothing; `placed`, its place. With `pumped`, `info["same"]` is the string behind a balanced one, which asks for
    the same predictions.
    """

    name: ClassVar[str] = "dyck"
    size_name: ClassVar[str] = "brackets"

    kinds: int = 2
    depth: int = 4
    length: int = 28
    longest: int = 300
    form: str = "tokens"  # tokens, pairs, sums, angles, bare, placed
    whole: bool = False
    pumped: bool = False

    def __post_init__(self):
        require_choice("task.form", self.form, FORMS)
        if not (1 <= self.kinds <= 8 and 1 <= self.depth <= 16):
            raise ConfigError(f"task.kinds and task.depth must lie in 1..8 and 1..16, got {self.kinds}, {self.depth}")
        if not 2 <= self.length <= self.longest:
            raise ConfigError(f"task.length must lie in 2..task.longest, got {self.length} and {self.longest}")

    @property
    def vocabulary(self) -> int:
        return BRACKETS + 2 * self.kinds

    @property
    def max_length(self) -> int:
        return self.longest + self.whole

    @property
    def train_length(self) -> int:
        return self.length + self.whole

    @property
    def train_sizes(self) -> tuple[int, int]:
        return self.length, self.length

    @property
    def test_sizes(self) -> tuple[int, ...]:
        return tuple(sorted({self.length, (self.length + self.longest) // 2, self.longest}))

    @property
    def test_count(self) -> int:
        return 64

    def sample(self, key: Key, size: Array) -> Example:
        return self._sample(key, size, self.train_length)

    def sample_test(self, key: Key, size: Array) -> Example:
        return self._sample(key, size, self.max_length)

    def _sample(self, key: Key, size: Array, length: int) -> Example:
        key_walk, key_pump = jax.random.split(key)
        opening_LH = self.opening(size, length)
        tokens_L, depths_L = walk(jax.random.bits(key_walk, (length, 2)), opening_LH, self.kinds)
        example = self.example(tokens_L, depths_L, size + self.whole)
        if not self.pumped:
            return example
        between = pump(key_pump, self.kinds, self.depth)
        return example._replace(info=example.info | {"same": self.read_all(tokens_L[:-1], depths_L[:-1], *between)})

    def opening(self, size: Array | int, length: int) -> Array:
        """Return the probability that place l opens a bracket at height h, [L, depth + 1]."""
        if not self.whole:
            return jnp.broadcast_to(jnp.asarray(rising(self.depth)), (length, self.depth + 1))
        left_L = size - 1 - jnp.arange(length)  # brackets that may follow this one
        opening_LH = jnp.asarray(closing_in_time(self.depth, length))[jnp.clip(left_L, 0)]
        return jnp.where((left_L >= 0)[:, None], opening_LH, 0.0).at[0].set(1.0)

    def example(self, tokens_L: Array, depths_L: Array, size: Array | int) -> Example:
        """Return a string as an example that asks for each of its first `size` tokens from those before it."""
        order_L = jnp.arange(tokens_L.shape[0])
        asked_L = (order_L < size) & (tokens_L != PAD)
        return Example(
            inputs=self.read_all(jnp.where(asked_L, tokens_L, PAD)[:-1], depths_L[:-1]),
            targets=jnp.where(asked_L, tokens_L, PAD).astype(jnp.int32),
            weights=asked_L.astype(jnp.float32),
            positions=order_L,
            info={"closes": asked_L & (tokens_L >= BRACKETS + self.kinds)},
        )

    def read_all(self, tokens_L: Array, depths_L: Array, *between: Array) -> Array:
        """Return what a model reads: START, the tokens and depths that may stand between, then the string."""
        more_tokens, more_depths = between or (jnp.zeros(0, jnp.int32),) * 2
        tokens_T = jnp.concatenate([jnp.full(1, START), more_tokens, tokens_L]).astype(jnp.int32)
        if self.form == "tokens":
            return tokens_T
        return self.features(tokens_T, jnp.concatenate([jnp.zeros(1, jnp.int32), more_depths, depths_L]))

    def features(self, tokens_T: Array, depths_T: Array) -> Array:
        """Return the numbers that a form makes of tokens and their depths (0 for START), [T, F]."""
        kinds_TV = jax.nn.one_hot(tokens_T, self.vocabulary)
        depths_TD = jax.nn.one_hot(depths_T - 1, self.depth)
        if self.form == "pairs":
            pairs = depths_TD[:, None] * kinds_TV[:, BRACKETS:, None]
            return jnp.concatenate([kinds_TV[:, START, None], pairs.reshape(len(tokens_T), -1)], axis=1)
        if self.form == "sums":
            return jnp.concatenate([kinds_TV, depths_TD], axis=1)
        if self.form == "angles":
            angles_T = jnp.arctan2(depths_T, self.depth + 2 - depths_T)
            return jnp.concatenate([kinds_TV, jnp.cos(angles_T)[:, None], jnp.sin(angles_T)[:, None]], axis=1)
        places_T1 = jnp.arange(len(tokens_T))[:, None] / FARTHEST * (self.form == "placed")
        return jnp.concatenate([jax.nn.one_hot(tokens_T, WIDTH - 1), places_T1], axis=1)

    def score(self, predictions_L: Array, example: Example) -> dict[str, Array | Mean]:
        """Grade all brackets, and the closing ones apart: what opens is chance, what closes is not."""
        wrong = masked(predictions_L != example.targets, example.info["closes"])
        return super().score(predictions_L, example) | {"closing_error": wrong}

    def render(self, example: Example) -> str:
        targets = np.asarray(example.targets)
        return self.spell(targets[targets >= BRACKETS].tolist())

    def read(self, text: str) -> list[int]:
        if self.form != "tokens":
            raise UserError(f"brackets as numbers cannot be given as text; task.form tokens can, {self.form} cannot")
        return super().read(text)

    def spell(self, tokens: Sequence[int]) -> str:
        names = ["_", "?", "^", "$", *"([{<abcd"[: self.kinds], *")]}>ABCD"[: self.kinds]]
        return " ".join(names[t] for t in map(int, tokens))


def rising(depth: int) -> np.ndarray:
    """Return the probability that a prefix opens a bracket at each height: all, halves, none."""
    return np.array([1.0, *([0.5] * (depth - 1)), 0.0], np.float32)


def closing_in_time(depth: int, most: int) -> np.ndarray:
    """Return the probability that a bracket opens at each height where at most r may follow, [most, depth + 1].

    A string ends with probability 1/2 wherever it is balanced, and that all of it comes within the length is given.
    """
    up = np.array([0.5] * depth + [0.0])
    down = np.array([0.0] + [0.5] * (depth - 1) + [1.0])
    in_time = np.array([0.5] + [0.0] * depth)  # the probability of ending with no bracket more
    opening = np.zeros((most, depth + 1), np.float32)
    for left in range(most):
        opened = up * np.append(in_time[1:], 0)
        in_time = opened + down * np.append(0, in_time[:-1]) + np.where(np.arange(depth + 1) == 0, 0.5, 0)
        opening[left] = np.divide(opened, in_time, out=np.zeros(depth + 1), where=in_time > 0)
    return opening


def walk(bits_L2: Array, opening_LH: Array, kinds: int) -> tuple[Array, Array]:
    """Return the tokens of a random string and their depths 1..depth, by a scan over the stack.

    Brackets open with the given probability at each place and height, and else close; without one to close comes END,
    and PAD behind it.
    """

    def step(carry: Any, given: tuple[Array, Array]) -> tuple[Any, tuple[Array, Array]]:
        (stack_D, height, ended), (bits, opening_H) = carry, given
        opens = ~ended & (fraction(bits[0]) < opening_H[height])
        at = jnp.where(opens, height, height - 1)
        kind = jnp.where(opens, below(bits[1], kinds), stack_D[at])
        ends = ~opens & (height == 0)
        token = jnp.where(ends, jnp.where(ended, PAD, END), BRACKETS + kind + jnp.where(opens, 0, kinds))
        stack_D = jnp.where(opens, stack_D.at[at].set(kind), stack_D)
        height = jnp.where(ends, 0, jnp.where(opens, height + 1, height - 1))
        return (stack_D, height, ended | ends), (token, at + 1)

    start = (jnp.zeros(opening_LH.shape[1] - 1, jnp.int32), jnp.int32(0), jnp.bool(False))
    return jax.lax.scan(step, start, (bits_L2, opening_LH))[1]


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
    opening = rising(depth).astype(float)
    here = np.where(opening == 1, math.log(kinds), np.where(opening == 0.5, math.log(2) + math.log(kinds) / 2, 0.0))
    for _ in range(length):
        total += float(law @ here)
        law = np.roll(law * opening, 1) + np.roll(law * (1 - opening), -1)
    return total / length


def dyck_cpu() -> Recipe:
    """One layer that reads brackets with their depths by attention without a residual: 1,000 steps.

    Closing accuracy 100 % at 28 brackets and 91 to 93 % at 300, balance violation 0.35 to 0.42 (three seeds).
    Wen et al. 2023, the minimal first layer; forms pairs, sums and angles of --task.form are its three embeddings.
    python scripts/train.py dyck_cpu
    """
    return Recipe(
        name="dyck_cpu",
        task=Dyck(form="pairs"),
        model=ReaderConfig(vocabulary=8, width=WIDTH),
        optimizer=OptimizerConfig(learning_rate=1e-2, final_fraction=0.0, beta2=0.999, clip=None),
        train=TrainConfig(steps=1000, batch_size=100),
    )


def dyck_balanced_cpu() -> Recipe:
    """The same, held to equal predictions behind a balanced string, which is what long strings need.

    Closing accuracy 100 % at 28 brackets and 96 to 100 % at 300, balance violation 0.11 to 0.13 (three seeds).
    Wen et al. 2023, the contrastive term with weight 0.3.
    python scripts/train.py dyck_balanced_cpu
    """
    plain = dyck_cpu()
    return replace(plain, name="dyck_balanced_cpu", task=replace(plain.task, pumped=True), objective="consistency")


def dyck_two_layer_cpu() -> Recipe:
    """Two layers with a residual stream, over tokens and places in fixed features, as in a small GPT-2: 1,440 steps.

    Closing accuracy 99.9 % at 28 brackets, 85 to 86 % at 300 (two seeds).
    Wen et al. 2023, linear positions; form bare of --task.form has none.
    python scripts/train.py dyck_two_layer_cpu
    """
    plain = dyck_cpu()
    return replace(
        plain,
        name="dyck_two_layer_cpu",
        task=replace(plain.task, form="placed"),
        model=replace(plain.model, depth=2, residual=True),
        optimizer=replace(plain.optimizer, learning_rate=3e-3),
        train=replace(plain.train, steps=1440),
    )


def dyck_full() -> Recipe:
    """One layer as the paper trains it for the balance study: 10 passes over 3,571 strings, here always new ones.

    python scripts/train.py dyck_full
    """
    plain = dyck_cpu()
    return replace(
        plain,
        name="dyck_full",
        task=replace(plain.task, longest=500),
        train=replace(plain.train, steps=360),
    )


def dyck_balanced_full() -> Recipe:
    """The same with the contrastive term.

    python scripts/train.py dyck_balanced_full
    """
    plain = dyck_full()
    return replace(plain, name="dyck_balanced_full", task=replace(plain.task, pumped=True), objective="consistency")


def dyck_two_layer_full() -> Recipe:
    """Two layers, 40 passes over 3,571 strings, here always new ones; examined on up to 500 brackets.

    python scripts/train.py dyck_two_layer_full
    """
    small = dyck_two_layer_cpu()
    return replace(small, name="dyck_two_layer_full", task=replace(small.task, longest=500))
