"""Modular arithmetic as a finite table: train on a part, examine the whole rest (Power et al. 2022, arXiv 2201.02177).

Form `pair` gives the two operands and asks for the result; form `sequence` is the paper's text with one token a
number, asked after '=':

    >>> task = ModularArithmetic(modulus=7, operation="divide")
    >>> example = task.sample(jax.random.key(0), 7)
    >>> print(task.render(example), "->", task.spell(example.targets))
    x/y mod 7 where x=3, y=1 -> 3
    >>> task = ModularArithmetic(modulus=7, form="sequence")
    >>> example = task.sample(jax.random.key(0), 7)
    >>> print(task.spell(example.inputs), "->", task.spell(example.targets[example.weights > 0]))
    $ 1 x+y 3 = 4 -> 4 $
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import MLPConfig, OptimizerConfig, Recipe, Sinusoidal, TrainConfig, TransformerConfig
from lm.strict import ConfigError, require_choice
from lm.types import Array, Batch, Example, Key
from tasks.task import Task, next_token

# operation -> (formula, result before the modulus); `table` makes the divisions from products
OPERATIONS: Mapping[str, tuple[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = MappingProxyType(
    {
        "add": ("x+y", lambda a, b: a + b),
        "subtract": ("x-y", lambda a, b: a - b),
        "multiply": ("x*y", lambda a, b: a * b),
        "divide": ("x/y", lambda a, b: a),
        "squares": ("x^2+y^2", lambda a, b: a * a + b * b),
        "quadratic": ("x^2+xy+y^2", lambda a, b: a * a + a * b + b * b),
        "quadratic_linear": ("x^2+xy+y^2+x", lambda a, b: a * a + a * b + b * b + a),
        "cubic": ("x^3+xy", lambda a, b: a**3 + a * b),
        "cubic_square": ("x^3+xy^2+y", lambda a, b: a**3 + a * b * b + b),
        "divide_or_subtract": ("x/y if y odd else x-y", lambda a, b: a - b),
    }
)


@dataclass(frozen=True)
class ModularArithmetic(Task):
    """All results of `operation` modulo a prime; `train_fraction` of the rows, chosen by `split_seed`, are trained on.

    A batch as large as the training part is that part, every row once.
    """

    name: ClassVar[str] = "modular_arithmetic"
    size_name: ClassVar[str] = "modulus"

    modulus: int = 59
    operation: str = "add"
    train_fraction: float = 0.5
    split_seed: int = 0
    form: str = "pair"  # pair, sequence

    def __post_init__(self):
        require_choice("task.operation", self.operation, tuple(OPERATIONS))
        require_choice("task.form", self.form, ("pair", "sequence"))
        if self.modulus < 3 or any(self.modulus % n == 0 for n in range(2, int(self.modulus**0.5) + 1)):
            raise ConfigError(f"task.modulus must be an odd prime, got {self.modulus}")
        if not 0 < self.train_rows < self.rows:
            raise ConfigError(f"task.train_fraction must leave rows on both sides, got {self.train_fraction}")

    @property
    def rows(self) -> int:
        """Rows of the whole table."""
        return self.modulus * (self.modulus - self.operation.startswith("divide"))

    @property
    def train_rows(self) -> int:
        """Rows to train on."""
        return int(self.rows * self.train_fraction)

    @property
    def vocabulary(self) -> int:
        return self.modulus + (3 if self.form == "sequence" else 0)

    @property
    def max_length(self) -> int:
        return 6 if self.form == "sequence" else 2

    @property
    def train_sizes(self) -> tuple[int, int]:
        return self.modulus, self.modulus

    @property
    def test_sizes(self) -> tuple[int, ...]:
        return (self.modulus,)

    @property
    def test_count(self) -> int:
        return self.rows - self.train_rows

    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows (a, b, result) to train on and the held-out rows, [rows, 3] each, in shuffled order."""
        order = np.random.default_rng(self.split_seed).permutation(self.rows)
        rows = table(self.operation, self.modulus)[order].astype(np.int32)
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
        end, sign, equals = self.modulus, self.modulus + 1, self.modulus + 2
        tokens_T = jnp.stack([end, row[0], sign, row[1], equals, row[2], end])
        return next_token(tokens_T, jnp.arange(7) > 4, jnp.arange(7), {"row": row})

    def render(self, example: Example) -> str:
        a, b, _ = map(int, example.info["row"])
        return f"{OPERATIONS[self.operation][0]} mod {self.modulus} where x={a}, y={b}"

    def spell(self, tokens: Sequence[int]) -> str:
        names = ["$", OPERATIONS[self.operation][0], "="]
        return " ".join(str(t) if t < self.modulus else names[t - self.modulus] for t in map(int, tokens))


def table(operation: str, modulus: int) -> np.ndarray:
    """Return every row (a, b, result) of an operation modulo a prime, [rows, 3]; nothing is divided by 0."""
    a, b = np.divmod(np.arange(modulus * modulus), modulus)
    if not operation.startswith("divide"):
        return np.stack([a, b, OPERATIONS[operation][1](a, b) % modulus], axis=1)
    quotient, divisor = a[b > 0], b[b > 0]
    dividend = quotient * divisor % modulus
    if operation == "divide_or_subtract":
        quotient = np.where(divisor % 2 == 1, quotient, (dividend - divisor) % modulus)
    return np.stack([dividend, divisor, quotient], axis=1)


def modular_arithmetic_cpu() -> Recipe:
    """Addition modulo 59 by an MLP: memorised by step 300, understood near step 8,500.

    Chughtai et al. 2023 (arXiv 2302.03025), model U in small: embeddings 128, hidden 128, whole training table
    in every batch, weight decay 1 on all parameters. About 30 s on one CPU core.
    python scripts/train.py modular_arithmetic_cpu
    """
    task = ModularArithmetic()
    return Recipe(
        name="modular_arithmetic_cpu",
        task=task,
        model=MLPConfig(
            inputs=2, vocabulary=task.vocabulary, outputs=task.vocabulary, depth=0, bias=False, dtype="float32"
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            schedule="constant",
            beta2=0.98,
            weight_decay=1.0,
            decay_pattern=".*",
            clip=None,
        ),
        train=TrainConfig(steps=10_000, batch_size=task.train_rows, steps_per_dispatch=100, log_every=100),
    )


def modular_arithmetic_full() -> Recipe:
    """Division modulo 97 by the paper's transformer: 2 layers, width 128, 4 heads, post-norm, 100,000 steps.

    Power et al. 2022, figure 1: training accuracy 1 near step 1e3, held-out accuracy 1 long after.
    python scripts/train.py modular_arithmetic_full
    """
    task = ModularArithmetic(modulus=97, operation="divide", form="sequence")
    small = modular_arithmetic_cpu()
    return replace(
        small,
        name="modular_arithmetic_full",
        task=task,
        model=TransformerConfig(
            vocabulary=task.vocabulary,
            depth=2,
            width=128,
            heads=4,
            feedforward=512,
            activation="relu",
            norm="layer",
            norm_place="post",
            tied=False,
            positions=Sinusoidal(),
            dtype="float32",
        ),
        optimizer=replace(small.optimizer, warmup_steps=10),
        train=replace(small.train, steps=100_000, batch_size=512, save_every=10_000),
    )
