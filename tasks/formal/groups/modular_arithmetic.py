"""Modular arithmetic as a finite table: train on a part, examine the whole rest (Power et al. 2022, arXiv 2201.02177).

>>> import jax
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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from lm.config import MLPConfig, OptimizerConfig, Recipe, Sinusoidal, TrainConfig, TransformerConfig
from lm.strict import ConfigError, require_choice
from tasks.formal.groups.operations import Operation

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
        "add_or_multiply": ("x+y if x even else x*y", lambda a, b: np.where(a % 2 == 0, a + b, a * b)),
        "add_or_subtract": ("x+y if x even else x-y", lambda a, b: np.where(a % 2 == 0, a + b, a - b)),
        "divide_or_subtract": ("x/y if y odd else x-y", lambda a, b: a - b),
    }
)


@dataclass(frozen=True)
class ModularArithmetic(Operation):
    """All results of `operation` modulo a prime; nothing is divided by 0."""

    name: ClassVar[str] = "modular_arithmetic"
    size_name: ClassVar[str] = "modulus"

    modulus: int = 59
    operation: str = "add"

    def __post_init__(self):
        require_choice("task.operation", self.operation, tuple(OPERATIONS))
        if self.modulus < 3 or any(self.modulus % n == 0 for n in range(2, int(self.modulus**0.5) + 1)):
            raise ConfigError(f"task.modulus must be an odd prime, got {self.modulus}")
        super().__post_init__()

    @property
    def elements(self) -> int:
        return self.modulus

    @property
    def rows(self) -> int:
        return self.modulus * (self.modulus - self.operation.startswith("divide"))

    @property
    def formula(self) -> str:
        return f"{OPERATIONS[self.operation][0]} mod {self.modulus}"

    def table(self) -> np.ndarray:
        return table(self.operation, self.modulus)


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
