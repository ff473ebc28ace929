"""Addition of numbers whose digits stand anywhere in two fields, one digit of each a state (Abbe et al. 2024).

A state names the place of the next digit of either operand from the right and the digit, then the carry and the
digit of the sum; the paper's states repeat the digits of the sum so far (arXiv 2406.06467). The size is the number
of digits of both operands.

    >>> task = SpacedAddition(width=4, longest_train=2, longest_test=3)
    >>> print(task.show(0, 0, 2))
    8 _ 2 _ + 3 _ _ 9 :
    -> [2] 2 [8] 9 1 1 # [0] 8 [5] 3 1 2 .

Without a scratchpad the digits of the sum follow at once, units first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.config import Recipe
from lm.types import Array, Example, Key
from tasks.build import add_digits, concatenate, latest, numeral, permutation
from tasks.formal.scratchpad import inductive
from tasks.formal.scratchpad.inductive import BEGIN, BLANK, END, FIRST, NEXT, PLUS, ZERO
from tasks.formal.scratchpad.spaced_parity import spaced_parity_cpu, spaced_parity_full
from tasks.formal.scratchpad.stepwise import Spaced

WIDTH = 7  # tokens of a state: place, digit, place, digit, carry, digit, mark


@dataclass(frozen=True)
class SpacedAddition(Spaced):
    """Fields of `width` places with 1 to `longest_train` digits to learn from, examined to `longest_test`."""

    name: ClassVar[str] = "spaced_addition"
    size_name: ClassVar[str] = "digits"

    width: int = 10
    longest_train: int = 5
    longest_test: int = 9

    @property
    def vocabulary(self) -> int:
        return FIRST + 2 * self.width + 1

    def text_length(self, digits: int) -> int:
        question = 2 * self.width + 2
        if self.scratchpad == "none":
            return inductive.text_length(question, 1, digits + 2, digits + 2, "none")
        return inductive.text_length(question, digits, WIDTH, WIDTH, self.scratchpad)

    @property
    def test_sizes(self) -> tuple[int, ...]:
        return tuple(range(self.longest_test, 0, -2))[::-1]

    def sample_among(self, key: Key, size: Array, longest: int) -> Example:
        key_digits, key_places = jax.random.split(key)
        digits_2S = jax.vmap(lambda bits: numeral(bits, size))(jax.random.bits(key_digits, (2, longest)))
        there_2W = jax.vmap(permutation)(jax.random.bits(key_places, (2, self.width))) < size
        return self.write(digits_2S, there_2W, size)

    def write(self, digits_2S: Array, there_2W: Array, size: Array | int) -> Example:
        """Write two numbers of S digits, units first, the first `size` of them, at the places marked."""
        longest = digits_2S.shape[1]
        # How many digits stand to the right of a place is the significance of the one there.
        right_2W = jnp.flip(jnp.cumsum(jnp.flip(there_2W, 1), axis=1), 1) - 1
        fields_2W = jnp.where(
            there_2W, ZERO + jnp.take_along_axis(digits_2S, jnp.clip(right_2W, 0, longest - 1), axis=1), BLANK
        )
        question = jnp.concatenate([fields_2W[0], jnp.array([PLUS]), fields_2W[1], jnp.array([BEGIN])])
        sums_S, order_S = add_digits(*digits_2S), jnp.arange(longest)
        if self.scratchpad == "none":
            parts = (ZERO + sums_S, jnp.array([END]))
            states = concatenate(parts, (size + 1, 1), longest + 2)[None], jnp.asarray(size + 2)[None]
        else:
            totals_S = digits_2S[0] + digits_2S[1]
            carries_S = latest(totals_S > 9, totals_S != 9)
            places_2S = jnp.sum(right_2W[:, None] >= order_S[None, :, None], axis=2) - 1
            columns = []
            for operand, before in enumerate((0, self.width + 1)):
                columns += [FIRST + before + places_2S[operand], ZERO + digits_2S[operand]]
            marks_S = jnp.where(order_S == size - 1, END, NEXT)
            columns += [ZERO + carries_S, ZERO + sums_S[:-1], marks_S]
            states = jnp.stack(columns, axis=1), jnp.where(order_S < size, WIDTH, 0)
        length = self.text_length(longest)
        return inductive.write(question, 2 * self.width + 2, *states, length, self.scratchpad == "inductive")

    def spell(self, tokens: Sequence[int]) -> str:
        return inductive.spell(tokens, "[{}]")


def spaced_addition_cpu() -> Recipe:
    """Two layers of width 64 learn sums of 1 to 5 digits in fields of 10 places, and are asked for up to 9.

    Abbe et al. 2024 in small. Over three seeds 90 to 97 % of the scratchpads are right at 5 digits, 33 to 65 % at 7 and
    none at 9.
    python scripts/train.py spaced_addition_cpu
    """
    parity, task = spaced_parity_cpu(), SpacedAddition()
    model = replace(parity.model, vocabulary=task.vocabulary)
    train = replace(parity.train, steps=1600)
    return replace(parity, name="spaced_addition_cpu", task=task, model=model, train=train)


def spaced_addition_plain_cpu() -> Recipe:
    """The sum at once, units first.

    python scripts/train.py spaced_addition_plain_cpu
    """
    inductively = spaced_addition_cpu()
    return replace(inductively, name="spaced_addition_plain_cpu", task=replace(inductively.task, scratchpad="none"))


def spaced_addition_full() -> Recipe:
    """The paper's 1 to 10 digits, asked up to 20, with its model of ten million parameters.

    Abbe et al. 2024: right up to 18 or 20 digits. python scripts/train.py spaced_addition_full
    """
    parity, task = spaced_parity_full(), SpacedAddition(width=20, longest_train=10, longest_test=20)
    model = replace(parity.model, vocabulary=task.vocabulary)
    return replace(parity, name="spaced_addition_full", task=task, model=model)
