"""Configurations: exact round trip, and one clear sentence for every mistake."""

import dataclasses
import json

import pytest

from lm.config import KINDS, Learned, MLPConfig, Randomised, Recipe, RNNConfig, TrainConfig, TransformerConfig
from lm.strict import ConfigError, differences, flatten, from_json, override, renewed, to_json

RECIPE = Recipe(task=None, model=TransformerConfig(positions=Randomised(inner=Learned(rows=64))))


@pytest.mark.parametrize("model", [TransformerConfig(depth=3), RNNConfig(cell="gru"), MLPConfig(vocabulary=None)])
def test_json_round_trip_is_exact(model):
    recipe = dataclasses.replace(RECIPE, model=model, train=TrainConfig(ema=0.99, evaluate_every=10))
    assert from_json(to_json(recipe), KINDS) == recipe


def test_override_replaces_one_leaf_and_nothing_else():
    changed = override(RECIPE, {"model.positions.inner.rows": 7, "train.steps": 3})
    assert {d.path: d.new for d in differences(to_json(RECIPE), to_json(changed))} == {
        "model.positions.inner.rows": 7,
        "train.steps": 3,
    }
    assert flatten(changed)["model.positions.inner.rows"] == 7


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("model.dpeth", 1, "did you mean depth"),
        ("modle.depth", 1, "did you mean model"),
        ("model.depth.more", 1, "model.depth has no fields"),
        ("train.steps", 0, "train.steps must be positive, got 0"),
        ("train.steps", float("nan"), "train.steps must be positive"),
        ("train.accumulate", 7, "not a multiple of train.accumulate 7"),
        ("optimizer.schedule", "cosin", "did you mean cosine"),
        ("optimizer.learning_rate", -1.0, "optimizer.learning_rate must be positive"),
    ],
)
def test_override_mistakes_are_one_sentence(path, value, said):
    with pytest.raises(ConfigError, match=said) as error:
        override(RECIPE, {path: value})
    assert "\n" not in str(error.value)


def test_an_old_configuration_differs_by_nothing_that_came_later():
    old = json.loads(to_json(RECIPE)) | {"task": {"kind": "Copy", "longest": 20}}
    del old["model"]["attention"], old["optimizer"], old["growth"]
    old["model"] |= {"remat": False, "depth": 3}
    assert [(d.path, d.old, d.new) for d in differences(renewed(json.dumps(old), KINDS), to_json(RECIPE))] == [
        ("model.depth", 3, 2),
        ("task.kind", "Copy", None),
        ("task.longest", 20, None),
    ]


def edited(**changes):
    data = json.loads(to_json(RECIPE))
    data["train"] |= changes
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (edited(stepz=3), "did you mean steps"),
        (edited(steps="3"), "'3' is not of type int"),
        (edited(steps=True), "True is not of type int"),
        (edited(kind="TranConfig"), "did you mean TrainConfig"),
        (edited(ema=float("nan")), "NaN is not a number"),
        ('{"kind": "Recipe", "kind": "Recipe"}', "'kind' stands twice"),
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('\ufeff{"kind": "Recipe"}', "not valid JSON"),
        ("{}", "unknown kind None"),
    ],
)
def test_bad_json_is_one_sentence(text, said):
    with pytest.raises(ConfigError, match=said):
        from_json(text, KINDS)
