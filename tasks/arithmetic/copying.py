"""Copying a string of digits, forwards or backwards, with position ids that couple a digit with its copy.

Cho et al. 2024 (arXiv 2405.20671), formats of their code: `$` at both ends, loss on the copy and the last `$`.
`=` carries the id before that of the first digit to copy.

    >>> task = Copying()
    >>> example = task.write(jnp.array([6, 5, 3]), size=3, start=4)
    >>> print(task.render(example), "->", task.spell(example.targets[example.weights > 0]))
    653= -> 653$
    >>> print(*example.positions[:8])
    0 5 6 7 4 5 6 7

Backwards, ids fall from `=` on.

    >>> task = Copying(order="backwards")
    >>> example = task.write(jnp.array([6, 5, 3]), size=3, start=4)
    >>> print(task.render(example), "->", task.spell(example.targets[example.weights > 0]))
    653= -> 356$
    >>> print(*example.positions[:8])
    0 4 5 6 7 6 5 4
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.config import Learned, Recipe
from lm.strict import require_choice
from lm.types import Array, Example, Key
from tasks.arithmetic.addition import addition_cpu
from tasks.arithmetic.coupled import Coupled
from tasks.build import below

PAD, END, ZERO, EQUALS = 0, 2, 3, 13  # END also begins; 1 is never used


@dataclass(frozen=True)
class Copying(Coupled):
    """Strings of 1 to `longest_train` digits and their copies, examined to `longest_test` digits."""

    name: ClassVar[str] = "copying"
    size_name: ClassVar[str] = "digits"
    spellings: ClassVar[str] = "_?$0123456789="

    longest_test: int = 40
    max_position: int = 42
    order: str = "forwards"  # forwards, backwards

    def __post_init__(self):
        require_choice("task.order", self.order, ("forwards", "backwards"))
        super().__post_init__()

    def length(self, size: Array | int) -> Array | int:
        return 2 * size + 3

    def couples(self, size: Array | int) -> Array | int:
        return size + 1

    @property
    def test_count(self) -> int:
        return 256

    def sample(self, key: Key, size: Array) -> Example:
        bits = jax.random.bits(key, (self.longest_train + 1,))
        return self.write(below(bits[1:], 10), size, self.draw_start(bits[0], size))

    def sample_test(self, key: Key, size: Array) -> Example:
        return self.write(below(jax.random.bits(key, (self.longest_test,)), 10), size, 1)

    def write(self, digits_W: Array, size: Array | int, start: Array | int) -> Example:
        """Write the first `size` of W digits and their copy, with ids from `start`."""
        order_T, equals, end = jnp.arange(self.length(digits_W.shape[0])), size + 1, 2 * size + 2
        forwards = self.order == "forwards"
        copied_T = order_T - equals - 1 if forwards else end - 1 - order_T
        place_T = jnp.where(order_T < equals, order_T - 1, copied_T)  # of the digit that stands here

        def text(digits_T: Array, sign: Array | int, ends: int, padding: int) -> Array:
            signed_T = jnp.where(order_T == equals, sign, digits_T)
            ended_T = jnp.where((order_T == 0) | (order_T == end), ends, signed_T)
            return jnp.where(order_T <= end, ended_T, padding)

        tokens_T = text(ZERO + jnp.take(digits_W, place_T, mode="clip"), EQUALS, END, PAD)
        offsets_T = text((2 if forwards else 1) + place_T, 1 if forwards else equals, 0, 0)
        asked_T = (order_T > equals) & (order_T <= end)
        return self.lay_out(tokens_T, asked_T, offsets_T, start, {"size": jnp.asarray(size)})


def copy_cpu() -> Recipe:
    """One layer trained to copy 1-10 digits, often right at 40: 500 steps of 64.

    Cho et al. 2024 in small. Ids more than 11 apart never meet in training, so that what a head makes of such a pair
    is left from the draw of the weights: width and strong weight decay make it small. Exact match at 40 digits over
    three seeds: 0.97, 0.59, 0.78. About a minute on one CPU core.
    python scripts/train.py copy_cpu
    """
    sums, task = addition_cpu(), Copying()
    positions = Learned(rows=task.max_position + 1)
    wide = {"vocabulary": task.vocabulary, "width": 256, "heads": 2, "head_width": 128, "positions": positions}
    return replace(
        sums,
        name="copy_cpu",
        task=task,
        model=replace(sums.model, **wide),
        optimizer=replace(sums.optimizer, learning_rate=1e-3, warmup_steps=20, weight_decay=3.0),
        train=replace(sums.train, steps=500),
    )


def reverse_cpu() -> Recipe:
    """The same layer trained to write 1-10 digits backwards, right at 40.

    Cho et al. 2024 in small. Exact match at 40 digits over three seeds: 1.00. About a minute on one CPU core.
    python scripts/train.py reverse_cpu
    """
    return _backwards(copy_cpu(), "reverse_cpu")


def copy_full() -> Recipe:
    """The paper's layer trained to copy 1-40 digits, examined to 300: 50,000 steps of 1,000.

    Cho et al. 2024, settings of their code. Hours on one accelerator.
    python scripts/train.py copy_full
    """
    small = copy_cpu()
    task = Copying(longest_train=40, longest_test=300, max_position=301)
    return replace(
        small,
        name="copy_full",
        task=task,
        model=replace(
            small.model,
            width=512,
            heads=4,
            head_width=128,
            feedforward=2048,
            positions=Learned(rows=task.max_position + 1),
        ),
        optimizer=replace(small.optimizer, learning_rate=1e-4, warmup_steps=500, weight_decay=0.0),
        train=replace(small.train, steps=50_000, batch_size=1000, save_every=5000),
    )


def reverse_full() -> Recipe:
    """The paper's layer trained to write 1-40 digits backwards, examined to 300: 50,000 steps of 1,000.

    Cho et al. 2024, settings of their code. Hours on one accelerator.
    python scripts/train.py reverse_full
    """
    return _backwards(copy_full(), "reverse_full")


def _backwards(recipe: Recipe, name: str) -> Recipe:
    return replace(recipe, name=name, task=replace(recipe.task, order="backwards"))
