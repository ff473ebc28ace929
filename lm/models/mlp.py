"""A multi-layer perceptron on the flattened, embedded inputs, with one prediction an example.

With `bias=False`, `separate=True` and `depth=0` it is the network of Chughtai, Chan and Nanda (2023): embeddings
of both operands, concatenated, one hidden ReLU layer, N(0, 1 / fan in) everywhere. With `embedding=None`,
`initialisation="uniform"`, `outputs=1` and `depth=0` it is that of Edelman et al. (2023), u . relu(W x + b) + c on
signs, where `sparse=2` is their start that reads two coordinates a neuron. Parameters by path
(A inputs, E width of an embedding):

    embedding/table             [V, E]; [A, V, E] where separate; absent where the inputs are numbers or signs
    first/kernel                [A E, first]     absent without a first layer
    input/kernel                [A E, D]         or [first, D]
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
from lm.models.layers import ACTIVATIONS, Initialiser, Projection, Weights
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


def within(reach: float) -> Initialiser:
    """Return an initialiser that draws uniformly from -reach..reach."""

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -reach, reach)

    return init


def sparse_columns(count: int) -> Initialiser:
    """Return an initialiser of kernels [A, F] whose columns have 1 at `count` distinct places and 0 elsewhere."""

    def init(key: Key, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
        if count > shape[0]:
            raise ConfigError(f"model.sparse must be at most the {shape[0]} inputs of a neuron, got {count}")
        first_AF = jnp.broadcast_to((jnp.arange(shape[0]) < count)[:, None], shape)
        return jax.random.permutation(key, first_AF, axis=0, independent=True).astype(dtype)

    return init


def initial(config: MLPConfig, fan_in: int, lowest: bool = False) -> dict[str, Any]:
    """Return the initialisers of a layer that reads `fan_in` numbers; the lowest one may be sparse."""
    chosen: dict[str, Any] = {"kernel_init": layers.fan_in_normal, "bias_init": nn.initializers.zeros}
    if config.initialisation == "uniform":
        chosen = dict.fromkeys(chosen, within(fan_in**-0.5))
    if lowest and config.sparse is not None:
        chosen["kernel_init"] = sparse_columns(config.sparse)
    return chosen


class HiddenLayer(nn.Module):
    """A square projection and its activation; the body of the scan over depth."""

    config: MLPConfig

    @nn.compact
    def __call__(self, x_BD: Array) -> tuple[Array, None]:
        config = self.config
        chosen = initial(config, config.width)
        y_BD = Projection(config.width, config.bias, jnp.dtype(config.dtype), **chosen, name="hidden")(x_BD)
        return ACTIVATIONS[config.activation](y_BD), None


class MLP(nn.Module):
    """The whole network as a Linen module: ids or numbers [B, A] to outputs [B, 1, outputs]."""

    config: MLPConfig

    @nn.compact
    def __call__(self, inputs_BA: Array) -> Outputs:
        config = resolve(self.config)
        x_BA = inputs_BA.reshape(inputs_BA.shape[0], -1)  # an image has more axes
        if config.vocabulary is not None and config.embedding is None:
            x_BA = 1.0 - 2.0 * x_BA
        elif config.vocabulary is not None and config.embedding is not None:
            embedding = InputEmbedding(config.vocabulary, config.embedding, config.separate, name="embedding")
            x_BA = embedding(inputs_BA).reshape(inputs_BA.shape[0], -1)
        x_BD = x_BA
        for name, width in (("first", config.first), ("input", config.width)):
            if width is not None:
                chosen = initial(config, x_BD.shape[1], lowest=x_BD is x_BA)
                x_BD = Projection(width, config.bias, jnp.dtype(config.dtype), **chosen, name=name)(x_BD)
                x_BD = ACTIVATIONS[config.activation](x_BD)
        if config.depth:
            hidden = layers.stacked(HiddenLayer, config.depth, layers.unrolled(config.depth))
            x_BD, _ = hidden(config, name="blocks")(x_BD)
        head = Weights(config.outputs, config.bias, **initial(config, config.width), name="head")(config.width)
        if config.outputs == 1:
            head = jax.tree.map(lambda weights: jnp.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(1, 0)]), head)
        return Outputs(x_BD[:, None], *head)


def resolve(config: MLPConfig) -> MLPConfig:
    """Return the configuration with its precision filled in; raise ConfigError where it makes no model."""
    for name in ("inputs", "outputs", "width"):
        require_positive(f"model.{name}", getattr(config, name))
    for name in ("vocabulary", "embedding", "first", "sparse"):
        require_positive(f"model.{name}", 1 if getattr(config, name) is None else getattr(config, name))
    require_choice("model.activation", config.activation, tuple(ACTIVATIONS))
    require_choice("model.initialisation", config.initialisation, ("normal", "uniform"))
    if config.embedding is None and config.vocabulary not in (None, 2):
        raise ConfigError(f"model.embedding None reads bits: model.vocabulary must be 2, got {config.vocabulary}")
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
