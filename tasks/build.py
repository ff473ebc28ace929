"""Pure parts that samplers are built from: numbers out of random bits, running memory, ragged concatenation."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lm.types import Array


def fraction(bits: Array) -> Array:
    """Return uniform fractions in [0, 1) from the upper 24 of 32 random bits; the lowest 8 stay free for coins."""
    return (bits >> 8).astype(jnp.float32) * 2.0**-24


def below(bits: Array, limit: Array | int) -> Array:
    """Return integers uniform over 0..limit-1 (limit <= 65536) out of 32 random bits each."""
    limit = jnp.asarray(limit, jnp.uint32)
    upper, lower = (bits >> 16) * limit, (bits & 0xFFFF) * limit
    return ((upper + (lower >> 16)) >> 16).astype(jnp.int32)


def below_large(bits: Array, limit: Array | int) -> Array:
    """Return what `below` does for any limit <= 2 ** 24, a byte at a time and half as fast."""
    limit = jnp.asarray(limit, jnp.uint32)
    product = jnp.uint32(0)
    for shift in (0, 8, 16, 24):
        product = ((bits >> shift & 255) * limit + product) >> 8
    return product.astype(jnp.int32)


def permutation(bits_N: Array) -> Array:
    """Return a permutation of 0..N-1 out of 32 random bits an entry: their ranks, earlier entries first where equal.

    N * N comparisons outrun a sort for N of a few dozen, and more so under vmap.
    """
    order_N = jnp.arange(bits_N.shape[0])
    others_1N, these_N1 = bits_N[None], bits_N[:, None]
    before_NN = (others_1N < these_N1) | ((others_1N == these_N1) & (order_N[None] < order_N[:, None]))
    return jnp.sum(before_NN, axis=1, dtype=jnp.int32)


def numeral(bits_W: Array, length: Array | int, base: int = 10) -> Array:
    """Return W digits, units first, of a number uniform over those with `length` digits; 0 has one digit."""
    order_W = jnp.arange(bits_W.shape[0])
    leading_W = (order_W == length - 1) & (length > 1)
    digits_W = below(bits_W, jnp.where(leading_W, base - 1, base)) + leading_W
    return jnp.where(order_W < length, digits_W, 0)


def add_digits(a_W: Array, b_W: Array) -> Array:
    """Return the W + 1 digits of a sum, units first; a carry runs on from the latest pair that is not 9 in sum."""
    sums_W = a_W + b_W
    carries_W = latest(sums_W > 9, sums_W != 9)
    return (jnp.pad(sums_W, (0, 1)) + jnp.pad(carries_W, (1, 0))) % 10


def latest(bits_L: Array, written_L: Array) -> Array:
    """Return at every place the bit at the latest written place up to and including it; 0 before the first.

    On a CPU the scan by halves takes a quarter of the time of jax.lax.cummax.
    """
    marks_L = 2 * jnp.arange(1, bits_L.shape[0] + 1) + bits_L
    return jax.lax.associative_scan(jnp.maximum, jnp.where(written_L, marks_L, 0)) & 1


def concatenate(parts: Sequence[Array], lengths: Sequence[Array | int], size: int, padding: int = 0) -> Array:
    """Join the first lengths[k] entries of each parts[k] into [size], then padding; lengths may be traced."""
    order = jnp.arange(size)
    index, end, skipped = order, 0, 0
    for part, length in zip(parts, lengths, strict=True):
        end, skipped = end + length, skipped + part.shape[0] - length
        index = jnp.where(order >= end, order + skipped, index)
    # Beyond the end of the last part every index lies at or past the padding.
    return jnp.take(jnp.concatenate([*parts, jnp.full(1, padding)]), index, mode="clip")
