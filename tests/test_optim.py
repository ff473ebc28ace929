"""Schedules, optimizers, objectives, averages and intervals against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import OptimizerConfig
from lm.evaluate import rate
from lm.losses import next_token
from lm.optim import make_optimizer, make_schedule, match_paths
from lm.transforms import ema
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
