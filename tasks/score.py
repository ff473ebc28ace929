"""Grades of one prediction per position: an exact match is 0 or 1, a token rate is a sum over its count."""

from __future__ import annotations

import jax.numpy as jnp

from lm.types import Array, Example, Mean


def masked(hits_L: Array, asked_L: Array) -> Mean:
    """Return the rate of hits among the asked positions, as sum and count."""
    return Mean(jnp.sum(hits_L & asked_L, dtype=jnp.float32), jnp.sum(asked_L, dtype=jnp.float32))


def token_accuracy(predictions_L: Array, example: Example) -> Mean:
    """Return the rate of right tokens among the asked positions."""
    return masked(predictions_L == example.targets, example.weights > 0)


def exact_match(predictions_L: Array, example: Example) -> Array:
    """Return 1 where every asked position is right, else 0."""
    return jnp.all((predictions_L == example.targets) | (example.weights == 0)).astype(jnp.float32)
