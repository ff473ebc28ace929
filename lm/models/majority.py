"""Majority kernels: layers that train E copies of a kernel and leave one (Mazzawi et al. 2024, arXiv 2402.05033).

    layer = MajorityDense(64, MajorityKernels(factor=3))
    y = layer.apply(params, x, deterministic=False, rngs={"majority": key})   # copies mixed at random
    y = layer.apply(params, x)                                                # their mean

Beside the layers stand the functions of arrays that they share with `lm.transforms.majority`, which expands the
kernels of any net. E is the number of copies.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm.config import MajorityKernels
from lm.models.convolution import convolve, he_normal
from lm.models.layers import Initialiser, fan_in_normal
from lm.strict import ConfigError
from lm.types import Array, DType, Key

NOISE = 0.01  # of the `shared` initialisation, relative to the standard deviation of the one draw


def _uniform(config: MajorityKernels, key: Key, shape: tuple[int, ...]) -> Array:
    # A single weight must be 1 even where the number drawn is 0.
    numbers = jax.random.uniform(key, (*shape, config.factor), minval=jnp.finfo(jnp.float32).tiny)
    return numbers / numbers.sum(axis=-1, keepdims=True)


def _dirichlet(config: MajorityKernels, key: Key, shape: tuple[int, ...]) -> Array:
    return jax.random.dirichlet(key, jnp.full(config.factor, config.concentration), shape)


def _choice(config: MajorityKernels, key: Key, shape: tuple[int, ...]) -> Array:
    return jax.nn.one_hot(jax.random.randint(key, shape, 0, config.factor), config.factor)


def _mean(config: MajorityKernels, key: Key, shape: tuple[int, ...]) -> Array:
    return jnp.full((*shape, config.factor), 1 / config.factor)


LAWS: Mapping[str, Callable[[MajorityKernels, Key, tuple[int, ...]], Array]] = MappingProxyType(
    {"uniform": _uniform, "dirichlet": _dirichlet, "choice": _choice, "mean": _mean}
)


def join_copies(config: MajorityKernels, draws: Sequence[Array], axis: int = 0) -> Array:
    """Return the copies of a kernel along a new axis, out of E draws of the initialiser; a single copy is the draw.

    With `shared` the first draw is every copy's and 1 % of the others is the noise.
    """
    if config.initialisation == "scaled":
        draws = [draw * config.factor**0.5 for draw in draws]
    elif config.initialisation == "shared":
        draws = [draws[0], *(draws[0] + NOISE * draw for draw in draws[1:])]
    return jnp.stack(draws, axis)


def draw_weights(config: MajorityKernels, key: Key, shape: tuple[int, ...], axis: int = 0) -> Array:
    """Return weights that broadcast against copies of this shape and sum to one along their axis E.

    Axes before E have a draw each, or all the same one where it is shared by the model; a draw an output channel
    is one an entry of the last axis.
    """
    layers, rest = shape[:axis], shape[axis + 1 :]
    if config.share == "model":
        layers = (1,) * axis
    channels = rest[-1:] if config.share == "channel" else ()
    weights = LAWS[config.law](config, key, (*layers, *channels))
    inner = (*(1,) * (len(rest) - len(channels)), *channels)
    return jnp.moveaxis(weights, -1, axis).reshape(*layers, config.factor, *inner)


def mix(copies: Array, weights: Array, axis: int = 0) -> Array:
    """Return the sum of the copies along an axis, each times its weight; weights as `draw_weights` makes them."""
    if copies.shape[axis] == 1:
        return jnp.squeeze(copies, axis)  # its weight is one; a product with it could still be rounded elsewhere

    # Written out, the sum is one pass over the copies; on CPU a contraction takes 19 times as long.
    def part(i: int) -> Array:
        return jax.lax.index_in_dim(copies, i, axis, False) * jax.lax.index_in_dim(weights, i, axis, False)

    return functools.reduce(jnp.add, map(part, range(copies.shape[axis])))


def collapse(copies: Array, axis: int = 0) -> Array:
    """Return the mean of the copies: the kernel that is used once training is over."""
    # Behind the barrier a compiled net cannot tell the mean from a plain kernel, so their outputs are equal bits.
    return jax.lax.optimization_barrier(copies.mean(axis))


class MajorityDense(nn.Module):
    """A linear map of the last axis to `features`, with parameters `kernel` [E, D, F] and, on demand, `bias` [F].

    `deterministic=False` draws from the stream `majority`.
    """

    features: int
    majority: MajorityKernels = MajorityKernels()
    use_bias: bool = False
    dtype: DType = jnp.float32
    kernel_init: Initialiser = fan_in_normal

    @nn.compact
    def __call__(self, x: Array, deterministic: bool = True) -> Array:
        kernel_DF = _kernel(self, (x.shape[-1], self.features), deterministic)
        return _add_bias(self, x.astype(self.dtype) @ kernel_DF.astype(self.dtype))


class MajorityConv(nn.Module):
    """A square convolution of images [B, H, W, C] with parameters `kernel` [E, k, k, C, O] and, on demand, `bias` [O].

    `deterministic=False` draws from the stream `majority`.
    """

    features: int
    size: int = 3
    stride: int = 1
    majority: MajorityKernels = MajorityKernels()
    use_bias: bool = False
    dtype: DType = jnp.float32
    kernel_init: Initialiser = he_normal

    @nn.compact
    def __call__(self, x_BHWC: Array, deterministic: bool = True) -> Array:
        kernel = _kernel(self, (self.size, self.size, x_BHWC.shape[-1], self.features), deterministic)
        return _add_bias(self, convolve(x_BHWC.astype(self.dtype), kernel.astype(self.dtype), self.stride))


def _kernel(layer: MajorityDense | MajorityConv, shape: tuple[int, ...], deterministic: bool) -> Array:
    """Return the layer's kernel in this call: drawn from its copies, or their mean."""
    config = layer.majority
    if config.share == "model":
        raise ConfigError('majority.share "model" needs the transform; a layer knows no other layer')

    def init(key: Key) -> Array:
        others = [layer.kernel_init(jax.random.fold_in(key, i), shape) for i in range(1, config.factor)]
        return join_copies(config, [layer.kernel_init(key, shape), *others])

    copies = layer.param("kernel", init)
    if deterministic:
        return collapse(copies)
    return mix(copies, draw_weights(config, layer.make_rng("majority"), copies.shape))


def _add_bias(layer: MajorityDense | MajorityConv, y: Array) -> Array:
    if not layer.use_bias:
        return y
    bias_F = layer.param("bias", nn.initializers.zeros, (layer.features,)).astype(y.dtype)
    return y + bias_F.reshape((1,) * (y.ndim - 1) + bias_F.shape)
