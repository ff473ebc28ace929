"""Attention whose weights depend on places alone, over lists of numbers (Back De Luca et al. 2025, arXiv 2410.01686).

Queries and keys read the one-hot places, so that all inputs share one map a head. What was read stands beside what was
there, and a perceptron takes both: no residual sum, no norm, no causal mask. The control is the same network, but its
queries and keys read the stream, and its input is also told the places. Parameters by path (A numbers at each of the
L places, heads of width L):

    input/kernel, bias             [A, D]          [A + L, D] in the control
    blocks/query, key /kernel      [N, L, H L]     [N, D, H L] in the control
    blocks/value/kernel            [N, D, H L]
    blocks/output/kernel           [N, H L, D]
    blocks/up/kernel, bias         [N, 2 D, F]
    blocks/down/kernel, bias       [N, F, D]
    head/kernel, bias              [D, vocabulary]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm.config import PositionalConfig, Rotary
from lm.models.layers import ACTIVATIONS, Projection, compute_dtype, stacked, unrolled
from lm.models.positions import make_scheme, rotate
from lm.strict import ConfigError, require_choice, require_positive
from lm.types import Array, Batch, Key, Net, Outputs, Params

Linear = partial(Projection, kernel_init=nn.initializers.xavier_uniform())


class Layer(nn.Module):
    """Attention by place or by content, and a perceptron behind it; the body of the scan over depth.

    Beside the stream it hands out its attention: [1, H, L, L] by place, [B, H, L, L] by content.
    """

    config: PositionalConfig

    @nn.compact
    def __call__(self, x_BLD: Array, rotation: tuple[Array, Array] | None) -> tuple[Array, Array]:
        config, shape, places = self.config, x_BLD.shape, self.config.places
        linear = partial(Linear, dtype=jnp.dtype(config.dtype))

        def heads(name: str, rows: Array) -> Array:
            return linear(config.heads * places, name=name)(rows).reshape(-1, places, config.heads, places)

        x_MD = x_BLD.reshape(-1, config.width)
        asking = jnp.eye(places) if config.attention == "positional" else x_MD
        queries, keys = (rotate(heads(name, asking), rotation) for name in ("query", "key"))
        scores = jnp.einsum("bqhe,bkhe->bhqk", queries, keys).astype(jnp.float32) * places**-0.5
        weights = jax.nn.softmax(scores)
        read_BLHL = jnp.einsum("...hqk,...khe->...qhe", weights.astype(x_BLD.dtype), heads("value", x_MD))
        read_MD = linear(config.width, name="output")(read_BLHL.reshape(len(x_MD), -1))
        up, down = (linear(width, True, name=n) for n, width in (("up", config.feedforward), ("down", config.width)))
        hidden_MF = ACTIVATIONS["relu"](up(jnp.concatenate([x_MD, read_MD], axis=1)))
        return down(hidden_MF).reshape(shape), weights


class Positional(nn.Module):
    """The whole network as a Linen module: numbers [B, L, A] to numbers [B, L, vocabulary].

    Beside them it returns the attention of each layer, [N, 1 or B, H, L, L].
    """

    config: PositionalConfig

    @nn.compact
    def __call__(self, inputs_BLA: Array, positions_BL: Array) -> tuple[Outputs, Array]:
        config, dtype = resolve(self.config), jnp.dtype(self.config.dtype)
        batch, places, _ = inputs_BLA.shape
        if places != config.places:
            raise ConfigError(f"model.places is {config.places}, the data has {places}")
        rotation = None
        if config.attention == "rotary":
            even = places - places % 2
            scheme = make_scheme(Rotary(), width=config.width, heads=config.heads, head_width=even)
            rotation = scheme.rotation(positions_BL, places)
        if config.attention != "positional":
            told_BLL = jnp.broadcast_to(jnp.eye(places), (batch, places, places))
            inputs_BLA = jnp.concatenate([inputs_BLA, told_BLL], axis=2)
        x_MD = Linear(config.width, True, dtype, name="input")(inputs_BLA.reshape(batch * places, -1))
        layers = stacked(Layer, config.depth, unrolled(config.depth), nn.broadcast)(config, name="blocks")
        x_BLD, weights = layers(x_MD.reshape(batch, places, -1), rotation)
        said_MV = Linear(config.vocabulary, True, dtype, name="head")(x_BLD.reshape(len(x_MD), -1))
        return Outputs(said_MV.reshape(batch, places, -1)), weights


def resolve(config: PositionalConfig) -> PositionalConfig:
    """Return the configuration with its precision filled in; raise ConfigError where it makes no model."""
    for name in ("vocabulary", "places", "depth", "width", "heads", "feedforward"):
        require_positive(f"model.{name}", getattr(config, name))
    require_choice("model.attention", config.attention, ("positional", "standard", "rotary"))
    return dataclasses.replace(config, dtype=compute_dtype(config.dtype))


def positional_net(config: PositionalConfig) -> Net:
    """Return the network as pure functions; a configuration that makes no model is a ConfigError here."""
    config = resolve(config)
    run: Callable[..., Any] = Positional(config).apply

    @jax.jit
    def init(key: Key) -> Params:
        numbers_BLA = jnp.zeros((1, config.places, config.inputs))
        return Positional(config).init(key, numbers_BLA, jnp.zeros((1, config.places), jnp.int32))["params"]

    def apply(params: Params, batch: Batch, key: Key | None = None, attention: bool = False) -> Outputs:
        outputs, weights = run({"params": params}, batch.inputs, batch.positions)
        return outputs._replace(attention=weights) if attention else outputs

    return Net(init, apply)
