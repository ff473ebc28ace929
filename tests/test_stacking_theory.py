"""Growth by stacking is accelerated descent: identities to rounding, the tables; and what the study reads off a run."""

import itertools
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import Growth
from lm.strict import ConfigError
from lm.types import Example, Source
from tasks.training.boosting import Quadratic, boost, nesterov, scaled, trained
from tasks.training.linear_residual import compose, near_identity
from tasks.training.stacking import held_out
from tasks.training.stacking_study import Timed, off_proportion, savings, schedules_off, steps_to_regain
from tasks.training.stacking_theory import theory

STAGES = 50


@pytest.fixture(scope="module")
def figures():
    return theory()


def quadratic(seed, width=12):
    rng = np.random.default_rng(seed)
    factor_DD = rng.normal(size=(width, width))
    curvature_DD = factor_DD @ factor_DD.T
    return Quadratic(curvature_DD / np.linalg.norm(curvature_DD, 2), rng.normal(size=width))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("beta", [0.0, 0.7, 1.0])
def test_an_ensemble_grown_by_scaled_copies_is_accelerated_descent(beta, seed):
    problem = quadratic(seed)
    first = np.random.default_rng(100 + seed).normal(size=len(problem.goal_D))
    grown = boost(np.add, problem.descend, scaled(beta), first)
    descended = nesterov(problem.gradient, 1.0, beta, first)
    for ours, theirs in itertools.islice(zip(grown, descended, strict=True), STAGES + 1):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_a_layer_begun_as_a_copy_extrapolates_the_linear_net(beta):
    nets, layers = [np.eye(8)], np.random.default_rng(0).normal(scale=0.05, size=(6, 8, 8))
    for layer_DD in layers:
        nets.append(compose(nets[-1], layer_DD))
        before, now = nets[-2:]
        extrapolated = now + beta * (now - before) @ np.linalg.inv(before) @ now
        np.testing.assert_allclose(compose(now, scaled(beta)(now, layer_DD)), extrapolated, rtol=0, atol=1e-10)
    product = np.linalg.multi_dot([np.eye(8) + layer_DD for layer_DD in layers[::-1]])
    np.testing.assert_allclose(nets[-1], product, rtol=0, atol=1e-10)


def test_the_step_of_a_layer_is_the_gradient_at_the_promised_rate():
    problem, rng = near_identity(10, seed=0, width=5), np.random.default_rng(1)
    net_DD, layer_DD, way_DD = np.eye(5) + rng.normal(scale=0.1, size=(3, 5, 5))
    ahead, behind = (problem.loss(compose(net_DD, layer_DD + sign * 1e-5 * way_DD)) for sign in (1, -1))
    expected = -(ahead - behind) / 2e-5 / np.linalg.norm(net_DD, 2) ** 2
    np.testing.assert_allclose(np.sum(problem.descend(net_DD, layer_DD) * way_DD), expected, rtol=1e-6)


@pytest.mark.parametrize("problem, join", [(quadratic(0), np.add), (near_identity(100, seed=0), compose)])
def test_a_trained_factor_never_begins_worse_than_the_factor_it_started_from(problem, join):
    first = np.eye(16) if join is compose else np.zeros(12)
    rng = np.random.default_rng(0)
    for beta in (0.0, 0.9, 1.0):
        for _ in range(20):
            part = rng.normal(scale=0.3, size=first.shape)
            start = trained(beta, problem.descend)(first, part)
            assert problem.loss(join(first, start)) <= problem.loss(join(first, beta * part)) + 1e-12


# (figure, lowest, highest)
BARS = [
    ("stages_off_the_table", 0, 0),
    ("zero_over_best_100", 5, np.inf),
    ("zero_over_best_1000", 15, np.inf),
    ("slope_zero", 0.70, 1.00),
    ("slope_best", 0.30, 0.54),
    ("trained_over_best", 0, 1),
    ("net_factor_off_the_table", 1, 1.5),  # the table has one digit
    ("net_zero_over_stacked", 10, np.inf),
    ("net_plain_over_zero", 1, np.inf),
    ("net_random_over_zero", 10, np.inf),
    ("net_trained_over_scaled", 0, 1),
]


@pytest.mark.parametrize("figure, lowest, highest", BARS)
def test_the_tables_stand(figures, figure, lowest, highest):
    assert lowest <= figures[figure] <= highest


def test_a_loss_is_regained_when_its_mean_over_six_steps_is():
    # The loss falls by 0.01 a step and jumps by 0.055 at each growth; looks are two steps apart.
    looks = [(step, 1 - 0.01 * step + 0.055 * (step > 20) + 0.055 * (step > 60)) for step in range(0, 101, 2)]
    assert steps_to_regain(looks, [20, 60]) == 6
    assert steps_to_regain([(step, 1.0 * step) for step, _ in looks], [20]) == 24, "not within the looks"


def test_batches_held_out_of_a_corpus_are_those_that_training_does_not_reach():
    def at(step):
        return Example(jnp.full((4, 2), step), jnp.zeros((4, 2)), jnp.ones((4, 2)), jnp.zeros((4, 2)), {})

    source = Source(draw=None, at=at, evaluate=None, facts={"windows": 83})
    run = SimpleNamespace(source=source, batch=at(0))
    assert held_out(run, steps=15, count=5).inputs[:, 0].tolist() == [i for i in range(15, 20) for _ in range(4)]
    with pytest.raises(ConfigError, match="train.steps 16 leave none of the corpus unseen; at most 15 do"):
        held_out(run, steps=16, count=5)


def test_seconds_follow_the_stages():
    growth = Growth((1, 2, 3))
    times = {depth: Timed(None, 3.0, depth / 10) for depth in growth.depths}
    assert off_proportion(times, growth.depths) == pytest.approx(0.0)
    assert savings(times, growth, 60, start=False) == pytest.approx(18 / 14)
    assert savings(times, growth, 60, start=True) == pytest.approx((18 + 3) / (14 + 9))
    assert off_proportion(times | {1: Timed(None, 3.0, 0.2)}, growth.depths) == pytest.approx(1.0)
    assert schedules_off() < 1e-12
