"""Boards of mines and the numbers beside them: two dimensions written as one text, an id a row and an id a column.

Cho et al. 2024 (arXiv 2405.20671), generator of their code: mines M and empty cells E row by row, then each cell
again, as a mine or as the mines among its 8 neighbours. Coupled, a cell has the same two ids in both boards; `=`
stands a column and a row before the first cell, and ids of columns and of rows start at random places of their own.

    >>> task = Board(shortest_train=2, longest_train=3, longest_test=3)
    >>> mines = jnp.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]])
    >>> example = task.write(mines, height=2, width=3, start=jnp.array([[4, 1]]))
    >>> print(task.render(example), "->", task.spell(example.targets[example.weights > 0]))
    MEE EME = -> M212M1$
    >>> for ids in example.positions[:14].T:
    ...     print(*ids)
    0 5 6 7 5 6 7 4 5 6 7 5 6 7
    0 2 2 2 3 3 3 1 2 2 2 3 3 3
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.config import Learned, Recipe
from lm.strict import ConfigError
from lm.types import Array, Example, Key
from tasks.arithmetic.addition import addition_cpu
from tasks.arithmetic.coupled import Coupled
from tasks.build import below, fraction

PAD, BEGIN, END, ZERO, MINE, EMPTY, EQUALS = 0, 2, 3, 4, 13, 14, 15  # 1 is never used
SPARSE, DENSE = 0.1, 0.25  # the share of mines is uniform between them


@dataclass(frozen=True)
class Board(Coupled):
    """Boards whose height and width lie in the training range each, examined on squares up to `longest_test` a side.

    The size is the longer side.
    """

    name: ClassVar[str] = "board"
    size_name: ClassVar[str] = "side"
    spellings: ClassVar[str] = "_?^$012345678ME="
    axes: ClassVar[int] = 2

    longest_train: int = 5
    longest_test: int = 8
    max_position: int = 12
    shortest_train: int = 3

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.shortest_train <= self.longest_train:
            raise ConfigError(
                f"task.shortest_train must be from 1 to task.longest_train {self.longest_train}, "
                f"got {self.shortest_train}"
            )

    def length(self, size: Array | int) -> Array | int:
        return 2 * size**2 + 3

    def couples(self, size: Array | int) -> Array | int:
        return size + 1

    @property
    def train_sizes(self) -> tuple[int, int]:
        return self.shortest_train, self.longest_train

    @property
    def test_sizes(self) -> tuple[int, ...]:
        return tuple(range(self.shortest_train, self.longest_test + 1))

    def draw_sizes(self, key: Key, batch_size: int) -> Array:
        """Return the longer of two sides that are uniform over the training range."""
        low, high = self.train_sizes
        return jnp.max(jax.random.randint(key, (batch_size, 2), low, high + 1), axis=1)

    def sample(self, key: Key, size: Array) -> Example:
        key_shape, key_mines = jax.random.split(key)
        bits = jax.random.bits(key_shape, (3,))
        # Of k sides up to n there are 2k - 1 pairs whose longer is n: (n, each), then (each below n, n).
        sides = size - self.shortest_train + 1
        pair = below(bits[0], 2 * sides - 1)
        height = jnp.where(pair < sides, size, size + sides - 1 - pair)
        width = jnp.where(pair < sides, size - pair, size)
        start_1A = self.draw_start(bits[1:], size)[None]
        return self.write(self._mines(key_mines, self.longest_train), height, width, start_1A)

    def sample_test(self, key: Key, size: Array) -> Example:
        return self.write(self._mines(key, self.longest_test), size, size, 1)

    def _mines(self, key: Key, side: int) -> Array:
        bits = jax.random.bits(key, (side**2 + 1,))
        share = SPARSE + (DENSE - SPARSE) * fraction(bits[0])
        return (fraction(bits[1:]) < share).reshape(side, side)

    def write(self, mines_SS: Array, height: Array | int, width: Array | int, start: Array | int) -> Example:
        """Write the upper left `height` x `width` cells of a field, with ids from `start`: [1, 2] for column, row."""
        side, count = mines_SS.shape[0], height * width
        order_S, order_T = jnp.arange(side), jnp.arange(2 * side**2 + 3)
        equals, end = count + 1, 2 * count + 2
        cell_T = jnp.where(order_T < equals, order_T, order_T - equals) - 1
        row_T = jax.lax.div(cell_T, jnp.asarray(width, jnp.int32))
        column_T = cell_T - row_T * width

        def text(begin: int, cells_T: Array, sign: int, last: int) -> Array:
            signed_T = jnp.where(order_T == equals, sign, jnp.where(order_T == end, last, cells_T))
            return jnp.where(order_T == 0, begin, jnp.where(order_T <= end, signed_T, PAD))

        field_SS = (mines_SS > 0) & (order_S[:, None] < height) & (order_S[None] < width)
        asked_SS = jnp.where(field_SS, MINE, EMPTY)
        answered_SS = jnp.where(field_SS, MINE, ZERO + neighbours(field_SS))
        both_N = jnp.concatenate([asked_SS.ravel(), answered_SS.ravel()])
        at_T = row_T * side + column_T + jnp.where(order_T < equals, 0, side**2)
        tokens_T = text(BEGIN, jnp.take(both_N, at_T, mode="clip"), EQUALS, END)
        asked_T = (order_T > equals) & (order_T <= end)
        offsets_TA = jnp.stack([text(0, 2 + at_T, 1, 0) for at_T in (column_T, row_T)], axis=1)
        info = {"size": jnp.maximum(height, width), "height": jnp.asarray(height), "width": jnp.asarray(width)}
        return self.lay_out(tokens_T, asked_T, offsets_TA, start, info)

    def render(self, example: Example) -> str:
        rows, width = super().render(example), int(example.info["width"])
        return " ".join(rows[i : i + width] for i in range(0, len(rows), width))


def neighbours(mines_SS: Array) -> Array:
    """Return how many of the up to 8 cells around each are mines."""
    padded = jnp.pad(mines_SS.astype(jnp.int32), 1)
    columns = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return columns[:-2] + columns[1:-1] + columns[2:] - mines_SS


def board_cpu() -> Recipe:
    """Two layers trained on boards of 3-5 a side: 1,500 steps of 64.

    Cho et al. 2024 in small. Expected exact match on squares, in a pilot of 2,000 steps: 0.99 at 5, 0.2 at 6, 0 at 7.
    About two minutes on one CPU core.
    python scripts/train.py board_cpu
    """
    sums, task = addition_cpu(), Board()
    positions = Learned(rows=task.max_position + 1, separate=True, axes=2)
    model = replace(sums.model, vocabulary=task.vocabulary, depth=2, feedforward=256, positions=positions)
    train = replace(sums.train, steps=1500)
    return replace(sums, name="board_cpu", task=task, model=model, train=train)


def board_full() -> Recipe:
    """The paper's four layers trained on boards of 5-9 a side, good to 12 or 13: 100,000 steps of 800.

    Cho et al. 2024: exact match above 0.98 at 12 to 13 a side. Hours on one accelerator.
    python scripts/train.py board_full
    """
    small = board_cpu()
    task = Board(shortest_train=5, longest_train=9, longest_test=13, max_position=16)
    return replace(
        small,
        name="board_full",
        task=task,
        model=replace(
            small.model,
            depth=4,
            width=512,
            heads=8,
            head_width=64,
            feedforward=2048,
            positions=Learned(rows=task.max_position + 1, separate=True, axes=2),
        ),
        optimizer=replace(small.optimizer, learning_rate=1e-4, warmup_steps=1000),
        train=replace(small.train, steps=100_000, batch_size=800, save_every=5000),
    )
