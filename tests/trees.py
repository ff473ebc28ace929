"""Equality of trees of arrays."""

import jax
import jax.numpy as jnp
import numpy as np


def assert_same(a, b):
    """Assert that two trees have the same structure, types and bits; typed keys count by their data."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype, jax.tree_util.keystr(path)
        x, y = (jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in (x, y))
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def assert_close(a, b, tolerance=1e-5):
    """Assert that two trees have the same structure and numbers that differ by a tolerance, absolute and relative."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=jax.tree_util.keystr(path))
