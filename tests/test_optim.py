"""Schedules, optimizers, objectives, averages and intervals against closed forms."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import (
    KINDS,
    OBJECTIVES,
    BlockScales,
    ConsistencyLoss,
    ObjectiveConfig,
    OptimizerConfig,
    Recipe,
    RNNConfig,
    SharpenedLoss,
    TransformerConfig,
)
from lm.evaluate import rate
from lm.losses import make_objective, next_token, spread
from lm.models import build
from lm.observe import observe
from lm.optim import make_optimizer, make_schedule, match_paths
from lm.strict import ConfigError, from_json, override, to_json
from lm.transforms import ema, make_transform, wrap
from lm.types import Example, Outputs, Rate

STEPS = 100


@pytest.mark.parametrize(
    ("schedule", "at"),
    [
        ("constant", {0: 0.1, 9: 1.0, 99: 1.0}),
        ("linear", {0: 0.1, 4: 0.5, 9: 1.0, 55: 0.55, 100: 0.1}),
        ("cosine", {0: 0.1, 10: 1.0, 55: 0.55, 100: 0.1}),
        ("wsd", {0: 0.1, 10: 1.0, 79: 1.0, 90: 0.55, 100: 0.1}),
    ],
)
def test_schedule_passes_through_its_closed_form(schedule, at):
    config = OptimizerConfig(schedule=schedule, learning_rate=2.0, warmup_steps=10)
    rates = make_schedule(config, STEPS)
    for step, share in at.items():
        np.testing.assert_allclose(rates(step), 2.0 * share, rtol=1e-6, err_msg=f"{schedule} at {step}")


def test_schedule_accepts_a_traced_peak():
    def at(peak):
        return make_schedule(OptimizerConfig(learning_rate=peak, warmup_steps=5), STEPS)(jnp.int32(40))

    np.testing.assert_allclose(jax.jit(at)(0.3), at(0.3), rtol=1e-6)


PARAMS = {"dense": {"kernel": jnp.array([[3.0, -4.0]]), "bias": jnp.array([1.0])}}


def test_adamw_first_step_is_sign_plus_decay_on_kernels_alone():
    config = OptimizerConfig(learning_rate=0.1, schedule="constant", weight_decay=0.5, clip=1.0, epsilon=0.0)
    optimizer = make_optimizer(config, make_schedule(config, STEPS))
    gradient = jax.tree.map(lambda p: 10.0 * p, PARAMS)
    update, _ = optimizer.update(gradient, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(update["dense"]["kernel"], [[-0.1 - 0.15, 0.1 + 0.2]], rtol=1e-5)
    np.testing.assert_allclose(update["dense"]["bias"], [-0.1], rtol=1e-5)


def test_sgd_clips_the_global_norm():
    config = OptimizerConfig(name="sgd", learning_rate=1.0, schedule="constant", beta1=0.0, clip=1.0)
    optimizer = make_optimizer(config, make_schedule(config, STEPS))
    update, _ = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    norm = np.sqrt(26.0)
    np.testing.assert_allclose(update["dense"]["kernel"], [[-3.0 / norm, 4.0 / norm]], rtol=1e-6)


def test_match_paths_reads_slashed_paths():
    assert match_paths(PARAMS, r"^dense/kernel$") == {"dense": {"kernel": True, "bias": False}}


def test_next_token_is_the_weighted_mean_of_closed_form_losses():
    logits_BLV = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6]]]))
    batch = Example(
        inputs=jnp.zeros((1, 3), jnp.int32),
        targets=jnp.array([[0, 1, 2]]),
        weights=jnp.array([[1.0, 3.0, 0.0]]),
        positions=jnp.zeros((1, 3), jnp.int32),
        info={},
    )
    loss, metrics = next_token(lambda params, batch, key: Outputs(logits_BLV), {}, batch, None)
    np.testing.assert_allclose(loss, (np.log(2) + 3 * np.log(10)) / 4, rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"].value, 1 / 4, rtol=1e-6)


MODEL = TransformerConfig(vocabulary=5, depth=2, width=8, heads=2)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_chosen_by_its_bare_name_its_text_or_its_configuration(name):
    from scripts.choices import choose, show

    config = OBJECTIVES[name]()
    recipe = Recipe(task=None, model=MODEL, objective=config)
    assert Recipe(task=None, model=MODEL, objective=name) == recipe == from_json(to_json(recipe), KINDS)
    choices = ObjectiveConfig.__args__
    assert choose(name, choices) == config == choose(show(config), choices)
    assert callable(make_objective(config, MODEL))


def test_numbers_of_an_objective_are_set_and_an_older_file_is_read():
    from scripts.choices import choose

    assert choose("consistency:weight=0.5", ObjectiveConfig.__args__) == ConsistencyLoss(0.5)
    recipe = Recipe(task=None, model=MODEL, objective=SharpenedLoss())
    assert override(recipe, {"objective.strength": 3.0}).objective == SharpenedLoss(3.0)
    older = json.loads(to_json(recipe)) | {"objective": "consistency"}
    assert from_json(json.dumps(older), KINDS).objective == ConsistencyLoss()
    with pytest.raises(ConfigError, match="did you mean next_token"):
        Recipe(task=None, model=MODEL, objective="next_tokn")
    with pytest.raises(ConfigError, match="sharpened needs the attention of a TransformerConfig, got RNNConfig"):
        make_objective(SharpenedLoss(), RNNConfig())


@pytest.mark.parametrize(
    ("measure", "even", "sharp"), [("entropy", np.log(4), 0), ("l2", -0.5, -1), ("linf", -0.25, -1)]
)
def test_spread_is_most_where_attention_is_even_and_has_a_gradient_where_it_is_sharp(measure, even, sharp):
    rows = jnp.array([[0.25] * 4, [0.0, 1.0, 0.0, 0.0]])
    np.testing.assert_allclose(spread(rows, measure), [even, sharp], atol=1e-6)
    gradient = jax.grad(lambda scores: spread(jax.nn.softmax(scores), measure).sum())
    assert np.isfinite(gradient(jnp.array([[0.0, 1.0, -1e30, -1e30]]))).all()


def test_sharpening_adds_the_mean_spread_of_the_attention_that_is_observed():
    batch = Example(
        inputs=jnp.array([[0, 1, 2, 3, 4], [4, 4, 0, 1, 0]]),
        targets=jnp.array([[1, 2, 3, 4, 0], [4, 0, 1, 0, 2]]),
        weights=jnp.array([[1.0, 1, 0, 1, 1]] * 2),
        positions=jnp.tile(jnp.arange(5), (2, 1)),
        info={},
    )
    net = build(MODEL)
    wrapped = wrap(net, make_transform(BlockScales(), MODEL))
    params = wrapped.init(jax.random.key(0))
    plain, _ = next_token(wrapped.apply, params, batch, None)
    assert wrapped.apply(params, batch).attention is None
    sharpened = make_objective(SharpenedLoss(strength=0.5, measure="l2"), MODEL)
    loss, metrics = jax.jit(lambda params: sharpened(wrapped.apply, params, batch, None))(params)
    inner = make_transform(BlockScales(), MODEL).settle(params)
    seen = observe(MODEL, inner, batch, "attention/weights$")["blocks/attention/weights"]
    assert seen.shape == (2, 2, 2, 5, 5)
    added = -0.5 * jnp.linalg.norm(seen, axis=-1).mean()
    np.testing.assert_allclose(loss, plain + added, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"].value, loss, rtol=1e-6)


def test_ema_forgets_the_start_then_keeps_its_decay():
    average = ema(0.9)
    first = average.update({"w": jnp.array(100.0)}, {"w": jnp.array(1.0)}, jnp.int32(0))
    np.testing.assert_allclose(first["w"], 0.1 * 100 + 0.9 * 1, rtol=1e-6)
    late = average.update({"w": jnp.array(2.0)}, {"w": jnp.array(1.0)}, jnp.int32(10_000))
    np.testing.assert_allclose(late["w"], 1.9, rtol=1e-6)


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    # Wilson intervals as printed by standard statistics packages.
    [(0, 100, 0.0, 0.036994), (100, 100, 0.963006, 1.0), (50, 100, 0.403832, 0.596168), (8, 10, 0.490162, 0.943318)],
)
def test_rate_is_the_wilson_interval(hits, trials, low, high):
    found = rate(hits, trials)
    np.testing.assert_allclose([found.low, found.high], [low, high], atol=2e-6)


def test_rate_of_nothing_knows_nothing():
    assert rate(0, 0) == Rate(0.0, 0.0, 1.0, 0)
