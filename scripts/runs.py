"""The recipe of a finished or stopped run, read back from its folder."""

from __future__ import annotations

from pathlib import Path

from lm.config import Recipe
from lm.exits import UserError
from lm.strict import from_json


def read_recipe(workdir: Path) -> Recipe:
    """Return the recipe of a run folder; UserError where there is none."""
    from tasks.registry import KINDS

    path = workdir / "recipe.json"
    if not path.is_file():
        raise UserError(f"no run in {workdir}: {path.name} is missing")
    return from_json(path.read_text(encoding="utf-8"), KINDS)
