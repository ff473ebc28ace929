"""A multi-layer perceptron on the flattened, embedded inputs, with one prediction an example.

With `bias=False`, `separate=True` and `depth=0` it is the network of Chughtai, Chan and Nanda (2023): embeddings
of both operands, concatenated, one hidden ReLU layer, N(0, 1 / fan in) everywhere. Parameters by path
(A inputs, E width of an embedding):

    embedding/table             [V, E]; [A, V, E] where separate; absent where the inputs are numbers
    input/kernel                [A E, D]
    blocks/hidden/kernel        [N, D, D]        absent at depth 0
    head/kernel                 [D, outputs]

Beside every kernel stands a `bias` where the configuration asks for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm.config import MLPConfig
from lm.models import layers
from lm.models.layers import ACTIVATIONS, Projection, Weights
from lm.strict import ConfigError, require_choice, require_positive
from lm.types import Array, Batch, Key, Net, Outputs, Params


class InputEmbedding(nn.Module):
    """Embed ids [B, A] as [B, A, E], from one table or from one an input position."""

    rows: int
    width: int
    separate: bool

    @nn.compact
    def __call__(self, ids_BA: Array) -> Array:
        tables = (ids_BA.shape[1],) if self.separate else ()
        table = self.param("table", nn.initializers.normal(self.rows**-0.5), (*tables, self.rows, self.width))
        axes = (0 if self.separate else None, 1)
        return jax.vmap(lambda table_VE, ids_B: jnp.take(table_VE, ids_B, axis=0), axes, 1)(table, ids_BA)


class HiddenLayer(nn.Module):
    """A square projection and its activation; the body of the scan over depth."""

    config: MLPConfig

    @nn.compact
    def __call__(self, x_BD: Array) -> tuple[Array, None]:
        config = self.config
        y_BD = Projection(config.width, config.bias, jnp.dtype(config.dtype), name="hidden")(x_BD)
        return ACTIVATIONS[config.activation](y_BD), None


class MLP(nn.Module):
    """The whole network as a Linen module: ids or numbers [B, A] to outputs [B, 1, outputs]."""

    config: MLPConfig

    @nn.compact
    def __call__(self, inputs_BA: Array) -> Outputs:
        config = resolve(self.config)
        dtype = jnp.dtype(config.dtype)
        x_BA = inputs_BA.reshape(inputs_BA.shape[0], -1)  # an image has more axes
        if config.vocabulary is not None:
            embedding = InputEmbedding(config.vocabulary, config.embedding, config.separate, name="embedding")
            x_BA = embedding(inputs_BA).reshape(inputs_BA.shape[0], -1)
        x_BD = Projection(config.width, config.bias, dtype, name="input")(x_BA)
        x_BD = ACTIVATIONS[config.activation](x_BD)
        if config.depth:
            hidden = layers.stacked(HiddenLayer, config.depth, layers.unrolled(config.depth))
            x_BD, _ = hidden(config, name="blocks")(x_BD)
        return Outputs(x_BD[:, None], *Weights(config.outputs, config.bias, name="head")(config.width))


def resolve(config: MLPConfig) -> MLPConfig:
    """Return the configuration with its precision filled in; raise ConfigError where it makes no model."""
    for name in ("inputs", "outputs", "embedding", "width"):
        require_positive(f"model.{name}", getattr(config, name))
    require_positive("model.vocabulary", 1 if config.vocabulary is None else config.vocabulary)
    require_choice("model.activation", config.activation, tuple(ACTIVATIONS))
    if config.depth < 0:
        raise ConfigError(f"model.depth must not be negative, got {config.depth}")
    return dataclasses.replace(config, dtype=layers.compute_dtype(config.dtype))


def mlp_net(config: MLPConfig) -> Net:
    """Return a perceptron as pure functions; a configuration that makes no model is a ConfigError here."""
    config = resolve(config)
    module = MLP(config)
    run: Callable[..., Any] = module.apply

    @jax.jit
    def init(key: Key) -> Params:
        kind = jnp.float32 if config.vocabulary is None else jnp.int32
        return module.init(key, jnp.zeros((1, config.inputs), kind))["params"]

    def apply(params: Params, batch: Batch, key: Key | None = None) -> Outputs:
        return run({"params": params}, batch.inputs)

    return Net(init, apply)
