"""A peer: the model of google-deepmind/nanodo, from a checkout of it, in our step and optimizer.

Settings: shape, precision (of its activations), checkout.
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.step import init_state, make_step, repeat
from lm.train import parts_of
from lm.types import Batch, Key, Net, Outputs, Params
from scripts.peers.our_step import recipe_of
from scripts.peers.serve import serve, settings, versions
from scripts.peers.shapes import SHAPES, Shape


def net_of(shape: Shape, precision: str) -> Net:
    """Return the peer's model as a net."""
    from nanodo.model import DoConfig, TransformerDo

    sizes = {"D": shape.width, "H": shape.heads, "L": shape.length, "N": shape.depth, "V": shape.vocabulary}
    draw = nn.initializers.normal(0.02)  # as the others begin
    choices = {"dtype": jnp.dtype(precision), "fsdp_enabled": False, "kernel_init": draw, "embed_init": draw}
    model = TransformerDo(DoConfig(**sizes, F=4 * shape.width, **choices))

    def init(key: Key) -> Params:
        return model.init(key, jnp.zeros((1, shape.length), jnp.int32))

    def apply(params: Params, batch: Batch, key: Key | None = None) -> Outputs:
        return Outputs(model.apply(params, batch.inputs))

    return Net(init, apply)


def main(shape: Shape, precision: str) -> None:
    """Build the step and serve."""
    recipe, net = recipe_of(shape, precision), net_of(shape, precision)
    objective, optimizer, _ = parts_of(recipe)

    def draw(key: Key, step: jax.Array) -> Batch:
        return recipe.task.draw(jax.random.fold_in(key, step), shape.batch)

    stretch = jax.jit(repeat(make_step(net, objective, optimizer, draw)), donate_argnums=0)
    state: Any = jax.jit(lambda: init_state(net, optimizer, jax.random.key(0)))()
    losses: list[float] = []

    def step() -> int:
        nonlocal state
        count = shape.steps if losses else 1
        state, metrics = stretch(state, None, count)
        losses.extend([float(metrics["loss"].value)] * count)
        return count

    serve(step, lambda: {"losses": losses[:17], "versions": versions("jax", "flax")})


if __name__ == "__main__":
    given = settings()
    sys.path.insert(0, given["checkout"])
    main(SHAPES[given["shape"]], given["precision"])
