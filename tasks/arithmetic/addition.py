"""Addition of long numbers, digit by digit, with position ids that couple digits of the same significance.

Cho et al. 2024 (arXiv 2405.20671), format of their code: both operands zero-padded to the longer one's n digits,
the sum to n + 1 digits and written units first, `$` at both ends. Loss on the sum and the last `$`. With coupled
ids, the three digits of a significance carry one id, and `$` and padding carry 0. Training starts the ids at
random, tests at 1.

    >>> task = Addition()
    >>> example = task.write(jnp.array([3, 5, 6]), jnp.array([9, 4, 0]), size=3, start=4)
    >>> print(task.render(example), "->", task.spell(example.targets[example.weights > 0]))
    653+049= -> 2070$
    >>> print(*task.spell(example.inputs))
    $ 6 5 3 + 0 4 9 = 2 0 7 0
    >>> print(*example.positions)
    0 7 6 5 4 7 6 5 4 5 6 7 8
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import Learned, NoPositions, OptimizerConfig, Positions, Recipe, TrainConfig, TransformerConfig
from lm.strict import ConfigError, require_choice
from lm.types import Array, Example, Key
from tasks.build import add_digits, below, concatenate, numeral
from tasks.task import Task, next_token

PAD, END, ZERO, PLUS, EQUALS = 0, 2, 3, 13, 14  # END also begins; 1 is never used
NAMES = "_?$0123456789+="


@dataclass(frozen=True)
class Addition(Task):
    """Sums of numbers of up to `longest_train` digits, examined to `longest_test` digits.

    The size is n, the digits of the longer operand: in training the other is of any length up to n, in tests
    both have n. Schemes of position ids, all within 0..max_position: `coupled`; `random_start`, consecutive
    from a random start; `plain`, from 0.
    """

    name: ClassVar[str] = "addition"
    size_name: ClassVar[str] = "digits"

    longest_train: int = 10
    longest_test: int = 20
    scheme: str = "coupled"  # coupled, random_start, plain
    max_position: int = 42

    def __post_init__(self):
        require_choice("task.scheme", self.scheme, ("coupled", "random_start", "plain"))
        if not 1 <= self.longest_train <= self.longest_test:
            raise ConfigError(
                f"task.longest_train must be from 1 to task.longest_test {self.longest_test}, got {self.longest_train}"
            )
        if self.starts(self.longest_test) < 1:
            raise ConfigError(
                f"task.max_position must be at least {self.reach(self.longest_test) + 1} "
                f"for {self.longest_test} digits, got {self.max_position}"
            )

    @property
    def vocabulary(self) -> int:
        return len(NAMES)

    @property
    def max_length(self) -> int:
        return 3 * self.longest_test + 4

    @property
    def train_length(self) -> int:
        return 3 * self.longest_train + 4

    @property
    def train_sizes(self) -> tuple[int, int]:
        return 1, self.longest_train

    @property
    def test_sizes(self) -> tuple[int, ...]:
        step = max(1, self.longest_test // 20)
        return tuple(range(step, self.longest_test + 1, step))

    def draw_sizes(self, key: Key, batch_size: int) -> Array:
        """Return the longer of two lengths that are uniform over the training range."""
        return jnp.max(jax.random.randint(key, (batch_size, 2), 1, self.longest_train + 1), axis=1)

    def sample(self, key: Key, size: Array) -> Example:
        bits = jax.random.bits(key, (2 * self.longest_train + 2,))
        # of two lengths whose longer is n there are 2n - 1 pairs: (n, 1..n) and (1..n-1, n)
        pair = below(bits[0], 2 * size - 1)
        length_a = jnp.where(pair < size, size, pair - size + 1)
        length_b = jnp.where(pair < size, pair + 1, size)
        bits_a, bits_b = jnp.split(bits[2:], 2)
        start = 1 + below(bits[1], self.starts(size))
        return self.write(numeral(bits_a, length_a), numeral(bits_b, length_b), size, start)

    def sample_test(self, key: Key, size: Array) -> Example:
        bits_a, bits_b = jax.random.bits(key, (2, self.longest_test))
        return self.write(numeral(bits_a, size), numeral(bits_b, size), size, 1)

    def write(self, a_W: Array, b_W: Array, size: Array | int, start: Array | int) -> Example:
        """Write an addition of `size`-digit numbers, given by W digits from the units up, with ids from `start`."""
        width = a_W.shape[0]
        highest_first = size - 1 - jnp.arange(width)
        parts = [
            jnp.full(1, END),
            ZERO + a_W[highest_first],
            jnp.full(1, PLUS),
            ZERO + b_W[highest_first],
            jnp.full(1, EQUALS),
            ZERO + add_digits(a_W, b_W),
            jnp.full(1, END),
        ]
        tokens_T = concatenate(parts, [1, size, 1, size, 1, size + 1, 1], 3 * width + 5, padding=PAD)
        order_T = jnp.arange(3 * width + 5)
        asked_T = (order_T > 2 * size + 2) & (order_T <= 3 * size + 4)
        return next_token(tokens_T, asked_T, self._ids(order_T, size, start), {"size": jnp.asarray(size)})

    def _ids(self, order_T: Array, size: Array | int, start: Array | int) -> Array:
        written_T = order_T <= 3 * size + 3
        if self.scheme == "plain":
            return jnp.where(written_T, order_T, 0)
        if self.scheme == "random_start":
            return jnp.where(written_T, start + order_T, 0)
        plus, equals = size + 1, 2 * size + 2
        distance_T = jnp.where(order_T <= plus, plus - order_T, jnp.abs(order_T - equals))
        return jnp.where(written_T & (order_T > 0), start + distance_T, 0)

    def reach(self, size: Array | int) -> Array | int:
        """Return the largest id minus the start."""
        return size + 1 if self.scheme == "coupled" else 3 * size + 3

    def starts(self, size: Array | int) -> Array | int:
        """Return the number of starts that keep every id within 1..max_position."""
        return self.max_position - self.reach(size)

    def render(self, example: Example) -> str:
        return self.spell(np.asarray(example.inputs)[1 : 2 * int(example.info["size"]) + 3])

    def spell(self, tokens: Sequence[int]) -> str:
        return "".join(NAMES[t] for t in tokens)


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
    return _baseline("plain", NoPositions())


def addition_random_start_cpu() -> Recipe:
    """The same layer with consecutive position ids from a random start.

    Cho et al. 2024, the random-start APE baseline. Expected exact match 0 at 12 digits. About 110 s on one CPU core.
    python scripts/train.py addition_random_start_cpu
    """
    return _baseline("random_start", Learned(rows=76))


def _baseline(scheme: str, positions: Positions) -> Recipe:
    coupled = addition_cpu()
    task, model = Addition(scheme=scheme, max_position=75), replace(coupled.model, positions=positions)
    return replace(coupled, name=f"addition_{scheme}_cpu", task=task, model=model)


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
