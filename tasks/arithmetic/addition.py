"""Addition of long numbers, digit by digit, with position ids that couple digits of the same significance.

Cho et al. 2024 (arXiv 2405.20671), format of their code: all operands zero-padded to the longest one's n digits,
the sum to n + 1 digits and written units first, `$` at both ends. Loss on the sum and the last `$`. With coupled
ids, the digits of a significance carry one id, all signs another, and `$` and padding carry 0. Training starts the
ids at random, tests at 1.

    >>> task = Addition()
    >>> example = task.write(jnp.array([[3, 5, 6], [9, 4, 0]]), size=3, start=4)
    >>> print(task.render(example), "->", task.spell(example.targets[example.weights > 0]))
    653+049= -> 2070$
    >>> print(*task.spell(example.inputs))
    $ 6 5 3 + 0 4 9 = 2 0 7 0
    >>> print(*example.positions)
    0 7 6 5 4 7 6 5 4 5 6 7 8

Index hints write the same ids into the text.

    >>> hinted = Addition(scheme="hinted", operands=3)
    >>> example = hinted.write(jnp.array([[3, 5], [9, 0], [0, 4]]), size=2, start=4)
    >>> print(hinted.render(example), "->", hinted.spell(example.targets[example.weights > 0]))
    <6>5<5>3<4>+<6>0<5>9<4>+<6>4<5>0<4>= -> <5>2<6>0<7>1$
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.config import Learned, OptimizerConfig, Recipe, TrainConfig, TransformerConfig
from lm.strict import ConfigError
from lm.types import Array, Example, Key
from tasks.arithmetic.coupled import Coupled, arm
from tasks.build import add_digits, below_large, concatenate, numeral

PAD, END, ZERO, PLUS, EQUALS = 0, 2, 3, 13, 14  # END also begins; 1 is never used


@dataclass(frozen=True)
class Addition(Coupled):
    """Sums of `operands` numbers of up to `longest_train` digits, examined to `longest_test` digits.

    The size is n, the digits of the longest operand: in training the others are of any length up to n, in tests
    all have n.
    """

    name: ClassVar[str] = "addition"
    size_name: ClassVar[str] = "digits"
    spellings: ClassVar[str] = "_?$0123456789+="

    operands: int = 2

    def __post_init__(self):
        if not 2 <= self.operands <= 4:
            raise ConfigError(f"task.operands must be from 2 to 4, got {self.operands}")
        super().__post_init__()

    def length(self, size: Array | int) -> Array | int:
        return self.operands * (size + 1) + size + 3

    def couples(self, size: Array | int) -> Array | int:
        return size + 2

    def draw_sizes(self, key: Key, batch_size: int) -> Array:
        """Return the longest of as many lengths as there are operands, each uniform over the training range."""
        return jnp.max(jax.random.randint(key, (batch_size, self.operands), 1, self.longest_train + 1), axis=1)

    def sample(self, key: Key, size: Array) -> Example:
        bits = jax.random.bits(key, (self.operands * self.longest_train + 2,))
        lengths_M = _lengths(bits[0], size, self.operands)
        numbers_MW = jax.vmap(numeral)(bits[2:].reshape(self.operands, -1), lengths_M)
        return self.write(numbers_MW, size, self.draw_start(bits[1], size))

    def sample_test(self, key: Key, size: Array) -> Example:
        bits_MW = jax.random.bits(key, (self.operands, self.longest_test))
        return self.write(jax.vmap(numeral, (0, None))(bits_MW, size), size, 1)

    def write(self, numbers_MW: Array, size: Array | int, start: Array | int) -> Example:
        """Write an addition of M `size`-digit numbers, given by W digits from the units up, with ids from `start`."""
        count, width = numbers_MW.shape
        slots = self.length(width)
        order_T, equals = jnp.arange(slots), count * (size + 1)
        highest_first = size - 1 - jnp.arange(width)
        parts, lengths = [jnp.full(1, END)], [1]
        for number_W in numbers_MW:
            parts += [ZERO + number_W[highest_first], jnp.full(1, PLUS)]
            lengths += [size, 1]
        parts = [*parts[:-1], jnp.full(1, EQUALS), ZERO + _total(numbers_MW), jnp.full(1, END)]
        tokens_T = concatenate(parts, [*lengths, size + 1, 1], slots, padding=PAD)
        asked_T = (order_T > equals) & (order_T <= equals + size + 2)
        passed_T = sum((order_T > number * (size + 1)).astype(jnp.int32) for number in range(1, count))
        # an operand and its sign count down to the sign's 1, the sum counts up from 2
        offsets_T = jnp.where(order_T > equals, order_T - equals + 1, size + 2 - order_T + (size + 1) * passed_T)
        offsets_T = jnp.where((order_T > 0) & (order_T <= equals + size + 1), offsets_T, 0)
        return self.lay_out(tokens_T, asked_T, offsets_T, start, {"size": jnp.asarray(size)})


def _lengths(bits: Array, longest: Array, count: int) -> Array:
    """Return `count` lengths, uniform over the tuples whose greatest length is `longest`."""
    index, reached, lengths = below_large(bits, longest**count - (longest - 1) ** count), False, []
    for rest in reversed(range(count)):
        free = longest**rest  # ways to go on once the greatest length is reached
        bound = jnp.maximum(free - (longest - 1) ** rest, 1)  # and before
        reaches = ~reached & (index < free)
        index = jnp.where(reached | reaches, index, index - free)
        ways = jnp.where(reached, free, bound)
        lengths.append(jnp.where(reaches, longest, index // ways + 1))
        index = jnp.where(reaches, index, index % ways)
        reached = reached | reaches
    return jnp.stack(lengths)


def _total(numbers_MW: Array) -> Array:
    """Return the W + 1 digits of the sum of up to ten numbers, units first."""
    total = add_digits(*numbers_MW[:2])
    for number_W in numbers_MW[2:]:
        total = add_digits(total, jnp.pad(number_W, (0, 1)))[:-1]
    return total


def addition_cpu() -> Recipe:
    """One layer trained on sums of 1-10 digits, good to 15 and more: 62 k parameters, 6,000 steps of 64.

    Cho et al. 2024 in small: T5-like block (norm before and after, GEGLU, no bias), ids up to 42. Exact match
    at 10, 15, 20 digits over three seeds: 1.00; 0.23, 0.98, 0.97; 0.04, 0.85, 0.86. About 110 s on one CPU core.
    python scripts/train.py addition_cpu
    """
    task = Addition()
    return Recipe(
        name="addition_cpu",
        task=task,
        model=TransformerConfig(
            vocabulary=task.vocabulary,
            depth=1,
            width=64,
            heads=4,
            head_width=32,
            feedforward=128,
            activation="geglu",
            norm_place="both",
            tied=False,
            positions=Learned(rows=task.max_position + 1),
            initialisation="t5",
        ),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=60, final_fraction=0.1, beta2=0.95),
        train=TrainConfig(steps=6000, batch_size=64, steps_per_dispatch=20),
    )


def addition_plain_cpu() -> Recipe:
    """The same layer without any positions, which cannot even fit the training lengths.

    Cho et al. 2024, the NoPE baseline. Expected exact match 0 at every length. About 110 s on one CPU core.
    python scripts/train.py addition_plain_cpu
    """
    return replace(arm(addition_cpu(), "no_positions"), name="addition_plain_cpu")


def addition_random_start_cpu() -> Recipe:
    """The same layer with consecutive position ids from a random start.

    Cho et al. 2024, the random-start APE baseline. Expected exact match 0 at 12 digits. About 110 s on one CPU core.
    python scripts/train.py addition_random_start_cpu
    """
    return replace(arm(addition_cpu(), "random_start"), name="addition_random_start_cpu")


def addition_three_cpu() -> Recipe:
    """One layer trained on sums of three numbers of 1-6 digits, examined to 12.

    Cho et al. 2024 in small; of 1-10 digits three numbers are not learned in half of these steps. About two minutes
    on one CPU core.
    python scripts/train.py addition_three_cpu
    """
    pair = addition_cpu()
    task = replace(pair.task, longest_train=6, longest_test=12, operands=3)
    return replace(pair, name="addition_three_cpu", task=task)


def addition_full() -> Recipe:
    """The paper's layer trained on sums of 1-30 digits, good to 200: 50,000 steps of 1,000 sums.

    Cho et al. 2024, figure 1: median exact match above 0.95 at 200 digits. Hours on one accelerator.
    python scripts/train.py addition_full
    """
    small = addition_cpu()
    task = Addition(longest_train=30, longest_test=200, max_position=202)
    return replace(
        small,
        name="addition_full",
        task=task,
        model=replace(
            small.model, width=512, head_width=128, feedforward=2048, positions=Learned(rows=task.max_position + 1)
        ),
        optimizer=replace(small.optimizer, learning_rate=1e-4, warmup_steps=500),
        train=replace(small.train, steps=50_000, batch_size=1000, save_every=5000),
    )


def addition_plain_full() -> Recipe:
    """Six layers without any positions on the same sums.

    Cho et al. 2024, the NoPE baseline: exact match near 0 by 40 digits. Hours on one accelerator.
    python scripts/train.py addition_plain_full
    """
    return _deep("no_positions", "addition_plain_full")


def addition_random_start_full() -> Recipe:
    """Six layers with consecutive position ids from a random start on the same sums.

    Cho et al. 2024, the random-start APE baseline: exact match near 0 by 40 digits. Hours on one accelerator.
    python scripts/train.py addition_random_start_full
    """
    return _deep("random_start", "addition_random_start_full")


def _deep(name: str, recipe_name: str) -> Recipe:
    baseline = arm(addition_full(), name)
    model = replace(baseline.model, depth=6, heads=8, head_width=64)
    return replace(baseline, name=recipe_name, model=model, optimizer=replace(baseline.optimizer, learning_rate=3e-5))


def addition_three_full() -> Recipe:
    """The paper's layer trained on sums of three numbers of 1-40 digits, examined to 100: 50,000 steps of 1,000.

    Cho et al. 2024. Hours on one accelerator.
    python scripts/train.py addition_three_full
    """
    pair = addition_full()
    task = Addition(longest_train=40, longest_test=100, max_position=301, operands=3)
    model = replace(pair.model, positions=Learned(rows=task.max_position + 1))
    return replace(pair, name="addition_three_full", task=task, model=model)
