"""Addition of operands that turn right by one digit a state, so that the next digit always stands at their end.

The digits of the sum come in on the left of letters drawn at random, which leave on the right: when none is left the
sum is done (Abbe et al. 2024, arXiv 2406.06467, the shift form). A state carries over all that the next one needs.
The size is the number of digits of both operands.

    >>> task = ShiftedAddition(longest_train=2, longest_test=3)
    >>> print(task.show(0, 0, 2))
    2 8 + 2 1 = 0 t d :
    -> 8 2 + 1 2 = 0 9 t # 2 8 + 2 1 = 0 4 9 .

The mark behind `=` is the carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.config import Recipe, Rotary
from lm.types import Array, Example, Key
from tasks.build import add_digits, below, concatenate, latest, numeral
from tasks.formal.scratchpad import inductive
from tasks.formal.scratchpad.cycles import cycles_full
from tasks.formal.scratchpad.inductive import BEGIN, END, EQUALS, FIRST, FORMS, NEXT, PLUS, ZERO
from tasks.formal.scratchpad.stepwise import Stepwise

LETTERS = 26


@dataclass(frozen=True)
class ShiftedAddition(Stepwise):
    """Operands of 1 to `longest_train` digits to learn from, examined to `longest_test`."""

    name: ClassVar[str] = "shifted_addition"
    size_name: ClassVar[str] = "digits"

    forms: ClassVar[tuple[str, ...]] = FORMS[1:]

    longest_train: int = 4
    longest_test: int = 26

    @property
    def vocabulary(self) -> int:
        return FIRST + LETTERS

    def text_length(self, digits: int) -> int:
        width = 3 * digits + 4
        return inductive.text_length(width, digits, width, width, self.scratchpad)

    @property
    def test_sizes(self) -> tuple[int, ...]:
        return tuple(range(self.longest_test, 0, -max(1, self.longest_test // 6)))[::-1]

    @property
    def test_count(self) -> int:
        return 64

    def sample_among(self, key: Key, size: Array, longest: int) -> Example:
        bits_3S = jax.random.bits(key, (3, longest))
        digits_2S = jax.vmap(lambda bits_S: numeral(bits_S, size))(bits_3S[:2])
        return self.write(digits_2S, below(bits_3S[2], LETTERS), size)

    def write(self, digits_2S: Array, letters_S: Array, size: Array | int) -> Example:
        """Write the sum of two numbers, units first, over these letters, from the first `size` of each."""
        longest = letters_S.shape[0]
        order_S = jnp.arange(longest)
        totals_S = digits_2S[0] + digits_2S[1]
        carries_S = jnp.pad(latest(totals_S > 9, totals_S != 9), (1, 0))
        sums_S = add_digits(*digits_2S)[:-1]

        def state(step: Array) -> Array:
            """Return the state after this many steps, [W]; that of none is the question."""
            # After a turn the digit of significance s stands where that of s - 1 stood, read from the left.
            turned_S = (step + size - 1 - order_S) % size
            operands_2S = ZERO + digits_2S[:, turned_S]
            written_S = jnp.where(order_S < step, ZERO + sums_S[step - 1 - order_S], FIRST + letters_S[order_S - step])
            last = jnp.where(step == size, END, jnp.where(step == 0, BEGIN, NEXT))
            carry = ZERO + carries_S[step]
            parts = (operands_2S[0], PLUS, operands_2S[1], EQUALS, carry, written_S, last)
            counts = (size, 1, size, 1, 1, size, 1)
            return concatenate([jnp.atleast_1d(part) for part in parts], counts, 3 * longest + 4)

        states_SW = jax.vmap(state)(jnp.arange(longest + 1))
        width = 3 * size + 4
        lengths_S = jnp.where(order_S < size, width, 0)
        length = self.text_length(longest)
        return inductive.write(states_SW[0], width, states_SW[1:], lengths_S, length, self.scratchpad == "inductive")

    def spell(self, tokens: Sequence[int]) -> str:
        return " ".join(
            chr(ord("a") + token - FIRST) if token >= FIRST else inductive.spell([token], "") for token in tokens
        )


def shifted_addition_full() -> Recipe:
    """Sums of 1 to 4 digits, asked up to 26, with the paper's model of ten million parameters.

    Abbe et al. 2024: right up to 26 digits. Positions are relative here.
    python scripts/train.py shifted_addition_full
    """
    walk, task = cycles_full(), ShiftedAddition()
    return replace(
        walk,
        name="shifted_addition_full",
        task=task,
        model=replace(walk.model, vocabulary=task.vocabulary, positions=Rotary()),
        optimizer=replace(walk.optimizer, weight_decay=1e-3),
        train=replace(walk.train, steps=3000),
    )
