"""How many tokens of a question say anything at all of its answer: its globality degree (Abbe et al. 2024).

The degree is the smallest k such that some k tokens, with the histogram of all of them, carry information on the
label. It is exact here, by enumeration over all questions of a small size. Letters: N questions, T tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tasks.formal.scratchpad.cycles import Cycles
from tasks.formal.scratchpad.inductive import FIRST

NOTHING = 1e-9  # bits below which rounding explains what was found


class Found(NamedTuple):
    """The degree, a set of as many tokens that carries information, and how many bits it carries."""

    degree: int
    places: tuple[int, ...]
    bits: float


def information(tokens_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the bits that K tokens carry on a label of 0 or 1, over questions that are equally likely."""
    base = int(tokens_NK.max()) + 1
    _, seen_N = np.unique(tokens_NK @ base ** np.arange(tokens_NK.shape[1]), return_inverse=True)
    counts_2C = np.stack([np.bincount(seen_N, labels_N == label, seen_N.max() + 1) for label in (0, 1)])
    joint = counts_2C / len(labels_N)
    alone = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    there = joint > 0
    return float(np.sum(joint[there] * np.log2(joint[there] / alone[there])))


def subsets(size: int, edges: int, others: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield sets of `size` places among edges of two tokens, which are alike, and others: one of each kind."""
    parts = ((), (0,), (1,), (0, 1))
    for shown in itertools.combinations_with_replacement(parts, edges):
        of_edges = tuple(2 * edge + part for edge, kept in enumerate(shown) for part in kept)
        for rest in itertools.combinations(others, max(0, size - len(of_edges))):
            if len(of_edges) + len(rest) == size:
                yield of_edges + rest


def questions(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return all questions about two nodes, FIRST and the next, in cycles of this size, [N, T], and their labels.

    The histogram of tokens says which two nodes are asked of and nothing else; all pairs of them are alike.
    """
    task, edges = Cycles(shortest=size, longest=size, names=2 * size, scratchpad="none"), 2 * size
    every = np.array(list(itertools.permutations(range(edges))))
    names_PE = FIRST + every[(every[:, 0] < 2) & (every[:, size] < 2)]
    rows = np.array(list(itertools.product(range(len(names_PE)), range(len(every)), (0, 1))))

    @jax.jit
    def write(name: jax.Array, order: jax.Array, label: jax.Array) -> jax.Array:
        bits_E = jnp.asarray(every, jnp.uint32)[order] << 8
        return task.write(jnp.asarray(names_PE)[name], bits_E, label, size, size).inputs

    return np.asarray(jax.lax.map(lambda row: write(*row), jnp.asarray(rows), batch_size=4096)), rows[:, 2]


def cycle_degree(size: int) -> Found:
    """Return the globality degree of the cycle task of this size, 2 or 3, with edges as pairs.

    It is 2 n: the tokens of n whole edges, which say whether they close to a cycle or lead from one node to the other.
    """
    rows_NT, labels_N = questions(size)
    edges = 2 * size
    asked = (2 * edges, 2 * edges + 2)
    for degree in range(1, 2 * edges + 3):
        for places in subsets(degree, edges, asked):
            bits = information(rows_NT[:, places], labels_N)
            if bits > NOTHING:
                return Found(degree, places, bits)
    raise AssertionError("all tokens together decide the label")
