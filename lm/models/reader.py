"""One layer that attends without a residual and without positions, then a norm and a feed-forward layer.

Wen et al. 2023 (arXiv 2312.01429): behind a perfect first layer, what such a layer predicts is a function of the
direction of a weighted mean, so theorems can say which weights are right. Parameters by path:

    embedding/table                     [vocabulary, D]
    query, key, value, output /kernel   [D, D]
    feedforward/up, feedforward/down    [D, D]
    head/kernel                         [D, vocabulary]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm.config import ReaderConfig
from lm.models.layers import Embedding, FeedForward, Projection, Weights, compute_dtype, fan_in_normal
from lm.strict import ConfigError, require_positive
from lm.types import Array, Batch, Key, Net, Outputs, Params


class Reader(nn.Module):
    """The whole network as a Linen module: ids [B, L] to logits [B, L, vocabulary]."""

    config: ReaderConfig

    def setup(self) -> None:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        self.embedding = Embedding(config.vocabulary, config.width, dtype, nn.initializers.normal(1.0))
        self.query, self.key, self.value, self.output = (Projection(config.width, dtype=dtype) for _ in range(4))
        self.feedforward = FeedForward(config.width, "gelu", False, dtype)
        self.head = Weights(config.vocabulary, False, fan_in_normal)

    def __call__(self, ids_BL: Array) -> Outputs:
        weights_BLS, values_BSD = self.attend(ids_BL)
        x_BLD = normalised(weights_BLS @ values_BSD)
        shape = x_BLD.shape
        x_BLD = x_BLD + self.feedforward(x_BLD.reshape(-1, shape[-1])).reshape(shape)
        return Outputs(x_BLD, *self.head(self.config.width))

    def attend(self, ids_BL: Array) -> tuple[Array, Array]:
        """Return the attention of each token to those up to itself, [B, L, L], and what it takes from each, [B, L, D].

        The values are centred: the norm behind them takes the mean away.
        """
        e_BLD = self.embedding(ids_BL)
        scores_BLS = jnp.einsum("bqd,bkd->bqk", self.query(e_BLD), self.key(e_BLD)) * self.config.width**-0.5
        causal_LS = jnp.tri(ids_BL.shape[1], dtype=bool)
        weights_BLS = jax.nn.softmax(jnp.where(causal_LS[None], scores_BLS.astype(jnp.float32), -jnp.inf))
        values_BLD = self.output(self.value(e_BLD)).astype(jnp.float32)
        return weights_BLS, values_BLD - values_BLD.mean(axis=-1, keepdims=True)


def normalised(x_BLD: Array, epsilon: float = 1e-12) -> Array:
    """Return centred rows over their root mean square."""
    return x_BLD * jax.lax.rsqrt(jnp.square(x_BLD).mean(axis=-1, keepdims=True) + epsilon)


def resolve(config: ReaderConfig) -> ReaderConfig:
    """Return the configuration with its precision filled in; raise ConfigError where it makes no model."""
    for name in ("vocabulary", "width"):
        require_positive(f"model.{name}", getattr(config, name))
    if config.depth != 1:
        raise ConfigError(f"model.depth of a reader must be 1, got {config.depth}")
    return dataclasses.replace(config, dtype=compute_dtype(config.dtype))


def reader_net(config: ReaderConfig) -> Net:
    """Return a reader as pure functions; a configuration that makes no model is a ConfigError here."""
    module = Reader(resolve(config))
    run: Callable[..., Any] = module.apply

    @jax.jit
    def init(key: Key) -> Params:
        return module.init(key, jnp.zeros((1, 1), jnp.int32))["params"]

    def apply(params: Params, batch: Batch, key: Key | None = None) -> Outputs:
        return run({"params": params}, batch.inputs)

    return Net(init, apply)


def attention_of(config: ReaderConfig, params: Params, ids_BL: Array) -> tuple[Array, Array]:
    """Return the attention and the centred values of a reader (see `Reader.attend`)."""
    run: Callable[..., Any] = Reader(resolve(config)).apply
    return run({"params": params}, ids_BL, method="attend")
