"""A finished or stopped run, read back from its folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from lm.config import MeshConfig, Recipe
from lm.exits import UserError
from lm.strict import from_json


class Trained(NamedTuple):
    """A run ready to use: its recipe, its net and source (an lm.train.Run), its weights and their step."""

    recipe: Recipe
    run: Any
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
    """Restore the newest weights of a run (averaged ones where kept) on the devices at hand, whatever its mesh was."""
    from lm.checkpoint import Checkpoints
    from lm.train import prepare

    checkpoints = Checkpoints(workdir / "checkpoints")
    step = checkpoints.latest()
    if step is None:
        raise UserError(f"no checkpoint in {workdir / 'checkpoints'}")
    run = prepare(dataclasses.replace(recipe, mesh=MeshConfig()), workdir)
    average = recipe.train.ema is not None
    return Trained(recipe, run, checkpoints.restore_params(run.target.params, step, average=average), step)
