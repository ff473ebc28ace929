"""A finished or stopped run, read back from its folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from lm.config import MeshConfig, Recipe
from lm.exits import UserError
from lm.strict import from_json


class Trained(NamedTuple):
    """A run ready to use: its recipe, the plain net and the source, the weights for that net and their step."""

    recipe: Recipe
    net: Any
    source: Any
    params: Any
    step: int


def read_recipe(workdir: Path) -> Recipe:
    """Return the recipe of a run folder; UserError where there is none."""
    from tasks.registry import KINDS

    path = workdir / "recipe.json"
    if not path.is_file():
        raise UserError(f"no run in {workdir}: {path.name} is missing")
    return from_json(path.read_text(encoding="utf-8"), KINDS)


def load(recipe: Recipe, workdir: Path) -> Trained:
    """Restore the newest weights of a run for use on the devices at hand, whatever its mesh was.

    They are the averaged ones where an average is kept, settled where the recipe has transforms.
    """
    from lm.checkpoint import Checkpoints
    from lm.train import prepare
    from lm.transforms import stages_from

    checkpoints = Checkpoints(workdir / "checkpoints")
    step = checkpoints.latest()
    if step is None:
        raise UserError(f"no checkpoint in {workdir / 'checkpoints'}")
    now = stages_from(recipe, step)[0].recipe
    run = prepare(dataclasses.replace(now, mesh=MeshConfig()), workdir)
    state = run.target
    params = checkpoints.restore_params(state.params, step, average=state.ema is not None)
    return Trained(now, run.net, run.source, run.settle(params), step)
