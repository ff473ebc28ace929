"""A small convolution applied over and over: its weights are the same at every place and at every iteration.

Goel et al. 2022 (arXiv 2209.00735) show that such nets hold whole learning algorithms; with the input handed in anew at
every iteration (Bansal et al. 2022) trained ones run on for longer inputs, where more iterations are done. A change at
a place reaches `3 * (reach // 2)` places further with each. Parameters by path (R reach, D width):

    embedding/table          [V, D]
    input/kernel             [R 2D, D]    reads the state and the input
    middle, last /kernel     [R D, D]     a residual step
    head/kernel              [D, V]

Beside every kernel but the head's stands a `bias`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm.config import RecurrentConvolutionConfig
from lm.models.layers import Embedding, Weights, compute_dtype, fan_in_normal
from lm.strict import ConfigError, require_positive
from lm.types import Array, Batch, Key, Net, Outputs, Params

Kernel = tuple[Array, Array | None]


def slide(x_BLD: Array, weights: Kernel, reach: int) -> Array:
    """Return a convolution over places that reads `reach` of them around each, with zeros beyond the ends."""
    kernel, bias = weights
    length, half = x_BLD.shape[1], reach // 2
    wide_BLD = jnp.pad(x_BLD, ((0, 0), (half, half), (0, 0)))
    seen_BLE = jnp.concatenate([wide_BLD[:, i : i + length] for i in range(reach)], axis=-1)
    y_BLD = seen_BLE @ kernel.astype(x_BLD.dtype)
    return y_BLD if bias is None else y_BLD + bias.astype(x_BLD.dtype)[None, None]


class RecurrentConvolution(nn.Module):
    """The whole network as a Linen module: tokens [B, L] to logits [B, L, V]."""

    config: RecurrentConvolutionConfig

    @nn.compact
    def __call__(self, tokens_BL: Array) -> Outputs:
        config = self.config
        width, dtype = config.width, jnp.dtype(config.dtype)
        inputs_BLD = Embedding(config.vocabulary, width, dtype, nn.initializers.normal(1.0), name="embedding")(
            tokens_BL
        )
        first, middle, last = (
            Weights(width, True, fan_in_normal, name=name)(config.reach * fan_in)
            for name, fan_in in (("input", 2 * width), ("middle", width), ("last", width))
        )

        def iterate(_: Array, x_BLD: Array) -> Array:
            both_BLE = jnp.concatenate([x_BLD, inputs_BLD], axis=-1)
            y_BLD = jax.nn.relu(slide(both_BLE, first, config.reach))
            step_BLD = slide(jax.nn.relu(slide(y_BLD, middle, config.reach)), last, config.reach)
            return jax.nn.relu(y_BLD + step_BLD)

        count = math.ceil(config.iterations * tokens_BL.shape[1])
        x_BLD = jax.lax.fori_loop(0, count, iterate, inputs_BLD)
        return Outputs(x_BLD, *Weights(config.vocabulary, False, fan_in_normal, name="head")(width))


def resolve(config: RecurrentConvolutionConfig) -> RecurrentConvolutionConfig:
    """Return the configuration with its precision filled in; raise ConfigError where it makes no model."""
    for name in ("vocabulary", "width", "reach", "iterations"):
        require_positive(f"model.{name}", getattr(config, name))
    if config.depth != 1:
        raise ConfigError(f"model.depth must be 1 where the same layers are iterated, got {config.depth}")
    if config.reach % 2 == 0:
        raise ConfigError(f"model.reach must be odd, as many places to each side, got {config.reach}")
    return dataclasses.replace(config, dtype=compute_dtype(config.dtype))


def recurrent_convolution_net(config: RecurrentConvolutionConfig) -> Net:
    """Return a recurrent convolution as pure functions; one that makes no model is a ConfigError here."""
    config = resolve(config)
    module = RecurrentConvolution(config)
    run: Callable[..., Any] = module.apply

    @jax.jit
    def init(key: Key) -> Params:
        return module.init(key, jnp.zeros((1, 1), jnp.int32))["params"]

    def apply(params: Params, batch: Batch, key: Key | None = None) -> Outputs:
        return run({"params": params}, batch.inputs)

    return Net(init, apply)
