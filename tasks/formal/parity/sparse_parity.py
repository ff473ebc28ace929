"""Sparse parity: the parity of a few hidden ones among many bits (Edelman et al. 2023, arXiv 2309.03800).

A network reads the bits 0 and 1 as +1 and -1, so that the parity is the sign of a product. The hidden set, and the
pool of examples where there is one, belong to the task's seed; without a pool every batch is fresh.

    >>> task = SparseParity(bits=8, degree=3)
    >>> example = task.sample(jax.random.key(0), 8)
    >>> print(task.render(example), "->", task.spell(example.targets))
    parity of 1 [1] [1] 0 0 [1] 0 1 -> 1
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import MLPConfig, OptimizerConfig, Recipe, TrainConfig
from lm.strict import ConfigError, require_positive
from lm.types import Array, Example, Key
from tasks.task import Task

HIDDEN, POOL = 7_000_011, 7_000_012  # folded into the task's key, far from what a run folds into its own


@dataclass(frozen=True)
class SparseParity(Task):
    """Uniform strings of `bits` bits, labelled by the parity of `degree` of them, which `seed` hides.

    With `samples` all training strings come from a pool of so many, drawn by `seed`; tests are fresh.
    The seed may be traced, so that a population has a set and a pool for each member.
    """

    name: ClassVar[str] = "sparse_parity"
    size_name: ClassVar[str] = "bits"

    bits: int = 50
    degree: int = 3
    samples: int | None = None  # None: online, every string is fresh
    seed: int = 0

    def __post_init__(self):
        if not 1 <= self.degree <= self.bits:
            raise ConfigError(f"task.degree must be from 1 to task.bits {self.bits}, got {self.degree}")
        require_positive("task.samples", 1 if self.samples is None else self.samples)

    @property
    def vocabulary(self) -> int:
        return 2

    @property
    def max_length(self) -> int:
        return self.bits

    @property
    def train_sizes(self) -> tuple[int, int]:
        return self.bits, self.bits

    @property
    def test_sizes(self) -> tuple[int, ...]:
        return (self.bits,)

    @property
    def test_count(self) -> int:
        return 10_000

    def _key(self, purpose: int) -> Key:
        return jax.random.fold_in(jax.random.key(self.seed), purpose)

    def hidden(self) -> Array:
        """Return which bits count, as booleans [bits]."""
        return jax.random.permutation(self._key(HIDDEN), jnp.arange(self.bits) < self.degree)

    def string(self, key: Key) -> Array:
        """Return uniform bits, [bits]."""
        words = jax.random.bits(key, (-(-self.bits // 32),))
        return ((words[:, None] >> jnp.arange(32, dtype=words.dtype)[None]) & 1).reshape(-1)[: self.bits].astype(int)

    def sample(self, key: Key, size: Array) -> Example:
        if self.samples is not None:
            # The pool is a function of its index, so none of it is ever stored.
            key = jax.random.fold_in(self._key(POOL), jax.random.randint(key, (), 0, self.samples))
        return self.sample_test(key, size)

    def sample_test(self, key: Key, size: Array) -> Example:
        inputs_L, hidden_L = self.string(key), self.hidden()
        return Example(
            inputs=inputs_L,
            targets=jnp.sum(inputs_L * hidden_L, keepdims=True) % 2,
            weights=jnp.ones(1),
            positions=jnp.arange(self.bits),
            info={"hidden": hidden_L},
        )

    def render(self, example: Example) -> str:
        marked = zip(np.asarray(example.inputs), np.asarray(example.info["hidden"]), strict=True)
        return "parity of " + " ".join(f"[{bit}]" if hidden else f"{bit}" for bit, hidden in marked)


def sparse_parity_cpu() -> Recipe:
    """The parity of 3 of 50 bits from 1,000 examples by 1,000 neurons that begin with two coordinates each.

    Edelman et al. 2023, the paper's settings: plain SGD, rate 0.1, decay 0.01 of everything, hinge loss, 32 a batch.
    No error on 10,000 fresh strings. 22 s on one CPU core.
    python scripts/train.py sparse_parity_cpu
    """
    task = SparseParity(samples=1000)
    return Recipe(
        name="sparse_parity_cpu",
        task=task,
        model=MLPConfig(
            inputs=task.bits,
            outputs=1,
            vocabulary=2,
            embedding=None,
            sparse=2,
            initialisation="uniform",
            width=1000,
            depth=0,
            dtype="float32",
        ),
        optimizer=OptimizerConfig(
            name="sgd",
            learning_rate=0.1,
            schedule="constant",
            beta1=0.0,
            weight_decay=0.01,
            decay_pattern=".*",
            clip=None,
        ),
        train=TrainConfig(steps=30_000, batch_size=32, steps_per_dispatch=500, log_every=1000, save_every=10_000),
        objective="hinge",
    )


def sparse_parity_full() -> Recipe:
    """The parity of 4 of 50 bits, fresh in every batch, by 10,000 neurons, 100,000 steps: a cell of the paper's grid.

    For an accelerator; not measured here. `reproduce.py sparse_parity --scale full` runs populations of such cells.
    python scripts/train.py sparse_parity_full
    """
    small = sparse_parity_cpu()
    return replace(
        small,
        name="sparse_parity_full",
        task=replace(small.task, degree=4, samples=None),
        model=replace(small.model, width=10_000),
        train=replace(small.train, steps=100_000),
    )
