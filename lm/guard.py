"""The guard of the training step: a step that would break the weights is not taken, on any process.

guard = make_guard(Guard(spike=100.0), window=8)
step = make_step(net, objective, optimizer, draw, guard=guard)

It judges the loss and the gradient of the whole batch and the weights that they would lead to, so all devices decide
alike. It decides inside the compiled step, so weights, moments and average stay as they were, bit for bit. The step
counter goes on: the next step has other data. When `budget` steps in a row were not taken, no further one is: what is
left is the state of the last good step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lm.config import Guard
from lm.types import Array, GuardState, Mean, Metrics, Params, TrainState

MEMORY = 100  # good steps that the running mean of the norms reaches back


class Policy(NamedTuple):
    """Which steps are taken.

    init() -> the state before step 0
    judge(state, loss, norm of the gradient, of the weights after it) -> (whether the step is good, the state); pure
    window: of how many steps in a row `metrics["skipped"]` tells which were not taken
    """

    init: Callable[[], GuardState]
    judge: Callable[[GuardState, Array, Array, Array], tuple[Array, GuardState]]
    window: int


class Exhausted(Exception):  # noqa: N818 (an outcome, not an error)
    """The budget of a guard is spent: the state has stood still since the last good step."""

    def __init__(self, state: TrainState):
        super().__init__("no further step is taken")
        self.state = state


def make_guard(config: Guard | None, window: int = 1) -> Policy | None:
    """Return the policy of a configuration, or None where it has none."""
    if config is None:
        return None

    def init() -> GuardState:
        counts = (jnp.zeros((), jnp.int32) for _ in range(4))  # an array each: a donated state holds none twice
        return GuardState(next(counts), next(counts), jnp.zeros(()), next(counts), next(counts))

    def judge(state: GuardState, loss: Array, norm: Array, weights: Array) -> tuple[Array, GuardState]:
        good = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(weights) & (state.in_a_row < config.budget)
        if config.spike is not None:
            good &= (state.seen < config.warmup) | (norm <= config.spike * state.norm)
        seen = state.seen + good
        mean = state.norm + (norm - state.norm) / jnp.clip(seen, 1, MEMORY)
        return good, GuardState(
            skipped=state.skipped + ~good,
            in_a_row=jnp.where(good, 0, state.in_a_row + 1),
            norm=jnp.where(good, mean, state.norm),
            seen=seen,
            offset=state.offset,
        )

    return Policy(init, judge, window)


def hold(
    policy: Policy, before: TrainState, after: TrainState, gradient: Params, metrics: Metrics
) -> tuple[TrainState, Metrics]:
    """Return the state and metrics of a step, or those of a step not taken where the policy finds it bad.

    The metrics of such a step are empty, and `metrics["skipped"]` gets a 1 [window] at its place.
    """
    norms = optax.tree.norm(gradient), optax.tree.norm(after.params)
    good, guard = policy.judge(_guard_of(before), jnp.asarray(metrics["loss"].value), *norms)

    def choose(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)

    own: dict[str, Any] = {"step": after.step, "key": before.key, "guard": guard}
    none: dict[str, Any] = dict.fromkeys(own)
    kept = choose(after._replace(**none), before._replace(**none))
    metrics = choose(metrics, jax.tree.map(jnp.zeros_like, metrics))
    skipped = ~good & (jnp.arange(policy.window) == before.step % policy.window)
    metrics["skipped"] = Mean(skipped.astype(jnp.float32), 1.0)
    return kept._replace(**own), metrics


def _guard_of(state: TrainState) -> GuardState:
    assert state.guard is not None, "the state of a guarded step has a guard"
    return state.guard


def data_index(state: TrainState) -> Array:
    """Return which batch of the data the next step takes: its own number, unless a range of them was passed over."""
    return state.step if state.guard is None else state.step + state.guard.offset


def skipped_steps(flags: Any, start: int, stop: int) -> list[int]:
    """Return the steps from `start` up to `stop`, at most a window, that the merged `metrics["skipped"]` marks."""
    return [step for step in range(start, stop) if flags[step % len(flags)]]


def last_good(state: TrainState) -> TrainState:
    """Return the state as it was before the steps in a row that were not taken."""
    guard = _guard_of(state)
    return state._replace(
        step=state.step - guard.in_a_row,
        guard=guard._replace(skipped=guard.skipped - guard.in_a_row, in_a_row=jnp.zeros_like(guard.in_a_row)),
    )


def moved_on(state: TrainState, offset: int) -> TrainState:
    """Return the state with its data `offset` batches ahead of its step, and no bad step behind it."""
    guard = _guard_of(state)
    return state._replace(
        guard=guard._replace(offset=jnp.full_like(guard.offset, offset), in_a_row=jnp.zeros_like(guard.in_a_row))
    )


def culprits(is_bad: Callable[[Sequence[int]], bool], size: int, most: int = 4) -> list[int]:
    """Return the rows that make a batch bad, found by halving: `is_bad(rows)` judges a batch of these alone.

    Rows that are bad together only are returned together. Returns none where the bad parts are more than `most`, or
    where it takes all rows.
    """
    open_parts: list[Sequence[int]] = [range(size)]
    found: list[Sequence[int]] = []
    while open_parts and len(open_parts) + len(found) <= most:
        part = open_parts.pop(0)
        half = len(part) // 2
        bad = [rows for rows in (part[:half], part[half:]) if half and is_bad(rows)]
        if bad:
            open_parts += bad
        else:
            found.append(part)
    rows = sorted(row for part in found for row in part)
    return [] if open_parts or len(rows) == size else rows
