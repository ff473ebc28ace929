"""What tasks about a finite operation share: its table of (a, b, result), of which a part is held out.

Form `pair` gives the two operands and asks for the result; form `sequence` is text with one token an element,
`$ a op b = result $`, asked after '=' (Power et al. 2022, arXiv 2201.02177).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from lm.strict import ConfigError, require_choice
from lm.types import Array, Batch, Example, Key, Net, Params
from tasks.task import Task, next_token


@dataclass(frozen=True)
class Operation(Task):
    """A finite operation; `train_fraction` of its rows, chosen by `split_seed`, are trained on.

    A subclass has `elements`, `rows`, `table()` and `formula`. A batch as large as the training part is that part,
    every row once.
    """

    train_fraction: float = 0.5
    split_seed: int = 0
    form: str = "pair"  # pair, sequence

    def __post_init__(self):
        require_choice("task.form", self.form, ("pair", "sequence"))
        if not 0 < self.train_rows < self.rows:
            raise ConfigError(f"task.train_fraction must leave rows on both sides, got {self.train_fraction}")

    @property
    def elements(self) -> int:
        """Elements that operands and results are among."""
        raise NotImplementedError

    @property
    def rows(self) -> int:
        """Rows of the whole table."""
        raise NotImplementedError

    @property
    def formula(self) -> str:
        """The operation on x and y as a reader would write it."""
        raise NotImplementedError

    def table(self) -> np.ndarray:
        """Return every row (a, b, result), [rows, 3]."""
        raise NotImplementedError

    @property
    def train_rows(self) -> int:
        """Rows to train on."""
        return int(self.rows * self.train_fraction)

    @property
    def vocabulary(self) -> int:
        return self.elements + (3 if self.form == "sequence" else 0)

    @property
    def max_length(self) -> int:
        return 6 if self.form == "sequence" else 2

    @property
    def train_sizes(self) -> tuple[int, int]:
        return self.elements, self.elements

    @property
    def test_sizes(self) -> tuple[int, ...]:
        return (self.elements,)

    @property
    def test_count(self) -> int:
        return self.rows - self.train_rows

    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows (a, b, result) to train on and the held-out rows, [rows, 3] each, in shuffled order."""
        order = np.random.default_rng(self.split_seed).permutation(self.rows)
        rows = self.table()[order].astype(np.int32)
        return rows[: self.train_rows], rows[self.train_rows :]

    def sample(self, key: Key, size: Array) -> Example:
        rows = jnp.asarray(self.split()[0])
        return self._example(rows[jax.random.randint(key, (), 0, self.train_rows)])

    def sample_test(self, key: Key, size: Array) -> Example:
        return self.test_example(key, jax.random.randint(key, (), 0, self.test_count), size)

    def test_example(self, key: Key, index: Array, size: Array) -> Example:
        return self._example(jnp.asarray(self.split()[1])[index])

    def draw(self, key: Key, batch_size: int) -> Batch:
        if batch_size == self.train_rows:
            return jax.vmap(self._example)(jnp.asarray(self.split()[0]))
        return super().draw(key, batch_size)

    def _example(self, row: Array) -> Example:
        if self.form == "pair":
            return Example(
                inputs=row[:2], targets=row[2:], weights=jnp.ones(1), positions=jnp.arange(2), info={"row": row}
            )
        end, sign, equals = self.elements, self.elements + 1, self.elements + 2
        tokens_T = jnp.stack([end, row[0], sign, row[1], equals, row[2], end])
        return next_token(tokens_T, jnp.arange(7) > 4, jnp.arange(7), {"row": row})

    def render(self, example: Example) -> str:
        a, b, _ = map(int, example.info["row"])
        return f"{self.formula} where x={a}, y={b}"

    def spell(self, tokens: Sequence[int]) -> str:
        names = ["$", self.formula.split()[0], "="]
        return " ".join(str(t) if t < self.elements else names[t - self.elements] for t in map(int, tokens))


def all_scores(net: Net, params: Params, task: Operation) -> np.ndarray:
    """Return the logits of a pair model on a table that holds every pair, [a, b, c]."""
    rows = jnp.asarray(task.table(), jnp.int32)
    batch = Example(rows[:, :2], rows[:, 2:], jnp.ones((len(rows), 1)), jnp.zeros_like(rows[:, :2]), {})
    return np.asarray(net.apply(params, batch).logits, np.float64).reshape((task.elements,) * 3)
