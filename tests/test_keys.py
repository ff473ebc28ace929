"""Keys by platform give the bits of jax.random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.keys import fast

DRAWS = {
    "bits": lambda key: jax.random.bits(key, (3, 5)),
    "bytes": lambda key: jax.random.bits(key, (7,), jnp.uint8),
    "one": jax.random.uniform,
    "split": lambda key: jax.random.key_data(jax.random.split(key, (4, 2))),
    "fold_in": lambda key: jax.random.normal(jax.random.fold_in(key, 9), (7,)),
    "vmap": lambda key: jax.vmap(lambda key: jax.random.permutation(key, 9))(jax.random.split(key, 3)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_bits_are_those_of_jax_random(name):
    key = jax.random.key(7)
    assert jax.random.key_impl(fast(key)) != jax.random.key_impl(key)
    np.testing.assert_array_equal(jax.jit(DRAWS[name])(fast(key)), DRAWS[name](key))


def test_keys_of_another_kind_stay():
    key = jax.random.key(7, impl="rbg")
    assert fast(key) is key and fast(fast(jax.random.key(7))).dtype == fast(jax.random.key(7)).dtype
