"""Learners that need no training: each predicts every label of a prompt from the points and labels before it.

A learner takes points x [M, N] of -1 and 1 and whether each is positive [M], and returns its predictions [M], which
for point i depend on labels before i alone. All are pure JAX; `jax.vmap` maps them over prompts.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.types import Array
from tasks.formal.boolean.functions import Family, Function


def before(counts: Array) -> Array:
    """Return the sum of all rows before each one, along the first axis."""
    counts = counts.astype(jnp.int32)
    return jnp.cumsum(counts, axis=0) - counts


def conjunction(x_MN: Array, label_M: Array) -> Array:
    """Predict by the AND of the literals that held in every positive point so far: never a false positive.

    Valiant's elimination; before the first positive point it says no.
    """
    up_MN = x_MN > 0
    alive = [before(label_M[:, None] & broken_MN) == 0 for broken_MN in (~up_MN, up_MN)]
    return ~jnp.any((alive[0] & ~up_MN) | (alive[1] & up_MN), axis=1)


def disjunction(x_MN: Array, label_M: Array) -> Array:
    """Predict by the OR of the literals that failed in every negative point so far: never a false negative."""
    return ~conjunction(x_MN, ~label_M)


class Parity(NamedTuple):
    """What Gaussian elimination says of each point, [M], and whether the points before it determine that, [M]."""

    prediction: Array
    determined: Array


def parity(x_MN: Array, label_M: Array) -> Parity:
    """Predict by Gaussian elimination over GF(2), with zeros for what is free; right where it is determined."""
    width = x_MN.shape[1]
    rows_MW = jnp.concatenate([x_MN > 0, label_M[:, None]], axis=1).astype(jnp.int32)

    def see(basis_NW: Array, row_W: Array) -> tuple[Array, Parity]:
        # Row j of the basis is the one with a leading 1 in column j, which no other row has; or zeros.
        rest_W = (row_W + row_W[:width] @ basis_NW) % 2
        free_N = rest_W[:width] == 1
        said = Parity((rest_W[-1] != row_W[-1]), ~jnp.any(free_N))
        pivot = jnp.argmax(free_N)
        cleared_NW = (basis_NW + jnp.outer(basis_NW[:, pivot], rest_W)) % 2
        return jnp.where(said.determined, basis_NW, cleared_NW.at[pivot].set(rest_W)), said

    return jax.lax.scan(see, jnp.zeros((width, width + 1), jnp.int32), rows_MW)[1]


def vote(said_MS: Array, label_M: Array) -> Array:
    """Predict by the majority of S hypotheses among those that were right about every point so far."""
    alive_MS = before(said_MS != label_M[:, None]) == 0
    return jnp.sum(jnp.where(alive_MS, 2 * said_MS - 1, 0), axis=1) > 0


def sparse_parity(x_MN: Array, label_M: Array) -> Array:
    """Predict by the vote of all parities of two coordinates."""
    first_S, second_S = np.triu_indices(x_MN.shape[1], 1)
    return vote(x_MN[:, first_S] != x_MN[:, second_S], label_M)


def bayes(family: Family, functions: Function, x_MN: Array, label_M: Array) -> Array:
    """Predict by the vote of functions, each leaf [S, ...], drawn from the prior; no where none of them is left."""
    assert family.label is not None
    return vote(jax.vmap(family.label, (0, None), 1)(functions, x_MN), label_M)


def nearest_neighbour(x_MN: Array, label_M: Array) -> Array:
    """Predict the label of the first among the nearest points so far; no for the first point."""
    order_M = jnp.arange(len(x_MN))
    likeness_MM = jnp.where(order_M[None] < order_M[:, None], x_MN @ x_MN.T, -x_MN.shape[1] - 1)
    return label_M[jnp.argmax(likeness_MM, axis=1)] & (order_M > 0)


def averaging(x_MN: Array, label_M: Array) -> Array:
    """Predict by the sign of the product with the mean of y x so far."""
    return jnp.sum(before(x_MN * (2 * label_M - 1)[:, None]) * x_MN, axis=1) > 0


def majority(x_MN: Array, label_M: Array) -> Array:
    """Predict the more frequent label so far."""
    return before(2 * label_M - 1) > 0
