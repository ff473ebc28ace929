"""Bounded brackets: the sampler, the entropy that is left, and the balance condition."""

import math
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.losses import consistency, next_token
from lm.models import build
from lm.strict import ConfigError
from tasks.formal.dyck import BRACKETS, SURE, Dyck, balanced, dyck_balanced_cpu, entropy, measure, pump, walk
from tasks.formal.dyck_balance import by_hand, closing_accuracy, variation, violation

TASK = Dyck(length=28, longest=400)


def drawn(task, count, length=None, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    if length is None:
        return jax.jit(jax.vmap(lambda key: task.sample(key, task.length)))(keys)
    return jax.jit(jax.vmap(lambda key: task.sample_test(key, length)))(keys)


def test_prefixes_match_stay_within_the_depth_and_follow_their_law():
    bits = jax.random.bits(jax.random.key(0), (300, 100, 2))
    tokens, depths = jax.vmap(lambda b: walk(b, 2, 4))(bits)
    opened = Counter()
    for row, levels in zip(np.asarray(tokens).tolist(), np.asarray(depths).tolist(), strict=True):
        assert measure(row, 2) == levels and max(levels) <= 4
        for token, level in zip(row, levels, strict=True):
            opens = token < BRACKETS + 2
            opened[level - opens, opens] += 1
    assert (0, False) not in opened and (4, True) not in opened
    for height in (1, 2, 3):
        count = opened[height, True] + opened[height, False]
        assert opened[height, True] == pytest.approx(count / 2, abs=4 * math.sqrt(count) / 2)
    # The heights of a walk that is long settle at 1/8, 1/4, 1/4, 1/4, 1/8.
    late = Counter((np.asarray(depths)[:, 50:] - (np.asarray(tokens)[:, 50:] < BRACKETS + 2)).ravel().tolist())
    for height, share in enumerate((1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8)):
        assert late[height] / late.total() == pytest.approx(share, abs=0.02)


def test_strings_and_entropy_are_counted_exactly():
    assert [sum(1 for _ in balanced(pairs, 2, 4)) for pairs in (1, 2, 3, 4, 5)] == [2, 8, 40, 224, 1312]
    assert all(measure(string, 2) for string in balanced(3, 2, 4))
    assert entropy(28, 2, 4) == pytest.approx(0.8788, abs=5e-5)
    assert entropy(10_000, 2, 4) == pytest.approx(math.log(2) * (1 / 8 + 3 / 4 * 1.5), abs=1e-4)


def test_a_pumped_string_is_balanced_and_changes_nothing_that_follows():
    tokens, depths = jax.vmap(lambda key: pump(key, 2, 4))(jax.random.split(jax.random.key(1), 50))
    lengths = set()
    for row, levels in zip(np.asarray(tokens).tolist(), np.asarray(depths).tolist(), strict=True):
        assert measure(row, 2) == levels and row.count(BRACKETS) + row.count(BRACKETS + 1) == 5
        lengths.add(levels.index(max(levels)))
    assert len(lengths) >= 2  # the pair is not always on top
    batch = drawn(replace(TASK, pumped=True), 20)
    assert (batch.info["same"][:, -27:] == batch.inputs[:, 1:]).all()


def test_weights_by_hand_close_every_bracket_at_every_length_with_uniform_attention():
    config, params = by_hand(TASK)
    for length in (28, 400):
        batch = drawn(TASK, 50, length)
        logits = jax.jit(build(config).apply)(params, batch).logits
        assert closing_accuracy(TASK, logits, batch.targets, batch.info["closes"], SURE) == 1.0
    batch = drawn(TASK, 50, 400)
    assert violation(TASK, config, params) == 0.0
    spoiled = jax.tree.map(lambda x: x, params)
    spoiled["embedding"]["table"] = params["embedding"]["table"].at[TASK.outputs].mul(1.2)
    assert violation(TASK, config, spoiled) > 0.01
    logits = jax.jit(build(config).apply)(spoiled, batch).logits
    assert closing_accuracy(TASK, logits, batch.targets, batch.info["closes"], SURE) < 1.0


def test_balance_is_what_makes_predictions_equal_behind_a_balanced_string():
    config, params = by_hand(TASK)
    batch = drawn(replace(TASK, pumped=True), 20)
    loss, metrics = consistency(build(config).apply, params, batch, None, weight=0.3)
    assert metrics["change"].value < 1e-6
    random = build(config).init(jax.random.key(0))
    loss, metrics = consistency(build(config).apply, random, batch, None, weight=0.5)
    plain, _ = next_token(build(config).apply, random, batch, None)
    assert metrics["change"].value > 1e-3 and loss == pytest.approx(
        float(plain + 0.5 * metrics["change"].value), rel=1e-5
    )
    assert metrics["loss"].value == pytest.approx(float(loss), rel=1e-6)


def test_attention_maps_differ_by_their_squared_distance():
    a, b = jnp.eye(3), jnp.ones((3, 3)) / 3
    assert variation([a, b]) == pytest.approx(2.0) and variation([a, a, b]) == pytest.approx(4 / 3)


def test_impossible_brackets_are_refused():
    for wrong in ({"kinds": 0}, {"depth": 17}, {"length": 1}, {"longest": 4}, {"form": "words"}):
        with pytest.raises(ConfigError):
            Dyck(**wrong)
    with pytest.raises(ConfigError, match="model.depth of a reader must be 1"):
        build(replace(dyck_balanced_cpu().model, depth=2))
