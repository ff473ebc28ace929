"""Multiplication of a long number by one of two digits, with position ids that couple digits of one significance.

Cho et al. 2024 (arXiv 2405.20671), format of their code: a number of N digits, a factor of two digits whose leading
zero is kept, and the product, N + 2 digits, units first; `$` at both ends. Loss on the product and the last `$`.
Ids grow towards the units, and `*` and `=` have the greatest. Training starts the ids at random, tests at 1.

    >>> task = Multiplication()
    >>> example = task.write(jnp.array([3, 5, 6]), jnp.array([9, 4]), size=3, start=4)
    >>> print(task.render(example), "->", task.spell(example.targets[example.weights > 0]))
    653*49= -> 79913$
    >>> print(*task.spell(example.inputs))
    $ 6 5 3 * 4 9 = 7 9 9 1 3
    >>> print(*example.positions)
    0 6 7 8 9 7 8 9 8 7 6 5 4
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.config import Learned, Recipe
from lm.strict import ConfigError
from lm.types import Array, Example, Key
from tasks.arithmetic.addition import addition_cpu, addition_full
from tasks.arithmetic.coupled import Coupled
from tasks.build import below, concatenate, numeral

PAD, END, ZERO, TIMES, EQUALS = 0, 2, 3, 13, 14  # END also begins; 1 is never used


@dataclass(frozen=True)
class Multiplication(Coupled):
    """Products of a number of up to `longest_train` digits and one of two, examined to `longest_test` digits.

    The table of digits that a model must learn has `base` ** 4 rows: a small base makes a small problem of any length.
    """

    name: ClassVar[str] = "multiplication"
    size_name: ClassVar[str] = "digits"
    spellings: ClassVar[str] = "_?$0123456789*="

    base: int = 10

    def __post_init__(self):
        if not 2 <= self.base <= 10:
            raise ConfigError(f"task.base must be from 2 to 10, got {self.base}")
        super().__post_init__()

    def length(self, size: Array | int) -> Array | int:
        return 2 * size + 8

    def couples(self, size: Array | int) -> Array | int:
        return size + 3

    def sample(self, key: Key, size: Array) -> Example:
        bits = jax.random.bits(key, (self.longest_train + 3,))
        number_W, factor = numeral(bits[3:], size, self.base), below(bits[1:3], self.base)
        return self.write(number_W, factor, size, self.draw_start(bits[0], size))

    def sample_test(self, key: Key, size: Array) -> Example:
        bits = jax.random.bits(key, (self.longest_test + 2,))
        return self.write(numeral(bits[2:], size, self.base), below(bits[:2], self.base), size, 1)

    def write(self, number_W: Array, factor: Array, size: Array | int, start: Array | int) -> Example:
        """Write `size` of the W digits of a number times the two of a factor, all from the units up."""
        width = number_W.shape[0]
        slots = self.length(width)
        order_T, times, equals, last = jnp.arange(slots), size + 1, size + 4, 2 * size + 6
        parts = [
            jnp.full(1, END),
            ZERO + number_W[size - 1 - jnp.arange(width)],
            jnp.full(1, TIMES),
            ZERO + factor[::-1],
            jnp.full(1, EQUALS),
            ZERO + _product(number_W, factor, self.base),
            jnp.full(1, END),
        ]
        tokens_T = concatenate(parts, [1, size, 1, 2, 1, size + 2, 1], slots, padding=PAD)
        asked_T = (order_T > equals) & (order_T <= last + 1)
        # both factors count up to the sign behind them, the product counts down from '='
        sign_T = jnp.where(order_T <= times, times, equals)
        offsets_T = jnp.where((order_T > 0) & (order_T <= last), size + 3 - jnp.abs(order_T - sign_T), 0)
        return self.lay_out(tokens_T, asked_T, offsets_T, start, {"size": jnp.asarray(size)})


def _product(number_W: Array, factor: Array, base: int) -> Array:
    """Return the W + 2 digits of a product with a factor of two digits, units first."""

    def write(carry: Array, column: Array) -> tuple[Array, Array]:
        return (column + carry) // base, (column + carry) % base

    columns = jnp.pad(number_W * factor[0], (0, 2)) + jnp.pad(number_W * factor[1], (1, 1))
    return jax.lax.scan(write, 0, columns)[1]


def multiplication_cpu() -> Recipe:
    """Two layers trained on numbers of 1-10 digits times numbers of two, in base 3.

    Cho et al. 2024 in small. Exact match with one seed: 0.97, 0.91, 0.64 at 10, 15, 20 digits; decimal products are
    not learned in twice these steps. About 80 s on one CPU core.
    python scripts/train.py multiplication_cpu
    """
    one = addition_cpu()
    return replace(
        one,
        name="multiplication_cpu",
        task=Multiplication(base=3),
        model=replace(one.model, depth=2),
        optimizer=replace(one.optimizer, warmup_steps=30),
        train=replace(one.train, steps=3000),
    )


def multiplication_full() -> Recipe:
    """The paper's two layers trained on numbers of 1-40 digits times numbers of two, good to 90 digits or more.

    Cho et al. 2024: ids up to 203, 50,000 steps of 1,000 products. Hours on one accelerator.
    python scripts/train.py multiplication_full
    """
    one = addition_full()
    task = Multiplication(longest_train=40, longest_test=200, max_position=203)
    return replace(
        one,
        name="multiplication_full",
        task=task,
        model=replace(one.model, depth=2, heads=8, head_width=64, positions=Learned(rows=task.max_position + 1)),
    )
