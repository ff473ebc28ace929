"""Weights by hand: a transformer without positions that sorts lists of any length, numbers that repeat included.

    net, params = construct(Sorting(values=30), longest=500)

Ours, after the two-layer construction of Awasthi and Gupta 2023. A residual row holds its token as a one-hot, the
constant 1, and what the layers find. Layer 1 flags what follows the first `|`. In layer 2 head A averages the one-hots
of `^` and of the n numbers of the list, head B those of `|` and of the m numbers already written, so that

    A[u] B[|] - B[u] A[^] = (times of u in the list - times written) / ((n + 1)(m + 1)),

two products that a gated feed-forward forms exactly. Layer 3 clips K times this to 0 or 1, and of the numbers still to
be written the smallest has the highest score. K must be at least (n + 1)^2: it is the one parameter that depends on n.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lm.models import build
from lm.types import Array, Net, Params
from tasks.arithmetic.sorting import ASKS, BEGIN, END, FIRST, Sorting
from tasks.construct import Layer, hand_config, hand_params
from tasks.task import Claim, Experiment

PAPER = "Task hinting (Awasthi and Gupta 2023)"
SHARP = 30.0  # a score that the softmax cannot tell from infinity, in float32
MARK = 4 + ASKS.index("sort")
LISTS: Mapping[int, int] = {2: 200, 10: 200, 100: 50, 500: 5}  # how many of each length


def construct(task: Sorting, longest: int) -> tuple[Net, Params]:
    """Return the transformer and its weights, right for lists of up to `longest` numbers."""
    values, tokens = task.values, task.vocabulary
    ends = np.cumsum([tokens, 1, 1, tokens, tokens, values, values])
    one, flag = int(ends[0]), int(ends[1])
    in_list, written, left, clipped = (slice(ends[i], ends[i + 1]) for i in (2, 3, 4, 5))
    width, heads = int(ends[-1]), (2, tokens)

    embedding = np.zeros((tokens, width))
    embedding[:, :tokens] = np.eye(tokens)
    embedding[:, one] = 1

    def kernels(hidden: int) -> dict[str, np.ndarray]:
        shapes = {name: (width, *heads) for name in ("query", "key", "value")} | {"output": (*heads, width)}
        shapes |= {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)}
        return {name: np.zeros(shape) for name, shape in shapes.items()}

    marking, counting, choosing = (kernels(2 * values) for _ in range(3))
    for layer in (marking, counting):
        layer["query"][one, :, 0] = SHARP
    marking["key"][one, 0, 0] = -1
    marking["key"][[BEGIN, MARK], 0, 0] = 1, 2
    marking["value"][MARK, 0, 0] = marking["output"][0, 0, flag] = 1

    counting["key"][one, :, 0] = 1, -1
    counting["key"][flag, :, 0] = -2, 2
    counting["value"][:tokens] = np.eye(tokens)[:, None]
    counting["output"][0, :, in_list] = counting["output"][1, :, written] = np.eye(tokens)
    each, there = np.arange(values), FIRST + np.arange(values)
    counting["gate"][in_list.start + there, each] = counting["up"][written.start + MARK, each] = 1
    counting["gate"][written.start + there, values + each] = counting["up"][in_list.start + BEGIN, values + each] = 1
    counting["down"][:, left] = np.concatenate([np.eye(values), -np.eye(values)])

    choosing["gate"][left] = 4 * (longest + 1) ** 2 * np.tile(np.eye(values), 2)
    choosing["gate"][one, values:] = -1
    choosing["up"][one] = 1
    choosing["down"][:, clipped] = np.concatenate([np.eye(values), -np.eye(values)])

    head = np.zeros((width, tokens))
    head[one] = -1
    head[one, there], head[one, END] = 0, 0.5
    head[clipped.start + each, there] = values - each

    layers = [Layer(**layer) for layer in (marking, counting, choosing)]
    return build(hand_config(embedding, None, layers)), hand_params(embedding, None, layers, head)


def sorted_exactly(size: int, count: int, longest: int) -> float:
    """Return the share of `count` random lists of `size` numbers below 30 that weights made for `longest` sort."""
    task = Sorting(values=30, longest_train=size, longest_test=size)
    net, params = construct(task, longest)

    # The weights are an argument: as constants of a program they may be compiled wrongly (docs/LOG.md).
    @jax.jit
    def grade(params: Params) -> Array:
        def right(key: Array) -> Array:
            example = task.sample(key, size)
            batch = jax.tree.map(lambda x: x[None], example)
            return task.score(jnp.argmax(net.apply(params, batch).logits[0], axis=-1), example)["exact_match"]

        return jnp.mean(jax.lax.map(right, jax.random.split(jax.random.key(size), count)))

    return float(grade(params))


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Sort lists of every length by weights made for it, and long ones by weights made for short ones."""
    found = {f"by_hand@{size}": sorted_exactly(size, count, longest=size) for size, count in LISTS.items()}
    exact = min(found.values())
    return found | {"by_hand": exact, "by_hand_for_10@500": sorted_exactly(500, LISTS[500], longest=10)}


TASK_HINTING_CONSTRUCTION = Experiment(
    name="task_hinting_construction",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "Weights by hand, without positions, sort lists of numbers below 30 that repeat (200 of 2 and of 10, 50 of "
            "100, 5 of 500): the lowest exact match",
            "by_hand",
            at_least=1.0,
            paper_value="such weights exist",
            exact=True,
        ),
        Claim(
            PAPER,
            "Their one parameter must grow with the length: exact match at 500 numbers with that for 10",
            "by_hand_for_10@500",
            at_most=0.0,
            exact=True,
        ),
    ),
    run=run,
)
