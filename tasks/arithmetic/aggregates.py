"""Aggregates of the numbers up to each place of a list: real numbers in, real numbers out (Back De Luca et al. 2025).

Source: arXiv 2410.01686. The numbers of a list are uniform between two ends, which are uniform in [-2, 2] in training.
Tests at scale c draw the ends from [-2 c, 2 c], and both anew where both could have been seen in training. One more
place holds 0: room to work in, of which nothing is asked.

    >>> for ask in ASKS:
    ...     task = Aggregates(numbers=5, ask=ask)
    ...     example = task.write(jnp.array([1.0, -2.0, 3.0, 0.5, -1.0]))
    ...     print(task.render(example), "->", task.spell(example.targets[example.weights > 0]))
    sum of 1.00 -2.00 3.00 0.50 -1.00 -> 1.00 -1.00 2.00 2.50 1.50
    minimum of 1.00 -2.00 3.00 0.50 -1.00 -> 1.00 -2.00 -2.00 -2.00 -2.00
    median of 1.00 -2.00 3.00 0.50 -1.00 -> 1.00 -0.50 1.00 0.75 0.50
    subarray of 1.00 -2.00 3.00 0.50 -1.00 -> 1.00 1.00 3.00 3.50 3.50
    sort of 1.00 -2.00 3.00 0.50 -1.00 -> -2.00 -1.00 0.50 1.00 3.00
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import OptimizerConfig, PositionalConfig, Recipe, TrainConfig
from lm.exits import UserError
from lm.strict import ConfigError, require_choice
from lm.types import Array, Example, Key, Outputs
from tasks.task import Task

SEEN = 2.0  # the ends of training lie within -SEEN..SEEN
ASKS = ("sum", "minimum", "median", "subarray", "sort")


@dataclass(frozen=True)
class Aggregates(Task):
    """Lists of so many numbers, and at each place what is asked of the numbers up to there, or their order.

    `subarray` asks for the largest sum of neighbours (Kadane), at least one of them. The size is the scale c.
    """

    name: ClassVar[str] = "aggregates"
    size_name: ClassVar[str] = "scale"
    units: ClassVar[Mapping[str, str]] = MappingProxyType({"squared_error": "a number"})

    ask: str = "sum"
    numbers: int = 8
    largest_scale: int = 10

    def __post_init__(self):
        require_choice("task.ask", self.ask, ASKS)
        if not 2 <= self.numbers <= 64:
            raise ConfigError(f"task.numbers must be from 2 to 64, got {self.numbers}")
        if not 1 <= self.largest_scale <= 1000:
            raise ConfigError(f"task.largest_scale must be from 1 to 1000, got {self.largest_scale}")

    @property
    def vocabulary(self) -> int:
        """Numbers asked at each place."""
        return 1

    @property
    def max_length(self) -> int:
        return self.numbers + 1

    @property
    def train_sizes(self) -> tuple[int, int]:
        return 1, 1

    @property
    def test_sizes(self) -> tuple[int, ...]:
        return tuple(range(1, self.largest_scale + 1))

    @property
    def test_count(self) -> int:
        return 1000

    def sample(self, key: Key, size: Array) -> Example:
        key_ends, key_numbers = jax.random.split(key)
        low, high = draw_ends(key_ends, size)
        return self.write(jax.random.uniform(key_numbers, (self.numbers,), minval=low, maxval=high))

    def write(self, numbers_L: Array) -> Example:
        """Write a list and the answer to what is asked of it."""
        asked_L = jnp.arange(self.max_length) < self.numbers
        return Example(
            inputs=jnp.append(numbers_L, 0.0)[:, None],
            targets=jnp.append(aggregate(self.ask, numbers_L), 0.0),
            weights=asked_L.astype(jnp.float32),
            positions=jnp.arange(self.max_length),
            info={},
        )

    def predict(self, outputs: Outputs) -> Array:
        return outputs.logits[..., 0]

    def score(self, predictions_L: Array, example: Example) -> dict[str, Array]:
        """Return the mean square by which the numbers said differ from those asked for."""
        squares_L = jnp.square(predictions_L - example.targets)
        return {"squared_error": jnp.sum(squares_L * example.weights) / self.numbers}

    def render(self, example: Example) -> str:
        return f"{self.ask} of {self.spell(np.asarray(example.inputs)[: self.numbers, 0])}"

    def spell(self, tokens: Sequence[float]) -> str:
        return " ".join(f"{number:.2f}" for number in map(float, tokens))

    def read(self, text: str) -> list[int]:
        raise UserError(f"{self.name} asks about real numbers, which cannot be given as text")


def draw_ends(key: Key, scale: Array) -> Array:
    """Return the ends of a list, [2]: uniform in -2 c..2 c, drawn anew where c > 1 and both lie in -2..2."""

    def draw(key: Key) -> tuple[Key, Array]:
        key_next, key_now = jax.random.split(key)
        return key_next, jax.random.uniform(key_now, (2,), minval=-SEEN * scale, maxval=SEEN * scale)

    def seen(drawn: tuple[Key, Array]) -> Array:
        return (scale > 1) & jnp.all(jnp.abs(drawn[1]) <= SEEN)

    ends_2 = jax.lax.while_loop(seen, lambda drawn: draw(drawn[0]), draw(key))[1]
    return jnp.stack([jnp.min(ends_2), jnp.max(ends_2)])


def aggregate(ask: str, numbers_L: Array) -> Array:
    """Return what is asked of the numbers up to each place, [L]."""
    if ask == "sum":
        return jnp.cumsum(numbers_L)
    if ask == "minimum":
        return jax.lax.cummin(numbers_L)
    if ask == "sort":
        return jnp.sort(numbers_L)
    if ask == "subarray":
        sums_L = jnp.cumsum(numbers_L)
        lowest_L = jax.lax.cummin(jnp.append(0.0, sums_L[:-1]))  # of the sums before each place
        return jax.lax.cummax(sums_L - lowest_L)
    places_L = jnp.arange(len(numbers_L))
    sorted_LL = jnp.sort(jnp.where(places_L[None] <= places_L[:, None], numbers_L[None], jnp.inf))
    middle_LL = jnp.stack([places_L // 2, (places_L + 1) // 2], axis=1)
    return jnp.take_along_axis(sorted_LL, middle_LL, axis=1).mean(axis=1)


def aggregates_cpu() -> Recipe:
    """Cumulative sums of eight numbers by attention that looks at places alone: right far beyond the scale it saw.

    Back De Luca et al. 2025. Expected squared error below 0.03 at scale 3; with `--model.attention standard` it is
    30 times as high or more. About a minute on one CPU core.
    python scripts/train.py aggregates_cpu
    """
    task = Aggregates()
    return Recipe(
        name="aggregates_cpu",
        task=task,
        model=PositionalConfig(places=task.max_length, width=32),
        optimizer=OptimizerConfig(learning_rate=2e-3, final_fraction=0.02, beta2=0.999, clip=None),
        train=TrainConfig(steps=8000, batch_size=128, steps_per_dispatch=200, log_every=1000, save_every=8000),
        objective="squared",
    )


def aggregates_full() -> Recipe:
    """The paper's size: width 64, 60,000 steps of 1,000 lists at 5e-4, which fall to 1e-6 by a cosine.

    Back De Luca et al. 2025, whose rate falls by a tenth at each plateau and whose 30,000 lists are drawn once; here
    every batch is new. Expected squared error of sums 1.7e-5 at scale 1, 1.6e-3 at 3, 0.06 at 10; of standard
    attention 1.1e-5, 1.9, 88. Ten seeds train as one program for each question and kind of attention, on one
    accelerator: add `--task.ask sum minimum median subarray sort` for all questions.
    python scripts/train.py aggregates_full
    python scripts/sweep.py aggregates_full --seeds 10 --model.attention positional standard
    """
    small = aggregates_cpu()
    return replace(
        small,
        name="aggregates_full",
        model=replace(small.model, width=64),
        optimizer=replace(small.optimizer, learning_rate=5e-4, final_fraction=0.002),
        train=replace(small.train, steps=60_000, batch_size=1000, log_every=1000, save_every=20_000),
    )
