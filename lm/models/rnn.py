"""Recurrent language models: stacked LSTM or GRU layers between an embedding and a head.

The state of every layer starts at zero and returns to zero where the segment changes, so packed documents do not
see each other and left padding does not matter. Parameters by path (N depth, D width, g gates: 4 LSTM, 3 GRU):

    embedding/table            [V, D]
    blocks/input/kernel        [N, D, g D]      blocks/input/bias        [N, g D]
    blocks/recurrent/kernel    [N, D, g D]      blocks/recurrent/bias    [N, g D]    GRU
    head/kernel                [D, V]           head/bias                [V]         untied
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm.config import RNNConfig
from lm.models import layers
from lm.models.layers import Embedding, Projection, Weights
from lm.strict import require_choice, require_fraction, require_positive
from lm.types import Array, Batch, Cache, Key, Net, Outputs, Params, Reader

State = tuple[Array, ...]


def lstm_step(state: State, gates_BG: Array, recurrent: Callable[[Array], Array]) -> State:
    """Advance (hidden, cell); the forget gate starts open by a bias of 1 (Jozefowicz et al. 2015)."""
    hidden_BD, cell_BD = state
    enter, forget, candidate, leave = jnp.split(gates_BG + recurrent(hidden_BD), 4, axis=-1)
    cell_BD = jax.nn.sigmoid(forget + 1.0) * cell_BD + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
    return jax.nn.sigmoid(leave) * jnp.tanh(cell_BD), cell_BD


def gru_step(state: State, gates_BG: Array, recurrent: Callable[[Array], Array]) -> State:
    """Advance (hidden,), with the reset gate after the recurrent product."""
    (hidden_BD,) = state
    reset, update, candidate = jnp.split(gates_BG, 3, axis=-1)
    reset_h, update_h, candidate_h = jnp.split(recurrent(hidden_BD), 3, axis=-1)
    candidate = jnp.tanh(candidate + jax.nn.sigmoid(reset + reset_h) * candidate_h)
    update = jax.nn.sigmoid(update + update_h)
    return (update * hidden_BD + (1 - update) * candidate,)


# cell -> (step, gates, arrays in the state, bias on the recurrent product)
CELLS = {"lstm": (lstm_step, 4, 2, False), "gru": (gru_step, 3, 1, True)}


class RecurrentLayer(nn.Module):
    """One layer over time on x [L, B, D]; the body of the scan over depth. `fresh` [L, B] marks new segments."""

    config: RNNConfig
    deterministic: bool = True

    @nn.compact
    def __call__(self, x_LBD: Array, state: State, fresh_LB: Array) -> tuple[Array, State]:
        step, gates, _, recurrent_bias = CELLS[self.config.cell]
        dtype, width = jnp.dtype(self.config.dtype), self.config.width
        gates_MG = Projection(gates * width, True, dtype, name="input")(x_LBD.reshape(-1, width))
        gates_LBG = gates_MG.reshape(*x_LBD.shape[:2], gates * width)
        kernel_DG, bias_G = Weights(gates * width, recurrent_bias, name="recurrent")(width)

        def recurrent(hidden_BD: Array) -> Array:
            y_BG = hidden_BD @ kernel_DG.astype(dtype)
            return y_BG if bias_G is None else y_BG + bias_G.astype(dtype)[None]

        def advance(state: State, now: tuple[Array, Array]) -> tuple[State, Array]:
            gates_BG, fresh_B = now
            state = tuple(jnp.where(fresh_B[:, None], 0, part_BD) for part_BD in state)
            state = step(state, gates_BG, recurrent)
            return state, state[0]

        state, hidden_LBD = jax.lax.scan(advance, state, (gates_LBG, fresh_LB))
        return nn.Dropout(self.config.dropout, deterministic=self.deterministic)(hidden_LBD), state


class RNN(nn.Module):
    """The whole recurrent model as a Linen module; `deterministic=False` needs the stream `dropout`."""

    config: RNNConfig

    @nn.compact
    def __call__(
        self, tokens_BL: Array, segments_BL: Array | None, cache: Cache, deterministic: bool = True
    ) -> tuple[Outputs, Cache]:
        config = resolve(self.config)
        if segments_BL is None:
            segments_BL = jnp.ones_like(tokens_BL)
        before_BL = jnp.concatenate([cache.tokens["segment"][:, None], segments_BL[:, :-1]], axis=1)
        # Without a norm behind it the embedding sets the scale of the gates: small ones learn many times slower.
        table_init = nn.initializers.normal(config.width**-0.5 if config.tied else 1.0)
        embedding = Embedding(config.vocabulary, config.width, jnp.dtype(config.dtype), table_init, name="embedding")
        unroll = layers.unrolled(config.depth)
        recurrent = layers.stacked(RecurrentLayer, config.depth, unroll, in_axes=(0, nn.broadcast))
        stack = recurrent(config, deterministic, name="blocks")
        y_LBD, state = stack(embedding(tokens_BL.T), cache.layers, (segments_BL != before_BL).T)
        y_BLD = y_LBD.swapaxes(0, 1)
        cache = Cache(state, {"segment": segments_BL[:, -1]}, cache.index + tokens_BL.shape[1])
        if config.tied:
            return Outputs(y_BLD, embedding.table.T), cache
        return Outputs(y_BLD, *Weights(config.vocabulary, True, name="head")(config.width)), cache


def resolve(config: RNNConfig) -> RNNConfig:
    """Return the configuration with its precision filled in; raise ConfigError where it makes no model."""
    for name in ("vocabulary", "depth", "width"):
        require_positive(f"model.{name}", getattr(config, name))
    require_choice("model.cell", config.cell, tuple(CELLS))
    require_fraction("model.dropout", config.dropout)
    return dataclasses.replace(config, dtype=layers.compute_dtype(config.dtype))


def rnn_net(config: RNNConfig) -> Net:
    """Return a recurrent model as pure functions; a configuration that makes no model is a ConfigError here."""
    config = resolve(config)
    module, parts = RNN(config), CELLS[config.cell][2]
    run: Callable[..., Any] = module.apply

    def cache(batch_size: int, length: int, room: int | None = None) -> Cache:
        del length, room  # the state does not grow
        layer = jnp.zeros((config.depth, batch_size, config.width), config.dtype)
        return Cache((layer,) * parts, {"segment": jnp.zeros(batch_size, jnp.int32)}, jnp.zeros((), jnp.int32))

    @jax.jit
    def init(key: Key) -> Params:
        return module.init(key, jnp.zeros((1, 1), jnp.int32), None, cache(1, 1))["params"]

    def grow(cache: Cache, room: int, copies: int = 1) -> Cache:
        del room
        return Cache(
            jax.tree.map(lambda x_NBD: jnp.repeat(x_NBD, copies, axis=1), cache.layers),
            jax.tree.map(lambda x_B: jnp.repeat(x_B, copies), cache.tokens),
            cache.index,
        )

    def reader(params: Params) -> Reader:
        return lambda batch, cache: run({"params": params}, batch.inputs, batch.segments, cache)

    def apply(params: Params, batch: Batch, key: Key | None = None) -> Outputs:
        rngs = {} if key is None else {"dropout": key}
        empty = cache(*batch.inputs.shape)
        arguments = (batch.inputs, batch.segments, empty)
        return run({"params": params}, *arguments, deterministic=key is None, rngs=rngs)[0]

    return Net(init, apply, cache, grow, reader)
