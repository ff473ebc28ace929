"""Parity of bits that stand anywhere in a text of fixed width, one bit a state (Abbe et al. 2024, arXiv 2406.06467).

A state names the place of the next bit, the bit, and the parity so far. The size is the number of bits.

    >>> task = SpacedParity(width=8, longest_train=3, longest_test=5)
    >>> print(task.show(0, 0, 3))
    _ 0 _ 1 _ _ _ 0 :
    -> [1] 0 0 # [3] 1 1 # [7] 0 1 .

The places of a longer text are those of a shorter one, and so are the ids of an inductive state: what a step does is
all there is to learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.config import Recipe, Rotary
from lm.types import Array, Example, Key
from tasks.build import permutation
from tasks.formal.scratchpad import inductive
from tasks.formal.scratchpad.cycles import cycles_cpu, cycles_full
from tasks.formal.scratchpad.inductive import BEGIN, BLANK, END, FIRST, NEXT, ZERO
from tasks.formal.scratchpad.stepwise import Spaced

WIDTH = 4  # tokens of a state: place, bit, parity, mark


@dataclass(frozen=True)
class SpacedParity(Spaced):
    """Texts of `width` places with 1 to `longest_train` bits to learn from, examined to `longest_test`."""

    name: ClassVar[str] = "spaced_parity"
    size_name: ClassVar[str] = "bits"

    @property
    def vocabulary(self) -> int:
        return FIRST + self.width

    def text_length(self, bits: int) -> int:
        if self.scratchpad == "none":
            return inductive.text_length(self.width + 1, 1, 2, 2, "none")
        return inductive.text_length(self.width + 1, bits, WIDTH, WIDTH, self.scratchpad)

    @property
    def test_sizes(self) -> tuple[int, ...]:
        return tuple(range(self.longest_test, 0, -4))[::-1]

    def sample_among(self, key: Key, size: Array, longest: int) -> Example:
        bits_2W = jax.random.bits(key, (2, self.width))
        there_W = permutation(bits_2W[0]) < size
        return self.write(there_W, (bits_2W[1] & 1).astype(jnp.int32), longest)

    def write(self, there_W: Array, bits_W: Array, longest: int) -> Example:
        """Write the bits at the places marked, of which there are up to `longest`."""
        text_W = jnp.where(there_W, ZERO + bits_W, BLANK)
        question = jnp.append(text_W, BEGIN)
        parity_W = jnp.cumsum(bits_W * there_W) % 2
        inductively, length = self.scratchpad == "inductive", self.text_length(longest)
        if self.scratchpad == "none":
            states_12 = jnp.stack([ZERO + parity_W[-1], jnp.asarray(END)])[None]
            return inductive.write(question, self.width + 1, states_12, jnp.full(1, 2), length, False)
        order_S, count = jnp.arange(longest), jnp.sum(there_W)
        # The k-th bit stands behind all places up to which there are k bits or fewer.
        places_S = jnp.sum(jnp.cumsum(there_W)[None] <= order_S[:, None], axis=1)
        marks_S = jnp.where(order_S == count - 1, END, NEXT)
        columns = (FIRST + places_S, jnp.take(text_W, places_S, mode="clip"), ZERO + parity_W[places_S % self.width])
        states_SW = jnp.stack([*columns, marks_S], axis=1)
        lengths_S = jnp.where(order_S < count, WIDTH, 0)
        return inductive.write(question, self.width + 1, states_SW, lengths_S, length, inductively)

    def spell(self, tokens: Sequence[int]) -> str:
        return inductive.spell(tokens, "[{}]")


def spaced_parity_cpu() -> Recipe:
    """Two layers of width 64 learn parity of 1 to 8 bits among 20 places, a bit a state, and are asked up to 20.

    Abbe et al. 2024 in small. Over three seeds 82 to 93 % of the scratchpads are right at 12 bits, at most 2 % at 16;
    with 5,000 steps another seed reached 46 % there.
    python scripts/train.py spaced_parity_cpu
    """
    walk, task = cycles_cpu(), SpacedParity()
    return replace(
        walk,
        name="spaced_parity_cpu",
        task=task,
        model=replace(walk.model, vocabulary=task.vocabulary, depth=2, positions=Rotary()),
        optimizer=replace(walk.optimizer, learning_rate=2e-3),
        train=replace(walk.train, steps=2000, batch_size=32),
    )


def spaced_parity_plain_cpu() -> Recipe:
    """The parity at once.

    python scripts/train.py spaced_parity_plain_cpu
    """
    inductively = spaced_parity_cpu()
    return replace(inductively, name="spaced_parity_plain_cpu", task=replace(inductively.task, scratchpad="none"))


def spaced_parity_full() -> Recipe:
    """The paper's 1 to 30 bits among 60 places, asked up to 60, with its model of ten million parameters.

    Abbe et al. 2024: right up to 50 or 55 bits. python scripts/train.py spaced_parity_full
    """
    walk = cycles_full()
    task = SpacedParity(width=60, longest_train=30, longest_test=60)
    return replace(
        walk,
        name="spaced_parity_full",
        task=task,
        model=replace(walk.model, vocabulary=task.vocabulary),
        optimizer=replace(walk.optimizer, weight_decay=1e-3),
        train=replace(walk.train, steps=3000),
    )
