"""Exact evaluation: every test example counted once, by size, with intervals.

Greedy decoding reproduces a target exactly when every teacher-forced argmax on the asked positions is right,
so exact match needs one forward pass and no decoding loop. A task whose answers are numbers says so by its `predict`,
and by the unit of each figure that is a mean of numbers and no proportion.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.interrupt import safe_point
from lm.keys import fast
from lm.mesh import compiler_options
from lm.types import Array, Evaluation, Example, Key, Mean, Net, Params, Rate

SHOWN = 4  # examples kept of each size
Z = 1.959964  # standard errors on either side of a value in a 95 % interval


class Total(NamedTuple):
    """A figure summed over examples, the sum of its squares, and the trials that it counts."""

    sum: Array | float
    square: Array | float
    count: Array | float  # type: ignore[assignment]

    def rate(self, unit: str) -> Rate:
        """Return a proportion, or where there is a unit the mean of one number an example."""
        if not unit:
            return rate(float(self.sum), float(self.count))
        return mean(float(self.sum), float(self.square), float(self.count), unit)


def rate(successes: float, trials: float, z: float = Z) -> Rate:
    """Return a proportion with its Wilson score interval (Wilson 1927); 0 of 0 is 0 in [0, 1]."""
    if trials <= 0:
        return Rate(0.0, 0.0, 1.0, 0)
    p = successes / trials
    middle = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(p * (1 - p) / trials + (z / (2 * trials)) ** 2) / (1 + z * z / trials)
    return Rate(p, min(max(middle - half, 0.0), p), max(min(middle + half, 1.0), p), round(trials))


def mean(total: float, square: float, count: float, unit: str) -> Rate:
    """Return the mean of `count` numbers with a 95 % interval from their spread, by their sum and that of squares."""
    value = total / count
    half = Z * math.sqrt(max(square / count - value**2, 0.0) / max(count - 1, 1.0))
    return Rate(value, value - half, value + half, round(count), unit)


def bootstrap(statistic: Callable[[np.ndarray], float], count: int, draws: int = 1000) -> Rate:
    """Return a statistic of `count` units with the middle 95 % of its values on units drawn with return (Efron 1979).

    `statistic` takes the indices of the units; the draws are the same at every call.
    """
    rng = np.random.default_rng(count)
    values = [statistic(rng.integers(count, size=count)) for _ in range(draws)]
    value = float(statistic(np.arange(count)))
    low, high = (float(end) for end in np.quantile(values, (0.025, 0.975)))
    return Rate(value, min(low, value), max(high, value), count)


def _grade(net: Net, task: Any, params: Params, key: Key, index_and_size: Array, batch_size: int) -> Any:
    """Grade test examples start .. start + batch_size of one size; those past the last one weigh nothing."""
    start, size = index_and_size
    indices_B = start + jnp.arange(batch_size)
    batch = jax.vmap(task.test_example, in_axes=(None, 0, None))(fast(key), indices_B, size)
    predictions_BL = task.predict(net.apply(params, batch, None))
    scores = jax.vmap(task.score)(predictions_BL, batch)
    scores = {k: v if isinstance(v, Mean) else Mean(v, jnp.ones_like(v)) for k, v in scores.items()}
    counted_B = indices_B < task.test_count
    totals = {k: Total(v.sum, jnp.square(v.sum), v.count) for k, v in scores.items()}
    shown = jax.tree.map(lambda x: x[:SHOWN], (batch, predictions_BL))
    return jax.tree.map(lambda x_B: jnp.sum(x_B * counted_B), totals), shown


def examine(net: Net, params: Params, task: Any, key: Key, batch_size: int = 256) -> Evaluation:
    """Grade `task.test_count` test examples of each of `task.test_sizes`; one compiled program for all sizes."""
    batch_size = min(batch_size, task.test_count)
    grade = jax.jit(_grade, static_argnums=(0, 1, 5), compiler_options=compiler_options())
    totals: dict[str, dict[str, Total]] = {}
    examples: list[dict[str, Any]] = []
    for size in task.test_sizes:
        parts = []
        for start in range(0, task.test_count, batch_size):
            safe_point()
            where = jnp.array([start, size], jnp.int32)
            part, shown = grade(net, task, params, jax.random.fold_in(key, size), where, batch_size)
            parts.append(jax.tree.map(float, jax.device_get(part)))
            if start == 0:
                examples += _examples(task, size, jax.device_get(shown))
        totals[str(size)] = _added(parts)

    def rates(found: dict[str, Total]) -> dict[str, Rate]:
        return {name: total.rate(task.units.get(name, "")) for name, total in found.items()}

    slices = {size: rates(found) for size, found in totals.items()}
    return Evaluation(rates(_added(totals.values())), {task.size_name: slices}, examples)


def _added(parts: Iterable[dict[str, Total]]) -> dict[str, Total]:
    return functools.reduce(functools.partial(jax.tree.map, operator.add), parts)


def _examples(task: Any, size: int, shown: Any) -> list[dict[str, Any]]:
    """Return each example as a reader sees it; a number is right where it reads as the one asked for."""
    batch, predictions_BL = shown
    rows = []
    for i in range(len(predictions_BL)):
        example: Example = jax.tree.map(lambda x, i=i: x[i], batch)
        asked_L = np.asarray(example.weights) > 0
        target, prediction = (task.spell(np.asarray(x)[asked_L]) for x in (example.targets, predictions_BL[i]))
        rows.append(
            {
                task.size_name: size,
                "question": task.render(example),
                "target": target,
                "prediction": prediction,
                "right": target == prediction,
            }
        )
    return rows
