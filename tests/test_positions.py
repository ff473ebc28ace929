"""Laws of the position schemes, each against its closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import Randomised, RelativeBias, Rotary
from lm.models import make_scheme, rotate
from lm.models.positions import alibi_slopes


def test_rotation_is_complex_multiplication_and_leaves_the_rest_alone():
    scheme = make_scheme(Rotary(base=100.0, fraction=0.5), width=16, heads=2, head_width=8)
    positions, x = jnp.array([[0, 3, 11]]), np.random.default_rng(0).standard_normal((1, 3, 2, 8)).astype(np.float32)
    y = np.asarray(rotate(jnp.asarray(x), scheme.rotation(positions, slots=3)))
    angles = np.array([0, 3, 11])[:, None] * np.array([1.0, 0.1])
    turned = (x[..., :2] + 1j * x[..., 2:4]) * np.exp(1j * angles)[None, :, None]
    np.testing.assert_allclose(y, np.concatenate([turned.real, turned.imag, x[..., 4:]], axis=-1), atol=1e-5)


def test_relative_buckets_are_exact_first_then_logarithmic_and_capped():
    scheme = make_scheme(RelativeBias(buckets=8, longest=64), width=8, heads=1, head_width=8)
    table = jnp.arange(8.0)[:, None]
    distances = jnp.array([[0, 1, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 500]])
    bias = scheme.bias({"bias": table}, distances, jnp.zeros((1, 1), jnp.int32))[0, 0, :, 0]
    assert bias.tolist() == [0, 1, 3, 4, 4, 5, 5, 6, 6, 7, 7, 7, 7]


def test_alibi_slopes_are_those_of_the_paper():
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(6) == [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]


def test_redrawn_positions_are_an_ordered_subset_new_with_each_key_and_fixed_without():
    scheme = make_scheme(Randomised(Rotary(), 50), width=8, heads=1, head_width=8)
    positions = jnp.tile(jnp.arange(20), (3, 1))
    draws = [scheme.redraw(positions, 20, key) for key in (None, None, jax.random.key(1), jax.random.key(2))]
    for drawn in draws:
        assert (jnp.diff(drawn, axis=1) > 0).all()
        assert int(drawn.min()) >= 0
        assert int(drawn.max()) < 50
    assert (draws[0] == draws[1]).all()
    assert not (draws[2] == draws[3]).all()
