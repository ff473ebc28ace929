"""Recipes of networks that grow by stacking, and the loop that watches the loss on data held out of training.

    runs = prepare_depths(recipe, folder, (2, 4, 6))
    looks = watch(recipe, runs, losses_of(runs, held_out(runs[6], 400)), range(10, 401, 10))    # [(step, loss), ...]

Programs depend on the depth alone, so plans of growth that are compared share them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp

from lm.config import Growth, MLPConfig, OptimizerConfig, Recipe, RNNConfig, TrainConfig, TransformerConfig
from lm.losses import next_token
from lm.strict import ConfigError, override
from lm.train import Run, prepare
from lm.transforms import grow, stages_of
from lm.types import Array, Batch, Params, TrainState
from tasks.math.data import MathData
from tasks.math.tinygsm import TinyGSM
from tasks.vision.shapes import shapes_resnet_cpu

HELD_OUT = 1 << 16  # the key that held-out batches of a drawn task come from; no run has this seed

Loss = Callable[[Params], Array]
Looks = list[tuple[int, float]]  # (step, loss on held-out data)


def prepare_depths(recipe: Recipe, folder: Path, depths: Iterable[int]) -> dict[int, Run]:
    """Return the recipe made ready at each depth, to be trained for all its steps or a part of them."""
    return {depth: prepare(override(recipe, {"growth": None, "model.depth": depth}), folder) for depth in depths}


def held_out(run: Run, steps: int, count: int = 5) -> Batch:
    """Return `count` batches that `steps` of training do not see, as one: of a corpus the last of its first epoch.

    ConfigError where training reads them.
    """
    source = run.source
    if source.at is not None:
        first = source.facts["windows"] // run.batch.inputs.shape[0] - count
        if first < steps:
            raise ConfigError(f"train.steps {steps} leave none of the corpus unseen; at most {max(first, 0)} do")
        batches = [source.at(first + i) for i in range(count)]
    else:
        assert source.draw is not None
        batches = [source.draw(jax.random.key(HELD_OUT), jnp.int32(i)) for i in range(count)]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *(batch._replace(info={}) for batch in batches))


def losses_of(runs: Mapping[int, Run], batch: Batch) -> dict[int, Loss]:
    """Return for each depth the next-token loss on one batch as a function of the trained parameters."""

    def of(run: Run) -> Loss:
        return jax.jit(lambda params: next_token(run.net.apply, run.settle(params), batch, None)[0])

    return {depth: of(run) for depth, run in runs.items()}


def watch(recipe: Recipe, runs: Mapping[int, Run], losses: Mapping[int, Loss], marks: Iterable[int]) -> Looks:
    """Train a recipe through its stages and return the held-out loss at `marks` (sorted steps), by `losses` of a depth.

    A look at a growth sees the net before it.
    """
    state, looks, ahead = None, [], sorted({*marks, *(stage.stop for stage in stages_of(recipe))})
    for stage in stages_of(recipe):
        depth, step = stage.recipe.model.depth, stage.start
        run = runs[depth]
        state = run.init() if state is None else taller(run, state, recipe.growth)
        for mark in (mark for mark in ahead if stage.start < mark <= stage.stop):
            while step < mark:
                count = min(recipe.train.steps_per_dispatch, mark - step)
                state, _ = run.stretch(state, run.batches(step, count), count)
                step += count
            looks.append((mark, float(losses[depth](state.params))))
    return looks


def taller(run: Run, state: TrainState, growth: Growth) -> TrainState:
    """Return the state grown to the depth of a run that was prepared for no growth of its own."""
    places = jax.tree.map(lambda shape: shape.sharding, run.target)
    return jax.jit(lambda old, fresh: grow(old, fresh, growth), out_shardings=places)(state, run.init())


def stacking_cpu() -> Recipe:
    """A decoder of 6 layers, 322,368 parameters, grown from 2 by two copied layers at a time, on word problems.

    Agarwal et al. 2024. PROP-1: 66, 133 and 201 steps at depth 2, 4 and 6; the rate is constant and falls in the
    last stage alone. Three seeds: next-token loss on held-out windows 0.69 to 0.78, at full depth (this recipe
    without `growth`) 0.65 to 0.72 for as many steps and 0.77 to 0.84 for as many operations. A minute on one core.
    python scripts/train.py stacking_cpu
    """
    data = MathData(vocabulary=320, problems=12_000, length=128)
    return Recipe(
        name="stacking_cpu",
        task=TinyGSM(max_steps=2, test_count=50),
        data=data,
        model=TransformerConfig(vocabulary=data.vocabulary, depth=6, width=64, heads=2, activation="swiglu"),
        optimizer=OptimizerConfig(
            learning_rate=3e-3, schedule="wsd", warmup_steps=50, decay_fraction=0.5, beta2=0.98, final_fraction=0.05
        ),
        train=TrainConfig(steps=400, batch_size=4, steps_per_dispatch=10),
        growth=Growth(depths=(2, 4, 6)),
    )


def stacking_full() -> Recipe:
    """A decoder of 24 layers in 6 blocks, PROP-2, constant rate and then linear decay in the last stage.

    Saunshi et al. 2024 (MIDAS) in kind: the block in the middle is repeated. Expected: the validation loss of full
    depth within 0.5 % at 1/1.24 of its operations. Hours on one accelerator.
    python scripts/train.py stacking_full
    """
    small = stacking_cpu()
    data = MathData(problems=3_000_000, vocabulary=4096, length=512)
    return replace(
        small,
        name="stacking_full",
        task=TinyGSM(),
        data=data,
        model=replace(small.model, vocabulary=data.vocabulary, depth=24, width=1024, heads=8),
        optimizer=replace(small.optimizer, learning_rate=3e-4, warmup_steps=500, decay_fraction=36 / 91),
        train=TrainConfig(steps=10_000, batch_size=32),
        growth=Growth(depths=(4, 8, 12, 16, 20, 24), place="middle", alpha=2.0),
    )


def other_models() -> dict[str, Recipe]:
    """Return networks of other kinds that grow from one layer to two: recurrent, perceptron, residual on images."""
    small, images = stacking_cpu(), shapes_resnet_cpu()
    lstm = replace(small, name="lstm", model=RNNConfig(vocabulary=small.data.vocabulary, depth=2, width=64))
    resnet = replace(
        images,
        name="resnet",
        model=replace(images.model, depth=2),
        optimizer=small.optimizer,
        train=replace(small.train, batch_size=32),
    )
    pixels = images.task.side**2
    perceptron = MLPConfig(inputs=pixels, outputs=images.task.vocabulary, vocabulary=None, depth=2)
    mlp = replace(resnet, name="mlp", model=perceptron)
    grown = [replace(each, growth=Growth(depths=(1, 2))) for each in (lstm, mlp, resnet)]
    return {each.name: override(each, {"train.steps": 200}) for each in grown}
