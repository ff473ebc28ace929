"""Sorting with hints: kinds of mistakes, scores that grow with the length, weights by hand, permuted lists."""

from dataclasses import replace
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import KINDS, NoPositions, Randomised, Tempered, TransformerConfig
from lm.losses import next_token
from lm.models import build
from lm.models.attention import Temper
from lm.strict import ConfigError, from_json, to_json
from lm.transforms import fit_sharpness, sharpen
from scripts.choices import choose, show, union
from tasks.arithmetic import task_hinting
from tasks.arithmetic.sorting import END, FIRST, MISTAKES, Sorting
from tasks.arithmetic.sorting_construction import sorted_exactly

TASK = Sorting(values=9, longest_train=5, longest_test=5)
NET = TransformerConfig(
    vocabulary=TASK.vocabulary, depth=2, width=16, heads=2, tied=False, positions=NoPositions(), initialisation="lecun"
)
LIST = jnp.array([7, 2, 2, 5, 4])  # sorted 2 2 4 5 7


def positions(*ids):
    return jnp.array([ids])


@pytest.mark.parametrize(
    ("said", "mistake"),
    [
        ([2, 2, 4, 5, 7, "$"], None),
        ([2, 2, 4, 5, "$", 7], "early_end"),
        (["$", 2, 4, 5, 7, "$"], "early_end"),
        ([2, 4, 4, 5, 7, "$"], "wrong_count"),  # one 2 too few
        ([2, 2, 2, 5, 7, "$"], "wrong_count"),  # one 2 too many
        ([2, 2, 4, 5, 7, 7], "wrong_count"),
        ([2, 2, 5, 5, 7, "$"], "skipped"),
        ([4, 2, 4, 5, 7, "$"], "skipped"),
        ([2, 2, 3, 5, 7, "$"], "invented"),
        ([2, 2, 4, 5, 7, 8], "invented"),
        ([2, 4, "$", 3, 7, 8], "wrong_count"),  # the first mistake counts
    ],
)
def test_the_first_mistake_has_one_kind(said, mistake):
    example = TASK.write(LIST, 5)
    tokens = [END if number == "$" else FIRST + number for number in said]
    predictions = jnp.zeros_like(example.targets).at[6:].set(jnp.array(tokens))
    scores = TASK.score(predictions, example)
    assert {kind: float(scores[kind]) for kind in MISTAKES} == {kind: float(kind == mistake) for kind in MISTAKES}
    assert scores["exact_match"] == (mistake is None)


def test_the_right_numbers_in_random_order_are_right_as_often_as_chance_says():
    example = replace(TASK, longest_train=3, longest_test=3).write(jnp.array([7, 2, 4]), 3)
    orders = [[FIRST + number for number in order] + [END] for order in permutations((2, 4, 7))]
    said = jnp.zeros((6, 8), jnp.int32).at[:, 4:].set(jnp.array(orders))
    found = jax.vmap(lambda predictions: TASK.score(predictions, example))(said)
    assert found["exact_match"].mean() == pytest.approx(1 / 6)


def test_tempered_scores_are_as_they_were_at_one_length_and_grow_beyond():
    fixed = Temper(Tempered(22)).apply({}, jnp.arange(100)[None])[0, 0, :, 0]
    assert fixed[20] == pytest.approx(1) and (jnp.diff(fixed) > 0).all()
    assert fixed[98] == pytest.approx(np.log(100) / np.log(22))
    learned = Temper(Tempered()).apply({"params": {"tau": jnp.float32(0.5)}}, jnp.arange(100)[None])[0, 0, :, 0]
    np.testing.assert_allclose(learned, 1 + 0.5 * np.log(np.arange(100) + 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("tempered", "factor"), [(Tempered(9), np.log(6) / np.log(9)), (Tempered(), 1 + 0.3 * np.log(5))]
)
def test_tempered_scores_are_those_of_queries_so_much_longer(tempered, factor):
    batch = jax.tree.map(lambda x: x[None], TASK.write(LIST, 5))
    batch = batch._replace(positions=jnp.full_like(batch.positions, 4))  # five keys for every query
    plain, net = build(NET), build(replace(NET, tempered=tempered))
    params = plain.init(jax.random.key(0))
    attention, expected = params["blocks"]["attention"], sharpen(params, factor)
    if tempered.length is None:
        attention = {**attention, "temper": {"tau": jnp.full(2, 0.3)}}
    given = {**params, "blocks": {**params["blocks"], "attention": attention}}
    np.testing.assert_allclose(net.apply(given, batch).logits, plain.apply(expected, batch).logits, atol=1e-5)
    assert np.abs(plain.apply(params, batch).logits - plain.apply(expected, batch).logits).max() > 1e-4


def test_the_factor_that_is_fitted_makes_the_targets_likeliest():
    net, batch = build(NET), jax.vmap(lambda numbers: TASK.write(numbers, 5))(jnp.stack([LIST, LIST[::-1]]))
    params, factors = net.init(jax.random.key(1)), jnp.array([0.0, 1.0, 4.0, 16.0])
    losses = [float(next_token(net.apply, sharpen(params, factor), batch, None)[0]) for factor in factors]
    assert fit_sharpness(net, params, batch, factors) == factors[int(np.argmin(losses))]


def test_a_temperature_is_part_of_a_configuration_and_refused_where_it_means_nothing():
    config = replace(NET, tempered=Tempered(22))
    assert from_json(to_json(config), KINDS) == config
    for value, text in ((Tempered(22), "tempered:length=22"), (Tempered(), "tempered"), (None, "none")):
        choices = union(Tempered | None)
        assert show(value) == text and choose(text, choices) == value
    with pytest.raises(ConfigError, match="model.tempered.length must be at least 2, got 1"):
        Tempered(1)
    with pytest.raises(ConfigError, match="Randomised"):
        build(replace(NET, tempered=Tempered(), positions=Randomised()))


@pytest.mark.parametrize("depth", [1, 2])
def test_one_layer_without_positions_sees_a_set_and_two_do_not(depth):
    net = build(replace(NET, depth=depth))
    params = net.init(jax.random.key(0))
    batch = jax.vmap(lambda numbers: TASK.write(numbers, 5))(jnp.array(list(permutations(LIST.tolist()))))
    logits = jax.jit(net.apply)(params, batch).logits[:, 6:]
    spread = float(jnp.ptp(logits, axis=0).max())
    assert spread < 1e-5 if depth == 1 else spread > 1e-4


def test_weights_by_hand_sort_and_need_their_parameter_to_grow():
    assert [sorted_exactly(size, 50, longest=size) for size in (2, 10, 40)] == [1, 1, 1]
    assert sorted_exactly(100, 10, longest=10) < 1


def test_all_arms_see_as_many_sorted_lists():
    arms = task_hinting.arms()
    for recipe in arms.values():
        parts = dict(recipe.task.phases[0].weights) if hasattr(recipe.task, "phases") else {"sort": 1.0}
        assert recipe.train.batch_size * parts["sort"] / sum(parts.values()) == arms["no_hint"].train.batch_size
