"""The one training step, a pure function, and what every key of a run is for.

step = make_step(net, next_token, optimizer, draw)
state, metrics = jax.jit(step)(init_state(net, optimizer, key), None)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lm.guard import Policy, culprits, data_index, hold
from lm.keys import fast
from lm.transforms import Average
from lm.types import Array, Batch, Key, Metrics, Net, Objective, Params, TrainState

# What a key is for; every key of a run is fold_in(fold_in(run key, purpose), step).
INIT, DATA, MODEL, EVALUATE = range(4)

Step = Callable[[TrainState, Batch | None], tuple[TrainState, Metrics]]


def purpose(key: Key, name: int) -> Key:
    """Return the key of this run for one purpose."""
    return jax.random.fold_in(key, name)


def init_state(
    net: Net,
    optimizer: optax.GradientTransformation,
    key: Key,
    average: Average | None = None,
    guard: Policy | None = None,
) -> TrainState:
    """Return the state before step 0; jittable, so that large states are born sharded."""
    params = net.init(fast(purpose(key, INIT)))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=None if average is None else average.init(params),
        key=key,
        guard=None if guard is None else guard.init(),
    )


def make_step(
    net: Net,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    draw: Callable[[Key, Array], Batch] | None = None,
    accumulate: int = 1,
    average: Average | None = None,
    guard: Policy | None = None,
) -> Step:
    """Return the pure training step (state, batch) -> (state, metrics).

    With `draw` the batch is drawn inside the step and the argument is None. With `accumulate` > 1 the batch is
    split into that many micro-batches, whose gradients are weighted by what each one asks, so that the update
    is that of the whole batch. With `guard` a bad step changes nothing but the counters of the state.
    """

    def loss_and_gradient(params: Params, batch: Batch, key: Key) -> tuple[Params, Metrics]:
        gradient, metrics = jax.grad(lambda p: objective(net.apply, p, batch, key), has_aux=True)(params)
        return gradient, metrics

    def accumulated(params: Params, batch: Batch, key: Key) -> tuple[Params, Metrics]:
        parts = jax.tree.map(lambda x: x.reshape(accumulate, x.shape[0] // accumulate, *x.shape[1:]), batch)

        def add(total: Any, part: tuple[Array, Batch]) -> tuple[Any, None]:
            index, micro = part
            gradient, metrics = loss_and_gradient(params, micro, jax.random.fold_in(key, index))
            asked = metrics["loss"].count
            return jax.tree.map(jnp.add, total, (jax.tree.map(lambda g: g * asked, gradient), metrics)), None

        shapes = jax.eval_shape(loss_and_gradient, params, jax.tree.map(lambda x: x[0], parts), key)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        (gradient, metrics), _ = jax.lax.scan(add, zeros, (jnp.arange(accumulate), parts))
        asked = jnp.maximum(metrics["loss"].count, 1e-9)
        return jax.tree.map(lambda g: g / asked, gradient), metrics

    def step(state: TrainState, batch: Batch | None) -> tuple[TrainState, Metrics]:
        if draw is not None:
            batch = draw(fast(purpose(state.key, DATA)), data_index(state))
        assert batch is not None, "a step without a draw needs a batch"
        key = jax.random.fold_in(purpose(state.key, MODEL), state.step)
        gradient, metrics = (loss_and_gradient if accumulate == 1 else accumulated)(state.params, batch, key)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        kept = None if average is None else average.update(state.ema, params, state.step)
        after = TrainState(state.step + 1, params, opt_state, kept, state.key, state.guard)
        return (after, metrics) if guard is None else hold(guard, state, after, gradient, metrics)

    return step


def repeat(step: Step) -> Callable[[TrainState, Batch | None, Array], tuple[TrainState, Metrics]]:
    """Return (state, batches, count) -> (state, merged metrics): `count` steps in one dispatch.

    Batches carry a leading axis of at least `count` (None where the step draws its own). The count is traced:
    one program serves every stretch, so a run that stops anywhere repeats the uninterrupted run bit for bit.
    """

    step = jax.jit(step, inline=True)  # traced once, for the shapes of its metrics and for the loop

    def run(state: TrainState, batches: Batch | None, count: Array) -> tuple[TrainState, Metrics]:
        def at(i: Array) -> Batch | None:
            return None if batches is None else jax.tree.map(lambda x: x[i], batches)

        def body(i: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics = step(carry[0], at(i))
            return state, jax.tree.map(jnp.add, carry[1], metrics)

        shapes = jax.eval_shape(step, state, at(jnp.int32(0)))[1]
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return jax.lax.fori_loop(0, count, body, (state, zeros))

    return run


def bad_rows(
    step: Step, draw: Callable[..., Batch] | None, batches: Callable[[int, int], Batch | None], size: int
) -> Callable[[TrainState, int], list[int]]:
    """Return (state, step) -> the rows of the batch of that step that make it bad with the weights of the state.

    A batch made of some of its rows, over and over, goes through the guarded step itself: whatever the objective, the
    mesh and the accumulation, this is one more program, compiled when it is first needed.
    """

    @jax.jit
    def is_bad(state: TrainState, batch: Batch | None, rows_B: Array) -> Array:
        if draw is not None:
            batch = draw(fast(purpose(state.key, DATA)), data_index(state))
        _, metrics = step(state, jax.tree.map(lambda x: x[rows_B], batch))
        return jnp.sum(metrics["skipped"].sum) > 0

    def search(state: TrainState, number: int) -> list[int]:
        assert state.guard is not None
        guard = state.guard._replace(in_a_row=jnp.zeros_like(state.guard.in_a_row))
        state = state._replace(step=jnp.full_like(state.step, number), guard=guard)
        batch = jax.tree.map(lambda x: x[0], batches(number + int(guard.offset), 1))
        return culprits(lambda rows: bool(is_bad(state, batch, np.resize(rows, size))), size)

    return search


def weights(state: TrainState) -> Params:
    """Return the averaged parameters where an average is kept, else the parameters."""
    return state.params if state.ema is None else state.ema
