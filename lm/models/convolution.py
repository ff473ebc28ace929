"""The parts of convolutional networks: convolution, group norm, and batch norm without hidden state.

Images are [B, H, W, C] here: batch, height, width, channels. Letters: O output channels, k width of a kernel.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm.mesh import platform
from lm.models.layers import Initialiser
from lm.types import Array, DType

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def convolve(x_BHWC: Array, kernel: Array, stride: int = 1) -> Array:
    """Convolve images with a kernel [k, k, C, O], k odd, zeros beyond the border: [B, H / stride, W / stride, O].

    On CPU in the form of `convolve_rows`: inside a loop, which training is, XLA's own is 30 to 60 times slower there.
    """
    if platform() == "cpu":
        return convolve_rows(x_BHWC, kernel, stride)
    border = kernel.shape[0] // 2
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x_BHWC, kernel, (stride,) * 2, [(border,) * 2] * 2, dimension_numbers=layout)


def convolve_rows(x_BHWC: Array, kernel: Array, stride: int = 1) -> Array:
    """Convolve by one matrix product for each row of the kernel."""
    size, _, channels, features = kernel.shape
    border, (_, height, width, _) = size // 2, x_BHWC.shape
    x_BHWC = jnp.pad(x_BHWC, ((0, 0), (border, border), (border, border), (0, 0)))
    near = jnp.concatenate([x_BHWC[:, :, j : j + width : stride] for j in range(size)], axis=-1)
    matrices = kernel.reshape(size, size * channels, features)
    return functools.reduce(jnp.add, (near[:, i : i + height : stride] @ matrices[i] for i in range(size)))


class Convolution(nn.Module):
    """A square convolution without bias; its parameter is `kernel` [k, k, C, O]."""

    features: int
    size: int = 3
    stride: int = 1
    dtype: DType = jnp.float32
    kernel_init: Initialiser = he_normal

    @nn.compact
    def __call__(self, x_BHWC: Array) -> Array:
        shape = (self.size, self.size, x_BHWC.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        return convolve(x_BHWC.astype(self.dtype), kernel.astype(self.dtype), self.stride)


class GroupNorm(nn.Module):
    """Standardise each image over its pixels and `groups` groups of channels (Wu and He 2018), in float32."""

    groups: int = 8
    epsilon: float = 1e-5
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x_BHWC: Array) -> Array:
        batch, *space, channels = x_BHWC.shape
        x = x_BHWC.astype(jnp.float32).reshape(batch, -1, self.groups, channels // self.groups)
        x = x - x.mean(axis=(1, 3), keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(axis=(1, 3), keepdims=True) + self.epsilon)
        return _scale_and_shift(self, x.reshape(batch, *space, channels)).astype(self.dtype)


class BatchNorm(nn.Module):
    """Standardise each channel over the batch and its pixels (Ioffe and Szegedy 2015), in float32.

    In training the statistics are those of the global batch; else the running ones, which are parameters under
    `statistics`. Their gradient is (1 - momentum) (running - batch statistic), whatever the loss: the optimizer
    subtracts it as it is (`lm.optim.make_optimizer`), so they follow the batches without another kind of state.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    training: bool = False
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x_BHWC: Array) -> Array:
        x = x_BHWC.astype(jnp.float32)
        running = Statistics(x.shape[-1], name="statistics")()
        mean_C, var_C = running
        if self.training:
            mean_C, var_C = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
            x = follow(1.0 - self.momentum, x, running, (mean_C, var_C))
        x = (x - mean_C[None, None, None]) * jax.lax.rsqrt(var_C + self.epsilon)[None, None, None]
        return _scale_and_shift(self, x).astype(self.dtype)


class Statistics(nn.Module):
    """The running mean and variance of C channels."""

    channels: int

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        mean_C = self.param("mean", nn.initializers.zeros, (self.channels,))
        return mean_C, self.param("var", nn.initializers.ones, (self.channels,))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def follow(share: float, x: Array, running: tuple[Array, Array], batch: tuple[Array, Array]) -> Array:
    """Return x; the gradient of `running` is share * (running - batch), and that of x passes unchanged."""
    return x


def _follow_forward(share, x, running, batch):
    return x, (running, batch)


def _follow_backward(share, statistics, gradient):
    running, batch = statistics
    towards = jax.tree.map(lambda old, new: share * (old - new), running, batch)
    return gradient, towards, jax.tree.map(jnp.zeros_like, batch)


follow.defvjp(_follow_forward, _follow_backward)


def _scale_and_shift(module: nn.Module, x: Array) -> Array:
    channels = x.shape[-1:]
    scale_C = module.param("scale", nn.initializers.ones, channels)
    return x * scale_C[None, None, None] + module.param("bias", nn.initializers.zeros, channels)[None, None, None]
