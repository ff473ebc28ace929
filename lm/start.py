"""The weights that training begins with, where they are not drawn at random: checked before they are used."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax

from lm.config import Recipe, TransformerConfig
from lm.interop.config_json import TRAINING
from lm.models import build
from lm.models.transformer import resolve
from lm.strict import ConfigError
from lm.types import Params


def starting_weights(recipe: Recipe, given: Params | None = None) -> Params | None:
    """Return the given parameters, or those of what `recipe.weights` names, or None where neither is there.

    Raises ConfigError where they are not of `recipe.model`.
    """
    if given is None and recipe.weights is not None:
        given = _read(recipe, recipe.weights)
    if given is not None:
        _check_shapes(recipe, given)
    return given


def _read(recipe: Recipe, path: str) -> Params:
    from lm.interop import load_model

    found, params = load_model(Path(path))
    if not isinstance(recipe.model, TransformerConfig):
        raise ConfigError(f"weights: {path} holds a transformer, model is {type(recipe.model).__name__}")
    has, wants = resolve(found), resolve(recipe.model)
    for field in dataclasses.fields(TransformerConfig):
        a, b = (getattr(config, field.name) for config in (has, wants))
        idle = field.name in TRAINING or (field.name == "head_bias" and wants.tied)
        if a != b and not idle:
            raise ConfigError(f"weights: {path} has model.{field.name} {a}, the recipe asks for {b}")
    return params


def _check_shapes(recipe: Recipe, params: Params) -> None:
    wanted = jax.eval_shape(build(recipe.model).init, jax.random.key(0))
    has, wants = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}
        for leaves in map(jax.tree.leaves_with_path, (params, wanted))
    )
    for path in sorted(has.keys() | wants.keys()):
        if has.get(path) != wants.get(path):
            raise ConfigError(f"weights: {path} has shape {has.get(path)}, the model's has {wants.get(path)}")
