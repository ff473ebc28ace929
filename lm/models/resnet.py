"""Residual networks on images: ImageNet's (He et al. 2015), CIFAR's, and wide ones with pre-activation.

net = build(ResNetConfig(classes=10, channels=1, width=16, depth=2))
net = build(replace(RESNETS["resnet50"], norm="batch"))

The first block of a group changes the number of channels and, from the second group on, halves the image; the
`depth` blocks behind it are alike and are one stack. Parameters by path (N depth; I, M, O channels into, within and
out of a block; k = 3 in basic blocks, 1 in bottlenecks):

    stem/kernel                              [3, 3, C, I]; imagenet: [7, 7, C, I]
    stem_norm/scale                          [I]                post-activation
    group1/first/input/kernel                [k, k, I, M]       and so on for the first block of every group
    group1/first/shortcut/kernel             [1, 1, I, O]       where the shape changes
    group1/first/shortcut_norm/scale         [O]                post-activation
    group1/blocks/input_norm/scale           [N, O]             pre-activation; [N, M] behind the convolution otherwise
    group1/blocks/input/kernel               [N, k, k, O, M]
    group1/blocks/middle_norm/scale          [N, M]             bottleneck
    group1/blocks/middle/kernel              [N, 3, 3, M, M]    bottleneck
    group1/blocks/output_norm/scale          [N, M]             pre-activation
    group1/blocks/output/kernel              [N, k, k, M, O]    pre-activation
    group1/blocks/last/kernel                [N, k, k, M, O]    post-activation
    group1/blocks/output/scale               [N, O]             post-activation: the norm that ends the block
    final_norm/scale                         [O]                pre-activation
    head/kernel, head/bias                   [O, classes], [classes]

Beside every scale stands a `bias` and, for batch norm, `statistics/mean` and `statistics/var`. What is called
`output` is all that writes to the residual stream: with its parameters zero, a block leaves its input as it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm.config import ResNetConfig
from lm.models import layers
from lm.models.convolution import BatchNorm, Convolution, GroupNorm
from lm.models.layers import Weights
from lm.strict import ConfigError, require_choice, require_fraction, require_positive
from lm.types import Array, Batch, Key, Net, Outputs, Params

EXPANSION = 4  # a bottleneck gives out four times the channels that it works on


class Block(nn.Module):
    """Two or three convolutions around the residual stream [B, H, W, C]; also the body of the scan over depth."""

    config: ResNetConfig
    channels: int  # within the block
    stride: int = 1
    training: bool = False

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, None]:
        config = self.config
        bottleneck = config.block == "bottleneck"
        outside = self.channels * (EXPANSION if bottleneck else 1)
        size = 1 if bottleneck else 3
        # v1.5: a bottleneck strides where it is 3 wide, so that no pixel is passed over.
        convolutions = [("input", self.channels, size, 1 if bottleneck else self.stride)]
        if bottleneck:
            convolutions.append(("middle", self.channels, 3, self.stride))
        convolutions.append(("output", outside, size, 1))
        if config.preactivation:
            h = nn.relu(self._norm("input_norm", x))
            shortcut = self._shortcut(h if config.shortcut == "projection" else x, x, outside)
            for name, *shape in convolutions:
                if name != "input":
                    h = nn.relu(self._norm(f"{name}_norm", h))
                if name == "output":
                    h = nn.Dropout(config.dropout, deterministic=not self.training)(h)
                h = self._convolution(name, *shape)(h)
            return shortcut + h, None
        h = x
        for name, *shape in convolutions[:-1]:
            h = nn.relu(self._norm(f"{name}_norm", self._convolution(name, *shape)(h)))
        h = nn.Dropout(config.dropout, deterministic=not self.training)(h)
        h = self._norm("output", self._convolution("last", *convolutions[-1][1:])(h))
        return nn.relu(self._shortcut(x, x, outside) + h), None

    def _shortcut(self, source: Array, x: Array, channels: int) -> Array:
        """Return x in the shape that leaves the block, made from `source` where that is another one."""
        if self.stride == 1 and x.shape[-1] == channels:
            return x
        if self.config.shortcut == "pad":
            grown = ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1]))
            return jnp.pad(x[:, :: self.stride, :: self.stride], grown)
        y = self._convolution("shortcut", channels, 1, self.stride)(source)
        return y if self.config.preactivation else self._norm("shortcut_norm", y)

    def _convolution(self, name: str, channels: int, size: int, stride: int) -> Convolution:
        return Convolution(channels, size, stride, jnp.dtype(self.config.dtype), name=name)

    def _norm(self, name: str, x: Array) -> Array:
        return make_norm(self.config, self.training, name)(x)


class ResNet(nn.Module):
    """The whole network as a Linen module: images [B, H, W, C] to outputs [B, 1, classes]."""

    config: ResNetConfig

    @nn.compact
    def __call__(self, x: Array, training: bool = False) -> Outputs:
        config = resolve(self.config)
        size, stride = (7, 2) if config.stem == "imagenet" else (3, 1)
        x = Convolution(config.width, size, stride, jnp.dtype(config.dtype), name="stem")(x)
        if not config.preactivation:
            x = nn.relu(make_norm(config, training, "stem_norm")(x))
        if config.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for index, depth in enumerate(depths(config)):
            x = Group(config, index, depth, training, name=f"group{index + 1}")(x)
        if config.preactivation:
            x = nn.relu(make_norm(config, training, "final_norm")(x))
        features_B1D = x.mean(axis=(1, 2))[:, None]
        head = Weights(config.classes, True, nn.initializers.normal(0.01), name="head")
        return Outputs(features_B1D, *head(x.shape[-1]))


class Group(nn.Module):
    """The blocks of one image size: the first one, and `depth` alike as one module with a leading depth axis."""

    config: ResNetConfig
    index: int
    depth: int
    training: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = self.config.width * self.config.widen * 2**self.index
        stride = 1 if self.index == 0 else 2
        x, _ = Block(self.config, channels, stride, self.training, name="first")(x)
        if self.depth:
            unroll = layers.unrolled(self.depth) and not self.is_initializing()
            blocks = layers.stacked(Block, self.depth, unroll)
            x, _ = blocks(self.config, channels, training=self.training, name="blocks")(x)
        return x


def make_norm(config: ResNetConfig, training: bool, name: str) -> nn.Module:
    """Return the norm that a configuration names."""
    dtype = jnp.dtype(config.dtype)
    if config.norm == "batch":
        return BatchNorm(config.momentum, training=training, dtype=dtype, name=name)
    return GroupNorm(config.norm_groups, dtype=dtype, name=name)


def depths(config: ResNetConfig) -> tuple[int, ...]:
    """Return the blocks of each group behind its first one."""
    return (config.depth,) * config.groups if isinstance(config.depth, int) else config.depth


def resolve(config: ResNetConfig) -> ResNetConfig:
    """Return the configuration with its precision filled in; raise ConfigError where it makes no model."""
    for name in ("classes", "channels", "groups", "width", "widen", "norm_groups"):
        require_positive(f"model.{name}", getattr(config, name))
    require_choice("model.block", config.block, ("basic", "bottleneck"))
    require_choice("model.stem", config.stem, ("cifar", "imagenet"))
    require_choice("model.shortcut", config.shortcut, ("projection", "pad"))
    require_choice("model.norm", config.norm, ("group", "batch"))
    if len(depths(config)) != config.groups or min(depths(config)) < 0:
        raise ConfigError(f"model.depth needs a number >= 0 for each of {config.groups} groups, got {config.depth}")
    for name in ("dropout", "momentum"):
        require_fraction(f"model.{name}", getattr(config, name))
    if config.norm == "group" and config.width % config.norm_groups:
        raise ConfigError(f"model.width {config.width} is not a multiple of model.norm_groups {config.norm_groups}")
    return dataclasses.replace(config, dtype=layers.compute_dtype(config.dtype))


def resnet_net(config: ResNetConfig) -> Net:
    """Return a residual network as pure functions; a configuration that makes no model is a ConfigError here."""
    config = resolve(config)
    module = ResNet(config)
    run: Callable[..., Any] = module.apply

    @jax.jit
    def init(key: Key) -> Params:
        side = 2**config.groups  # no shape depends on it
        return module.init(key, jnp.zeros((1, side, side, config.channels)))["params"]

    def apply(params: Params, batch: Batch, key: Key | None = None) -> Outputs:
        rngs = {} if key is None else {"dropout": key}
        return run({"params": params}, batch.inputs, training=key is not None, rngs=rngs)

    return Net(init, apply)
