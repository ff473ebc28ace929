"""A trained run made ready for use: the plain net with the weights of one of its checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

from lm.checkpoint import Checkpoints
from lm.config import MeshConfig, Recipe
from lm.exits import UserError
from lm.train import prepare
from lm.transforms import stages_from
from lm.types import Net, Params, Source


class Trained(NamedTuple):
    """A run ready to use: its recipe, the plain net and the source, the weights for that net and their step."""

    recipe: Recipe
    net: Net
    source: Source
    params: Params
    step: int


def load(recipe: Recipe, workdir: Path, step: int | None = None) -> Trained:
    """Restore the weights of a step (the newest) for use on the devices at hand, whatever the run's mesh was.

    They are the averaged ones where an average is kept, settled where the recipe has transforms.
    """
    checkpoints = Checkpoints(workdir / "checkpoints")
    if step is None and (step := checkpoints.latest()) is None:
        raise UserError(f"no checkpoint in {workdir / 'checkpoints'}")
    now = stages_from(recipe, step)[0].recipe
    run = prepare(dataclasses.replace(now, mesh=MeshConfig()), workdir)
    state = run.target
    params = checkpoints.restore_params(state.params, step, average=state.ema is not None)
    return Trained(now, run.net, run.source, run.settle(params), step)
