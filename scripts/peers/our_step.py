"""Our side: the training step as `scripts/train.py` takes it, several steps in a dispatch, data drawn in the step.

Settings: shape, precision (of the operands of matrix products).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lm.config import Learned, OptimizerConfig, Recipe, TrainConfig, TransformerConfig
from lm.memory import trimmed
from lm.train import prepare, stage_flops
from lm.types import Array, Example, Key
from scripts.peers.serve import serve, settings, versions
from scripts.peers.shapes import BETAS, CLIP, LEARNING_RATE, SHAPES, WALK, WEIGHT_DECAY, Shape
from tasks.task import Task, next_token


@dataclass(frozen=True)
class Walk(Task):
    """A walk around a circle of tokens, 0 to 3 places on at each step."""

    name = "walk"
    length: int = 256
    vocabulary: int = 64
    train_sizes = (1, 1)

    @property
    def max_length(self) -> int:
        return self.length

    def sample(self, key: Key, size: Array) -> Example:
        key_first, key_moves = jax.random.split(key)
        first = jax.random.randint(key_first, (), 0, self.vocabulary)
        moves_L = jax.random.randint(key_moves, (self.length,), 0, WALK)
        tokens_T = jnp.concatenate([first[None], first + jnp.cumsum(moves_L)]) % self.vocabulary
        return next_token(tokens_T, jnp.ones_like(tokens_T), jnp.arange(self.length + 1), {})


def recipe_of(shape: Shape, precision: str) -> Recipe:
    """Return the recipe that trains what the peers train."""
    model = TransformerConfig(
        vocabulary=shape.vocabulary,
        depth=shape.depth,
        width=shape.width,
        heads=shape.heads,
        norm="layer",
        positions=Learned(shape.length),
        dtype="float32",
        products=precision,
    )
    optimizer = OptimizerConfig(
        learning_rate=LEARNING_RATE,
        schedule="constant",
        beta1=BETAS[0],
        beta2=BETAS[1],
        weight_decay=WEIGHT_DECAY,
        clip=CLIP,
    )
    train = TrainConfig(batch_size=shape.batch, steps_per_dispatch=shape.steps)
    return Recipe(Walk(shape.length, shape.vocabulary), model, optimizer, train)


def main(shape: Shape, precision: str) -> None:
    """Make the recipe ready and serve."""
    recipe = recipe_of(shape, precision)
    run = prepare(recipe, Path())
    (_, flops), *_ = stage_flops(recipe, run)
    state: Any = run.init()
    losses: list[float] = []

    def step() -> int:
        nonlocal state
        count = shape.steps if losses else 1  # the first step alone, so that its loss is known
        state, metrics = run.stretch(state, run.batches(0, count), count)
        losses.extend([float(metrics["loss"].value)] * count)
        return count

    serve(step, lambda: {"losses": losses[:17], "flops": flops, "versions": versions("jax", "flax")})


if __name__ == "__main__":
    given = settings()
    with trimmed():  # as `fit` does
        main(SHAPES[given["shape"]], given["precision"])
