"""Keys whose random bits a CPU makes fast, the bits of jax.random.

There jax.random runs the rounds of threefry as a loop of small programs: 4 to 20 ns a word. Written out they take 1.5
to 3, in a program of their own, or the compiler would make the words anew wherever they are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, wraps

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.random import define_prng_impl, threefry_prng_impl

from lm.mesh import platform
from lm.types import Array, Key

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def fast(key: Key) -> Key:
    """Return a threefry key as one of the same bits that the platform makes fast; any other key as it is."""
    if platform() != "cpu" or str(jax.random.key_impl(key)) != "threefry2x32":
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=UNROLLED)


def threefry(key_2: Array, high: Array, low: Array) -> tuple[Array, Array]:
    """Return what threefry 2x32 with 20 rounds makes of the two words of a counter (Salmon et al. 2011)."""
    keys = key_2[0], key_2[1], key_2[0] ^ key_2[1] ^ jnp.uint32(0x1BD11BDA)
    high, low = high + keys[0], low + keys[1]
    for turn in range(5):
        for by in ROTATIONS[turn % 2]:
            high = high + low
            low = high ^ (low << by | low >> (32 - by))
        high, low = high + keys[(turn + 1) % 3], low + keys[(turn + 2) % 3] + jnp.uint32(turn + 1)
    return high, low


def _words(key_2: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    order = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    return threefry(key_2, jnp.uint32(0), order)


def _apart(function: Callable[..., Array], static: tuple[int, ...] = ()) -> Callable[..., Array]:
    """Return a function that is compiled to a program of its own, wherever it is called."""
    return wraps(function)(set_xla_metadata(inlineable="false")(jax.jit(function, static_argnums=static)))


@partial(_apart, static=(1,))
def _split(key_2: Array, shape: tuple[int, ...]) -> Array:
    return jnp.stack(_words(key_2, shape), axis=-1)


@partial(_apart, static=(1, 2))
def _random_bits(key_2: Array, width: int, shape: tuple[int, ...]) -> Array:
    high, low = _words(key_2, shape)
    return (high ^ low).astype(f"uint{width}")


@_apart
def _fold_in(key_2: Array, data: Array) -> Array:
    return jnp.stack(threefry(key_2, jnp.uint32(0), data.astype(jnp.uint32)))


UNROLLED = define_prng_impl(
    key_shape=(2,),
    seed=threefry_prng_impl.seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="threefry2x32 unrolled",
    tag="unrolled",
)
