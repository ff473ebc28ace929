"""Laws of attention by platform: which form is chosen, and that every form is the plain one forward and backward."""

import jax
import numpy as np
from jax.sharding import AbstractDevice, AxisType, Mesh

from lm.mesh import platform, under
from lm.models.layers import compute_dtype, unrolled


def mesh_of(kind, platform):
    """Return the abstract mesh of one device that need not be there."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",), axis_types=(AxisType.Auto,))
    return mesh.abstract_mesh.update(abstract_device=AbstractDevice(kind, None, platform))


def test_what_is_left_to_the_platform_follows_the_mesh_that_is_compiled_for():
    with jax.sharding.use_abstract_mesh(mesh_of("TPU v5 lite", "tpu")):
        assert (platform(), compute_dtype("auto"), unrolled(2)) == ("tpu", "bfloat16", False)
        here = Mesh(np.array(jax.devices()[:1]), ("data",), axis_types=(AxisType.Auto,))
        assert under(here, platform)() == "cpu"
    traced = []
    jax.jit(under(here, lambda: traced.append(jax.sharding.get_abstract_mesh())))()
    assert (traced, platform()) == ([here.abstract_mesh], "cpu")
