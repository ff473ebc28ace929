"""The recipe of a finished or stopped run, read back from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lm.config import Recipe
from lm.exits import Unusable, UserError
from lm.migrations import recipe_of_today
from lm.strict import ConfigError, from_json

if TYPE_CHECKING:
    from lm.interop.scoring import TextModel
    from lm.types import Batch, Key, Source


def read_recipe(workdir: Path) -> Recipe:
    """Return the recipe of a run folder; UserError where there is none, Unusable where it is damaged."""
    from tasks.registry import KINDS

    path = workdir / "recipe.json"
    if not path.is_file():
        raise UserError(f"no run in {workdir}: {path.name} is missing")
    try:
        recipe = from_json(path.read_text(encoding="utf-8"), KINDS, recipe_of_today)
        if not isinstance(recipe, Recipe):
            raise ConfigError(f"it holds a {type(recipe).__name__}, not a Recipe")
    except ValueError as error:  # a ConfigError, or bytes that are no UTF-8
        raise Unusable(f"{path}: {error}") from None
    return recipe


class Opened(NamedTuple):
    """A model with its weights and codec, and the folder that holds the files of its tokenizer, where there is one."""

    config: Any
    params: Any
    codec: Any
    folder: Path | None


def open_model(workdir: Path | None, model: Path | None, dtype: str = "float32") -> Opened:
    """Return the model of a run folder or of another library; UserError unless exactly one of them is given."""
    from lm.interop import load_codec, load_model
    from lm.trained import load

    if (workdir is None) == (model is None):
        raise UserError("give either --workdir RUN or --model PATH")
    if model is not None:
        config, params = load_model(model, dtype)
        has_tokenizer = not model.is_dir() or (model / "tokenizer.json").is_file()
        return Opened(config, params, load_codec(model) if has_tokenizer else None, model if model.is_dir() else None)
    assert workdir is not None
    recipe, _, source, params, _ = load(read_recipe(workdir), workdir)
    given = getattr(recipe.data, "tokenizer", None)
    return Opened(recipe.model, params, source.codec, Path(given) if given and Path(given).is_dir() else None)


def text_model_of(workdir: Path | None, model: Path | None, max_length: int) -> TextModel:
    """Return the model of a run folder or of another library, ready to score text."""
    from lm.interop.scoring import TextModel
    from lm.models import build

    config, params, codec, _ = open_model(workdir, model)
    if codec is None:
        raise UserError(f"{workdir or model} has no tokenizer: it reads no text")
    return TextModel(build(config), params, codec, max_length, getattr(codec, "begins", True))


def batch_of(recipe: Recipe, source: Source, key: Key, size: int | None, count: int) -> tuple[Batch, Any]:
    """Return test examples of a size, and how tokens are written; a corpus gives windows, and has no sizes."""
    import jax
    import jax.numpy as jnp

    if source.draw is None:
        if size is not None:
            raise UserError(f"{recipe.task.name} reads a corpus, which has no sizes; leave --size out")
        assert source.at is not None
        return jax.tree.map(lambda x: jnp.asarray(x[:count]), source.at(0)), source.codec.decode
    size = max(recipe.task.train_sizes) if size is None else size
    low, high = (f(*recipe.task.train_sizes, *recipe.task.test_sizes) for f in (min, max))
    if not low <= size <= high:
        raise UserError(f"--size {size}: {recipe.task.size_name} of {recipe.task.name} lie in {low}..{high}")
    examples = jax.vmap(recipe.task.test_example, in_axes=(None, 0, None))
    return jax.jit(examples)(key, jnp.arange(count), size), recipe.task.spell
