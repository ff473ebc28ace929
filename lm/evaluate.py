"""Exact evaluation: every test example counted once, by size, with intervals.

Greedy decoding reproduces a target exactly when every teacher-forced argmax on the asked positions is right,
so exact match needs one forward pass and no decoding loop.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm.types import Array, Evaluation, Example, Key, Mean, Net, Params, Rate

SHOWN = 4  # examples kept of each size


def rate(successes: float, trials: float, z: float = 1.959964) -> Rate:
    """Return a proportion with its Wilson score interval (Wilson 1927); 0 of 0 is 0 in [0, 1]."""
    if trials <= 0:
        return Rate(0.0, 0.0, 1.0, 0)
    p = successes / trials
    middle = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(p * (1 - p) / trials + (z / (2 * trials)) ** 2) / (1 + z * z / trials)
    return Rate(p, min(max(middle - half, 0.0), p), max(min(middle + half, 1.0), p), round(trials))


def bootstrap(statistic: Callable[[np.ndarray], float], count: int, draws: int = 1000) -> Rate:
    """Return a statistic of `count` units with the middle 95 % of its values on units drawn with return (Efron 1979).

    `statistic` takes the indices of the units; the draws are the same at every call.
    """
    rng = np.random.default_rng(count)
    values = [statistic(rng.integers(count, size=count)) for _ in range(draws)]
    value = float(statistic(np.arange(count)))
    low, high = (float(end) for end in np.quantile(values, (0.025, 0.975)))
    return Rate(value, min(low, value), max(high, value), count)


@functools.partial(jax.jit, static_argnums=(0, 1, 5))
def _grade(net: Net, task: Any, params: Params, key: Key, index_and_size: Array, batch_size: int) -> Any:
    """Grade test examples start .. start + batch_size of one size; those past the last one weigh nothing."""
    start, size = index_and_size
    indices_B = start + jnp.arange(batch_size)
    batch = jax.vmap(task.test_example, in_axes=(None, 0, None))(key, indices_B, size)
    predictions_BL = jnp.argmax(net.apply(params, batch, None).logits, axis=-1)
    scores = jax.vmap(task.score)(predictions_BL, batch)
    scores = {k: v if isinstance(v, Mean) else Mean(v, jnp.ones_like(v)) for k, v in scores.items()}
    counted_B = indices_B < task.test_count
    totals = jax.tree.map(lambda x_B: jnp.sum(x_B * counted_B), scores)
    shown = jax.tree.map(lambda x: x[:SHOWN], (batch, predictions_BL, scores))
    return totals, shown


def examine(net: Net, params: Params, task: Any, key: Key, batch_size: int = 256) -> Evaluation:
    """Grade `task.test_count` test examples of each of `task.test_sizes`; one compiled program for all sizes."""
    batch_size = min(batch_size, task.test_count)
    slices: dict[str, dict[str, Rate]] = {}
    overall: dict[str, Mean] = {}
    examples: list[dict[str, Any]] = []
    for size in task.test_sizes:
        sums: dict[str, Mean] = {}
        for start in range(0, task.test_count, batch_size):
            where = jnp.array([start, size], jnp.int32)
            totals, shown = _grade(net, task, params, jax.random.fold_in(key, size), where, batch_size)
            totals = {k: Mean(float(v.sum), float(v.count)) for k, v in jax.device_get(totals).items()}
            sums = {k: sums[k].merge(v) if k in sums else v for k, v in totals.items()}
            if start == 0:
                examples += _examples(task, size, jax.device_get(shown))
        slices[str(size)] = {k: rate(float(v.sum), float(v.count)) for k, v in sums.items()}
        overall = {k: overall[k].merge(v) if k in overall else v for k, v in sums.items()}
    return Evaluation(
        {k: rate(float(v.sum), float(v.count)) for k, v in overall.items()}, {task.size_name: slices}, examples
    )


def _examples(task: Any, size: int, shown: Any) -> list[dict[str, Any]]:
    batch, predictions_BL, scores = shown
    rows = []
    for i in range(len(predictions_BL)):
        example: Example = jax.tree.map(lambda x, i=i: x[i], batch)
        asked_L = np.asarray(example.weights) > 0
        rows.append(
            {
                task.size_name: size,
                "question": task.render(example),
                "target": task.spell(np.asarray(example.targets)[asked_L]),
                "prediction": task.spell(predictions_BL[i][asked_L]),
                "right": bool(np.all(predictions_BL[i][asked_L] == np.asarray(example.targets)[asked_L])),
            }
        )
    return rows
