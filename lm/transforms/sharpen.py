"""All attention scores of a transformer times one number, and the number that suits texts of one length."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lm.losses import next_token
from lm.types import Array, Batch, Net, Params


def sharpen(params: Params, factor: Array | float) -> Params:
    """Return the parameters of the same transformer with all scores of queries and keys `factor` times as large."""
    attention = params["blocks"]["attention"]
    query = jax.tree.map(lambda leaf: factor * leaf, attention["query"])
    return {**params, "blocks": {**params["blocks"], "attention": {**attention, "query": query}}}


def fit_sharpness(net: Net, params: Params, batch: Batch, factors_M: Array) -> Array:
    """Return that of the factors with which the targets of a batch are likeliest.

    One for each length of text, found on a few examples, are length-dependent parameters (Awasthi and Gupta 2023).
    """
    losses_M = jax.lax.map(lambda factor: next_token(net.apply, sharpen(params, factor), batch, None)[0], factors_M)
    return factors_M[jnp.argmin(losses_M)]
