"""Pure parts that samplers are built from: fractions and digits out of random bits, ragged concatenation."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from lm.types import Array


def fraction(bits: Array) -> Array:
    """Return uniform fractions in [0, 1) from the upper 24 of 32 random bits; the lowest 8 stay free for coins."""
    return (bits >> 8).astype(jnp.float32) * 2.0**-24


def below(bits: Array, limit: Array | int) -> Array:
    """Return integers uniform over 0..limit-1 (limit <= 256) from the upper 24 of 32 random bits."""
    return (((bits >> 8) * jnp.uint32(limit)) >> 24).astype(jnp.int32)


def digits_from_bits(bits: Array, count: int) -> Array:
    """Return the first `count` decimals of the random fractions bits / 2^32, [..., count]; at most 3 are even.

    The least likely digit triple is 4e-6 less likely than the likeliest.
    """
    fractions, decimals = bits >> 4, []
    for _ in range(count):
        product = fractions * 10
        decimals.append(product >> 28)
        fractions = product & jnp.uint32(2**28 - 1)
    return jnp.stack(decimals, axis=-1).astype(jnp.int32)


def concatenate(
    parts: Sequence[Array], first: Sequence[Array | int], lengths: Sequence[Array | int], size: int
) -> Array:
    """Join parts[k][first[k] : first[k] + lengths[k]] into [size, ...], zero beyond the end; lengths may be traced."""
    order = jnp.arange(size)
    index, start, offset = order, 0, 0
    for part, skip, length in zip(parts, first, lengths, strict=True):
        index = jnp.where(order >= start, order - start + offset + skip, index)
        start, offset = start + length, offset + part.shape[0]
    index = jnp.where(order >= start, offset, index)
    padding = jnp.zeros((1, *parts[0].shape[1:]), parts[0].dtype)
    return jnp.concatenate([*parts, padding])[index]
