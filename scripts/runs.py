"""The recipe of a finished or stopped run, read back from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lm.config import Recipe
from lm.exits import UserError
from lm.strict import from_json

if TYPE_CHECKING:
    from lm.interop.scoring import TextModel


def read_recipe(workdir: Path) -> Recipe:
    """Return the recipe of a run folder; UserError where there is none."""
    from tasks.registry import KINDS

    path = workdir / "recipe.json"
    if not path.is_file():
        raise UserError(f"no run in {workdir}: {path.name} is missing")
    return from_json(path.read_text(encoding="utf-8"), KINDS)


def text_model_of(workdir: Path | None, model: Path | None, max_length: int) -> TextModel:
    """Return the model of a run folder or of another library, ready to score text."""
    from lm.interop import load_codec, load_model
    from lm.interop.scoring import TextModel
    from lm.models import build
    from lm.trained import load

    if (workdir is None) == (model is None):
        raise UserError("give either --workdir or --model")
    if model is not None:
        (config, params), codec = load_model(model), load_codec(model)
        return TextModel(build(config), params, codec, max_length, codec.begins)
    assert workdir is not None
    trained = load(read_recipe(workdir), workdir)
    if trained.source.codec is None:
        raise UserError(f"the run in {workdir} reads no text")
    return TextModel(trained.net, trained.params, trained.source.codec, max_length)
