"""Attention and feed-forward layers over real features, such as a perfect first layer would hand on.

Wen et al. 2023 (arXiv 2312.01429). Features [B, L, F] stand in the first F of D columns. Without a residual stream
what a layer predicts is a function of the direction of a weighted mean, so theorems can say which weights are right.
With one, layers are those of a small GPT-2 with fixed embeddings and no norm before attention. Parameters by path:

    blocks/query, key, value, output /kernel   [N, D, D]
    blocks/feedforward/up, down /kernel        [N, D, D]
    head/kernel                                [D, vocabulary]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm.config import ReaderConfig
from lm.models.layers import FeedForward, Projection, Weights, compute_dtype, fan_in_normal, stacked, unrolled
from lm.strict import ConfigError, require_positive
from lm.types import Array, Batch, Key, Net, Outputs, Params

# Attention that starts out even leaves less for a bracket and its partner to cancel.
EVEN = nn.initializers.normal(0.02)


class Layer(nn.Module):
    """One head of causal attention, then a norm and a feed-forward layer; the body of the scan over depth."""

    config: ReaderConfig

    @nn.compact
    def __call__(self, x_BLD: Array) -> tuple[Array, tuple[Array, Array]]:
        config, dtype, shape = self.config, jnp.dtype(self.config.dtype), x_BLD.shape
        query, key = (Projection(config.width, dtype=dtype, kernel_init=EVEN, name=name) for name in ("query", "key"))
        value, output = (Projection(config.width, dtype=dtype, name=name) for name in ("value", "output"))
        scores_BLS = jnp.einsum("bqd,bkd->bqk", query(x_BLD), key(x_BLD)).astype(jnp.float32) * config.width**-0.5
        causal_LS = jnp.tri(shape[1], dtype=bool)
        weights_BLS = jax.nn.softmax(jnp.where(causal_LS[None], scores_BLS, -jnp.inf))
        values_BLD = output(value(x_BLD)).astype(jnp.float32)
        read_BLD = weights_BLS @ values_BLD
        if config.residual:
            read_BLD = x_BLD + read_BLD
        direction_BLD = normalised(read_BLD)
        feedforward = FeedForward(config.width, "gelu", False, dtype, name="feedforward")
        found_BLD = feedforward(direction_BLD.reshape(-1, config.width)).reshape(shape)
        x_BLD = (read_BLD if config.residual else direction_BLD) + found_BLD
        return x_BLD.astype(dtype), (weights_BLS, centred(values_BLD))


class Reader(nn.Module):
    """The whole network as a Linen module: features [B, L, F] to logits [B, L, vocabulary].

    Beside them it returns the attention of each layer, [N, B, L, L], and its centred values, [N, B, L, D]: what it
    takes from each token, but for the mean, which the norm behind takes away.
    """

    config: ReaderConfig

    @nn.compact
    def __call__(self, features_BLF: Array) -> tuple[Outputs, tuple[Array, Array]]:
        config = self.config
        missing = config.width - features_BLF.shape[-1]
        if missing < 0:
            raise ConfigError(
                f"model.width must be at least {features_BLF.shape[-1]}, the features, got {config.width}"
            )
        x_BLD = jnp.pad(features_BLF, ((0, 0), (0, 0), (0, missing))).astype(config.dtype)
        x_BLD, seen = stacked(Layer, config.depth, unrolled(config.depth))(config, name="blocks")(x_BLD)
        return Outputs(x_BLD, *Weights(config.vocabulary, False, fan_in_normal, name="head")(config.width)), seen


def centred(x_BLD: Array) -> Array:
    """Return rows without their mean."""
    return x_BLD - x_BLD.mean(axis=-1, keepdims=True)


def normalised(x_BLD: Array, epsilon: float = 1e-12) -> Array:
    """Return centred rows over their root mean square."""
    x_BLD = centred(x_BLD)
    return x_BLD * jax.lax.rsqrt(jnp.square(x_BLD).mean(axis=-1, keepdims=True) + epsilon)


def resolve(config: ReaderConfig) -> ReaderConfig:
    """Return the configuration with its precision filled in; raise ConfigError where it makes no model."""
    for name in ("vocabulary", "depth", "width"):
        require_positive(f"model.{name}", getattr(config, name))
    return dataclasses.replace(config, dtype=compute_dtype(config.dtype))


def reader_net(config: ReaderConfig) -> Net:
    """Return a reader as pure functions; a configuration that makes no model is a ConfigError here."""
    config = resolve(config)

    @jax.jit
    def init(key: Key) -> Params:
        return Reader(config).init(key, jnp.zeros((1, 1, 1)))["params"]

    def apply(params: Params, batch: Batch, key: Key | None = None) -> Outputs:
        return read(config, params, batch.inputs)[0]

    return Net(init, apply)


def read(config: ReaderConfig, params: Params, features_BLF: Array) -> tuple[Outputs, tuple[Array, Array]]:
    """Return what a reader predicts, and the attention and the centred values of its layers (see `Reader`)."""
    run: Callable[..., Any] = Reader(resolve(config)).apply
    return run({"params": params}, features_BLF)
