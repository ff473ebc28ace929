"""Curricula: passes over samples with few minus signs, and phases over any field of any task."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import DRAWN

from lm.config import TrainConfig
from lm.exits import UserError
from lm.strict import ConfigError, override
from scripts.cli import in_phases
from tasks.arithmetic.addition import addition_cpu
from tasks.arithmetic.sorting import sorting_cpu
from tasks.formal.boolean.degree_curriculum import (
    batches_of_pass,
    climb,
    degree_curriculum_cpu,
    pictures,
    split,
)
from tasks.formal.boolean.unseen import Unseen
from tasks.mixture import curriculum

SMALL = Unseen("parity", bits=6)


def test_samples_and_tests_are_the_cube():
    train, test = split(SMALL, 40, jax.random.key(0))
    numbers = [np.asarray(part.inputs) @ 2 ** np.arange(6) for part in (train, test)]
    assert [len(each) for each in numbers] == [40, 24] and sorted(np.concatenate(numbers)) == list(range(64))
    values = np.prod(1 - 2 * np.asarray(train.inputs), axis=1)
    np.testing.assert_array_equal(train.info["values"][:, 0], values)


def test_the_samples_of_a_pass_are_nested_and_the_last_ones_are_all():
    train, _ = split(SMALL, 40, jax.random.key(0))
    one_pass = jax.jit(lambda most, key: batches_of_pass(train, most, key, 8))
    before, orders = set(), []
    for most in range(7):
        batches, count = one_pass(most, jax.random.key(most))
        asked = np.asarray(batches.weights[..., 0]) > 0
        rows = np.asarray(batches.inputs)[asked]
        seen = {tuple(row) for row in rows.tolist()}
        assert before <= seen and len(seen) == len(rows) == sum(np.asarray(train.inputs).sum(axis=1) <= most)
        assert count == -(-len(rows) // 8) and not asked[count:].any()
        before = seen
        orders.append(rows)
    assert one_pass._cache_size() == 1 and len(before) == 40
    again = np.asarray(one_pass(6, jax.random.key(9))[0].inputs).reshape(40, 6)
    assert (again != orders[-1]).any()


def test_a_member_stops_as_it_succeeds_or_at_the_limit_and_is_the_same_in_any_company():
    recipe = override(degree_curriculum_cpu(), {"task.bits": 9, "model.inputs": 9, "model.width": 128})
    recipe = override(recipe, {"optimizer.learning_rate": 1e-3, "train.steps": 2000, "train.batch_size": 32})
    (early, last), (enough, little) = climb(recipe, 448, 100, (7, 7), (3, 9))
    assert early < 2000 <= last < 2000 + 448 // 32 and enough >= 0.95 > little
    steps_P, accuracies_P = climb(recipe, 448, 100, (7,), (3,))
    assert (steps_P[0], accuracies_P[0]) == (early, enough)
    with pytest.raises(ConfigError, match="multiple of 32 below 512, got 250"):
        climb(recipe, 250, 100, (7,), (8,))


FIELDS = {
    "flip_flop": ("length", (16, 32)),
    "addition": ("longest_train", (2, 3, 4)),
    "sorting": ("longest_train", (2, 5)),
    "automaton": ("length", (10, 20)),
    "brackets": ("length", (6, 12)),
    "unseen points": ("most", (2, 4, 6)),
    "sparse parity": ("degree", (1, 3)),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_curriculum_draws_each_phase_as_the_task_with_that_value_would(name):
    field, values = FIELDS[name]
    steps = 4 * len(values)
    recipe = replace(sorting_cpu(), task=DRAWN[name], train=TrainConfig(steps=steps, batch_size=16))
    recipe = in_phases(recipe, (field, *map(str, values)))
    draw = jax.jit(recipe.task.source(recipe, None).draw)
    for step in range(steps):
        batch, value = draw(jax.random.key(3), step), values[step // 4]
        part = [getattr(part, field) for _, part in recipe.task.parts].index(value)
        assert (batch.info["part"] == part).all()
        assert batch.inputs.shape[1] == recipe.task.train_length
    longest = replace(DRAWN[name], **{field: values[-1]})
    assert recipe.task.main == longest and recipe.task.test_sizes == longest.test_sizes


def test_phases_over_minus_signs_hold_points_with_few_and_then_all():
    task = curriculum(SMALL, "most", (2, 4, 6), shares=(1, 1, 2))
    most = []
    for step in range(8):
        batch = task.mix(jax.random.key(step), task.weights(step, 8), 400)
        most.append(int(jnp.sum(batch.inputs, axis=1).max()))
        np.testing.assert_array_equal(batch.info["values"][:, 0], jnp.prod(1 - 2 * batch.inputs, axis=1))
    assert most == [2, 2, 4, 4, 6, 6, 6, 6]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("longest_trian", "5", "10"), "must be one of .*; did you mean longest_train"),
        (("longest_train", "5"), r"different values of longest_train, got \[5\]"),
        (("longest_train", "5", "5"), "different values"),
        (("longest_train", "five", "6"), "whole numbers, got longest_train five 6"),
        (("scheme", "5", "6"), "5 is not of type str"),
    ],
)
def test_a_curriculum_that_makes_no_sense_is_one_line(words, message):
    with pytest.raises((ConfigError, UserError), match=message):
        in_phases(addition_cpu(), words)
    with pytest.raises(ConfigError, match="as many shares, got 1"):
        curriculum(SMALL, "most", (2, 4), shares=(1,))


def test_a_picture_has_a_point_for_every_number_of_samples():
    figures = {f"steps/{arm}/{count}": [count, 1, 2] for arm in ("curriculum", "plain") for count in (128, 64)}
    (picture,) = pictures(figures)
    assert [(each.name, each.x) for each in picture.series] == [("curriculum", (64, 128)), ("plain", (64, 128))]
    assert picture.series[0].y == (2, 2) and picture.series[0].high == (64, 128)
