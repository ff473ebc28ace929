"""Composition in a finite group as a table (Chughtai et al. 2023, arXiv 2302.03025; Power et al. 2022).

>>> import jax
>>> task = GroupTable(family="symmetric", order=3)
>>> example = task.sample(jax.random.key(0), 6)
>>> print(task.render(example), "->", task.spell(example.targets))
xy in symmetric 3 where x=1, y=4 -> 2
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import numpy as np

from lm.config import Recipe
from lm.strict import require_choice
from tasks.formal.automata.semiautomata import make, maps
from tasks.formal.groups.modular_arithmetic import modular_arithmetic_cpu, modular_arithmetic_full
from tasks.formal.groups.operations import Operation

FAMILIES = ("cyclic", "cyclic_cube", "dihedral", "quaternion", "symmetric", "alternating")


class Group(NamedTuple):
    """Elements 0..N-1, of which 0 is the identity: `product[a, b]` is ab, `inverse[a]` is 1/a."""

    product: np.ndarray
    inverse: np.ndarray


def group(family: str, order: int) -> Group:
    """Return the group that the symbols of a semiautomaton generate; ab is a, then b.

    Each of these groups acts on its states as on itself, so an element is known by the state where it takes state 0.
    """
    require_choice("task.family", family, FAMILIES)
    product = np.array(sorted(maps(make(family, order)))).T
    return Group(product, np.argmin(product, axis=1))


# operation -> (formula, its result from a group and all pairs)
OPERATIONS: Mapping[str, tuple[str, Callable[[Group, np.ndarray, np.ndarray], np.ndarray]]] = MappingProxyType(
    {
        "product": ("xy", lambda g, a, b: g.product[a, b]),
        "conjugate": ("xyx^-1", lambda g, a, b: g.product[g.product[a, b], g.inverse[a]]),
        "sandwich": ("xyx", lambda g, a, b: g.product[g.product[a, b], a]),
    }
)


@dataclass(frozen=True)
class GroupTable(Operation):
    """All results of `operation` in a group of the family: C_n, C_n^3, D_n (2n elements), Q_8, S_n or A_n."""

    name: ClassVar[str] = "group_table"
    size_name: ClassVar[str] = "elements"

    family: str = "symmetric"
    order: int = 4
    operation: str = "product"

    def __post_init__(self):
        require_choice("task.operation", self.operation, tuple(OPERATIONS))
        super().__post_init__()

    @cached_property
    def group(self) -> Group:
        return group(self.family, self.order)

    @property
    def elements(self) -> int:
        return len(self.group.inverse)

    @property
    def rows(self) -> int:
        return self.elements**2

    @property
    def formula(self) -> str:
        return f"{OPERATIONS[self.operation][0]} in {self.family} {self.order}"

    def table(self) -> np.ndarray:
        a, b = np.divmod(np.arange(self.rows), self.elements)
        return np.stack([a, b, OPERATIONS[self.operation][1](self.group, a, b)], axis=1)


def group_table_cpu() -> Recipe:
    """Composition of permutations of four things by an MLP: memorised by step 300, understood near step 11,500.

    Chughtai et al. 2023 in small, 70 % of 576 rows; about half a minute on one CPU core.
    python scripts/train.py group_table_cpu
    """
    small, task = modular_arithmetic_cpu(), GroupTable(train_fraction=0.7)
    return replace(
        small,
        name="group_table_cpu",
        task=task,
        model=replace(small.model, vocabulary=task.vocabulary, outputs=task.vocabulary),
        train=replace(small.train, steps=20_000, batch_size=task.train_rows),
    )


def group_table_full() -> Recipe:
    """The paper's MLP on S5: embeddings 256, hidden layer 128, 40 % of 14,400 rows, 250,000 whole batches.

    Chughtai et al. 2023, section 5; `sweep.py --seeds 50` trains a population as one program.
    python scripts/train.py group_table_full
    """
    small, task = group_table_cpu(), GroupTable(order=5, train_fraction=0.4)
    return replace(
        small,
        name="group_table_full",
        task=task,
        model=replace(small.model, vocabulary=task.vocabulary, outputs=task.vocabulary, embedding=256),
        train=replace(small.train, steps=250_000, batch_size=task.train_rows, save_every=25_000),
    )


def group_text_full() -> Recipe:
    """Composition in S5 as text by the transformer of Power et al. 2022, half of the table, 100,000 steps.

    The operations `conjugate` and `sandwich` are the other two of the paper.
    python scripts/train.py group_text_full
    """
    text, task = modular_arithmetic_full(), GroupTable(order=5, form="sequence")
    return replace(text, name="group_text_full", task=task, model=replace(text.model, vocabulary=task.vocabulary))
