"""One more row of a language model's head, for a value at every position: the start of a verifier."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lm.types import Array, Params

ROWS = {"embedding/table": 0, "head/kernel": 1, "head/bias": 0}  # the axis of the vocabulary, by path


def value_row(params: Params) -> Params:
    """Return the parameters of the same transformer with one more token, whose row of the head is zero.

    Its logit is 0 everywhere, and all others are what they were: a value head that has learned nothing yet.
    """

    def widened(path: jax.tree_util.KeyPath, leaf: Array) -> Array:
        axis = ROWS.get(jax.tree_util.keystr(path, simple=True, separator="/"))
        return leaf if axis is None else jnp.pad(leaf, [(0, int(i == axis)) for i in range(leaf.ndim)])

    return jax.tree_util.tree_map_with_path(widened, params)
