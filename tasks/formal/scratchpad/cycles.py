"""Are two nodes on one cycle? A question that needs all edges together (Abbe et al. 2024, arXiv 2406.06467).

The edges of two cycles of n nodes, or of one of 2 n, stand in random order under random names; asked are two nodes on
different cycles, or n steps apart on the one: nothing short of the whole way tells the two cases apart. The size is n.

    >>> task = Cycles()
    >>> example = task.sample(jax.random.key(0), 3)
    >>> print(task.render(example), "->", task.spell(example.targets[example.weights > 0]))
    v5 v1 v4 v5 v0 v2 v1 v0 v2 v3 v3 v4 v2 ? v5 ; : -> v2 # v3 # v4 # v5 ; 1 .

Without a scratchpad the answer follows at once; a full one is the way; an inductive one is the way in states that see
the question and the last state alone (inductive.py). The paper writes its edges as arrows:

    >>> task = Cycles(scratchpad="full", edges="arrows", longest=2, shortest=2, names=1000)
    >>> print(task.show(0, 0, 2))
    v871 > v408 ; v964 > v163 ; v408 > v964 ; v163 > v871 ; v964 ? v871 ; :
    -> v964 > v163 > v871 ; 1 .
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import Learned, OptimizerConfig, Recipe, TrainConfig, TransformerConfig
from lm.data.mixture import Phase
from lm.strict import ConfigError, require_choice
from lm.types import Array, Example, Key
from tasks.build import concatenate
from tasks.formal.scratchpad import inductive
from tasks.formal.scratchpad.inductive import ARROW, ASK, BEGIN, END, FIRST, FORMS, NEXT, THEN, ZERO
from tasks.mixture import TaskMixture
from tasks.task import Task


@dataclass(frozen=True)
class Cycles(Task):
    """Cycles of `shortest` to `longest` nodes to learn from, of those in `tested` (None: the same) in tests.

    There are twice as many nodes as on a cycle, or `nodes` of them, whatever the size: then `size` is the length of
    the first node's cycle, or the way to the second node on the cycle of all.
    """

    name: ClassVar[str] = "cycles"
    size_name: ClassVar[str] = "cycle length"

    shortest: int = 3
    longest: int = 3
    tested: tuple[int, ...] | None = None
    nodes: int | None = None
    names: int = 6
    scratchpad: str = "inductive"  # none, full, inductive
    edges: str = "pairs"  # pairs (a b), arrows (a > b ;)

    def __post_init__(self):
        require_choice("task.scratchpad", self.scratchpad, FORMS)
        require_choice("task.edges", self.edges, ("pairs", "arrows"))
        sizes = (self.shortest, self.longest, *self.test_sizes)
        most = max(sizes) if self.nodes is None else self.nodes - 2
        if self.shortest > self.longest or min(sizes) < 2 or max(sizes) > most:
            raise ConfigError(
                f"task.shortest, task.longest and task.tested must be in order and lie in 2..{most}, got {sizes}"
            )
        if self._most_nodes(max(sizes)) > self.names:
            raise ConfigError(f"task.names must be at least {self._most_nodes(max(sizes))}, got {self.names}")

    def _most_nodes(self, size: int) -> int:
        return 2 * size if self.nodes is None else self.nodes

    @property
    def vocabulary(self) -> int:
        return FIRST + self.names

    @property
    def max_length(self) -> int:
        return self._length(max(self.test_sizes))

    @property
    def train_length(self) -> int:
        return self._length(self.longest)

    @property
    def _edge_width(self) -> int:
        return 4 if self.edges == "arrows" else 2

    def _length(self, size: int) -> int:
        question = self._edge_width * self._most_nodes(size) + 4
        if self.scratchpad == "none":
            return inductive.text_length(question, 1, 2, 2, "none")
        return inductive.text_length(question + 1, size + 1, 2, 4, self.scratchpad)

    @property
    def train_sizes(self) -> tuple[int, int]:
        return self.shortest, self.longest

    @property
    def test_sizes(self) -> tuple[int, ...]:
        return tuple(range(self.shortest, self.longest + 1)) if self.tested is None else self.tested

    def sample(self, key: Key, size: Array) -> Example:
        return self._sample(key, size, self.longest)

    def sample_test(self, key: Key, size: Array) -> Example:
        return self._sample(key, size, max(self.test_sizes))

    def _sample(self, key: Key, size: Array, longest: int) -> Example:
        key_label, key_names, key_order = jax.random.split(key, 3)
        edges = self._most_nodes(longest)
        names_E = FIRST + jax.lax.top_k(jax.random.bits(key_names, (self.names,)), edges)[1]
        bits_E = jax.random.bits(key_order, (edges,))
        label = (jax.random.bits(key_label) & 1).astype(jnp.int32)
        return self.write(names_E, bits_E, label, size, longest)

    def write(self, names_E: Array, bits_E: Array, label: Array | int, size: Array | int, longest: int) -> Example:
        """Write the question of nodes 0 and `size` under these names, edges in the order of random bits.

        The length is that of a way of up to `longest` steps.
        """
        count = 2 * size if self.nodes is None else self.nodes
        order_E = jnp.arange(len(names_E))
        # One cycle through all nodes in turn, or one through the first `size` and one through the others.
        home_E = jnp.where(label == 1, 0, jnp.where(order_E < size, 0, size))
        turns_E = (order_E == count - 1) | ((order_E == size - 1) & (label == 0))
        after_E = jnp.where(turns_E, home_E, order_E + 1)
        from_E = jnp.argsort(jnp.where(order_E < count, bits_E >> 1, bits_E | jnp.uint32(1 << 31)))
        ends = [names_E[from_E], names_E[jnp.take(after_E, from_E)]]
        if self.edges == "arrows":
            ends = [ends[0], jnp.full_like(from_E, ARROW), ends[1], jnp.full_like(from_E, THEN)]
        edges = jnp.stack(ends, axis=1).reshape(-1)

        marks = jnp.array([THEN] if self.scratchpad == "none" else [THEN, BEGIN])
        query = jnp.concatenate([jnp.stack([names_E[0], jnp.int32(ASK), jnp.take(names_E, size)]), marks])
        shown = self._edge_width * count + len(query)
        question = concatenate([edges, query], [self._edge_width * count, len(query)], len(edges) + len(query))
        states = self._states(names_E, label, size, longest)
        return inductive.write(question, shown, *states, self._length(longest), self.scratchpad == "inductive")

    def _states(self, names_E: Array, label: Array | int, size: Array | int, longest: int) -> tuple[Array, Array]:
        """Return the states, [S, W], and their lengths: nodes from 0 to `size`, or once around; then the label."""
        answer_2 = jnp.stack([jnp.asarray(ZERO + label), jnp.asarray(END)])
        if self.scratchpad == "none":
            return answer_2[None], jnp.full(1, 2)
        order_S = jnp.arange(longest + 1)
        nodes_S = jnp.take(names_E, jnp.where((order_S == size) & (label == 0), 0, order_S), mode="clip")
        joint = ARROW if self.scratchpad == "full" else NEXT
        marks_S = jnp.where(order_S == size, THEN, joint)
        answers_S2 = jnp.broadcast_to(answer_2, (longest + 1, 2))
        states_SW = jnp.concatenate([nodes_S[:, None], marks_S[:, None], answers_S2], axis=1)
        return states_SW, jnp.where(order_S < size, 2, jnp.where(order_S == size, 4, 0))

    def render(self, example: Example) -> str:
        return self.spell(np.asarray(example.inputs)[: int(example.info["begin"])])

    def spell(self, tokens: Sequence[int]) -> str:
        return inductive.spell(tokens, "v{}")


def cycles_cpu() -> Recipe:
    """Three layers of width 64 walk around three of six nodes, each state from the question and the last one.

    Abbe et al. 2024 in small. Examined on ways of two and of four steps, too: the nodes are as many, the ways are new.
    No error on any of them after 1,000 steps, with a seed that is not reported.
    python scripts/train.py cycles_cpu
    """
    task = Cycles(nodes=6, tested=(2, 3, 4))
    return Recipe(
        name="cycles_cpu",
        task=task,
        model=TransformerConfig(
            vocabulary=task.vocabulary,
            depth=3,
            width=64,
            heads=4,
            tied=False,
            positions=Learned(rows=64),
            initialisation="lecun",
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=100),
        train=TrainConfig(steps=1500, batch_size=64, steps_per_dispatch=50, save_every=5000),
    )


def cycles_path_cpu() -> Recipe:
    """The whole way as one text: no error on ways of three steps after 1,000, and nothing right on two or four.

    python scripts/train.py cycles_path_cpu
    """
    short = cycles_cpu()
    return replace(short, name="cycles_path_cpu", task=replace(short.task, scratchpad="full"))


def cycles_plain_cpu() -> Recipe:
    """No scratchpad: 5,000 steps and no better than a coin.

    python scripts/train.py cycles_plain_cpu
    """
    short = cycles_cpu()
    return replace(
        short,
        name="cycles_plain_cpu",
        task=replace(short.task, scratchpad="none"),
        train=replace(short.train, steps=5000),
    )


def cycles_curriculum_cpu() -> Recipe:
    """No scratchpad, but cycles of two nodes first and both sizes then.

    python scripts/train.py cycles_curriculum_cpu
    """
    plain = cycles_plain_cpu()
    three = Cycles(scratchpad="none")
    two = replace(three, shortest=2, longest=2)
    phases = (Phase(0.4, (("two", 1.0),)), Phase(0.6, (("two", 1.0), ("three", 3.0))))
    task = TaskMixture((("three", three), ("two", two)), phases)
    return replace(plain, name="cycles_curriculum_cpu", task=task)


def cycles_full() -> Recipe:
    """The paper's model of ten million parameters on cycles of ten nodes, its edges as arrows between 1,000 names.

    Abbe et al. 2024: with the inductive scratchpad learned in a few thousand steps.
    python scripts/train.py cycles_full
    """
    task = Cycles(shortest=10, longest=10, names=1000, edges="arrows")
    return Recipe(
        name="cycles_full",
        task=task,
        model=TransformerConfig(
            vocabulary=task.vocabulary,
            depth=6,
            width=384,
            heads=6,
            norm="layer",
            positions=Learned(rows=256),
            dropout=0.2,
            embedding_dropout=0.2,
        ),
        optimizer=OptimizerConfig(
            learning_rate=3e-4, warmup_steps=100, final_fraction=0.1, beta2=0.99, weight_decay=0.1
        ),
        train=TrainConfig(steps=10_000, batch_size=512, save_every=1000),
    )


def cycles_plain_full() -> Recipe:
    """The same model without a scratchpad on cycles of six nodes, for up to 100,000 steps.

    Abbe et al. 2024: the steps to 95 % grow faster than any power from n = 2 to 6; at n = 7 nothing is learned. The
    other cells of that table are `--task.shortest N --task.longest N`.
    python scripts/train.py cycles_plain_full
    """
    big = cycles_full()
    return replace(
        big,
        name="cycles_plain_full",
        task=replace(big.task, shortest=6, longest=6, scratchpad="none"),
        train=replace(big.train, steps=100_000, evaluate_every=1000),
    )
