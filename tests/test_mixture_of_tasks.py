"""Mixtures of tasks and hints about lists: proportions follow the step, and every hint is what brute force says."""

import itertools
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import TrainConfig
from lm.data.mixture import Phase
from lm.strict import ConfigError
from tasks.arithmetic.sorting import ASKS, END, FIRST, Sorting, sorting_hinted_cpu
from tasks.mixture import TaskMixture

SORT = Sorting(values=9, longest_train=4, longest_test=6)
COUNT = replace(SORT, ask="count")


def answer(ask, numbers, place):
    """Return what a person would write."""
    number, others = numbers[place], set(numbers)
    return {
        "sort": sorted(numbers),
        "successor": [min(n for n in others if n > number)] if max(others) > number else [],
        "predecessor": [max(n for n in others if n < number)] if min(others) < number else [],
        "count": [n for n in numbers if n == number],
        "fill": [sorted(numbers)[place]],
        "parity": [sum(n < number for n in numbers) % 2],
    }[ask]


@pytest.mark.parametrize("ask", ASKS)
def test_a_hint_is_what_brute_force_says_of_every_short_list(ask):
    task = Sorting(values=3, longest_train=4, longest_test=4, ask=ask)
    write = jax.jit(jax.vmap(task.write))
    for size in (2, 3, 4):
        lists = [(each, place) for each in itertools.product(range(3), repeat=size) for place in range(size)]
        rows = np.array([[*each, *[0] * (4 - size)] for each, _ in lists])
        batch = write(rows, np.full(len(rows), size), np.array([place for _, place in lists]))
        for (each, place), targets, weights in zip(lists, batch.targets, batch.weights, strict=True):
            expected = [FIRST + n for n in answer(ask, each, place)] + [END]
            assert np.asarray(targets)[np.asarray(weights) > 0].tolist() == expected


def test_the_weights_of_a_mixture_follow_the_step_and_its_batches_follow_the_weights():
    phases = (Phase(1.0, (("count", 1.0),)), Phase(3.0, (("sort", 3.0), ("count", 1.0))))
    task = TaskMixture((("sort", SORT), ("count", COUNT)), phases)
    recipe = replace(sorting_hinted_cpu(), task=task, train=TrainConfig(steps=8, batch_size=400))
    draw = jax.jit(task.source(recipe, None).draw)
    counts = [Counter(draw(jax.random.key(0), step).info["part"].tolist()) for step in range(8)]
    assert [count[0] for count in counts[:2]] == [0, 0]
    assert all(abs(count[0] - 300) < 4 * (400 * 3 / 16) ** 0.5 for count in counts[2:])
    batch = draw(jax.random.key(0), 5)
    marks = [4 + ASKS.index(name) for name in ("sort", "count")]
    for row, part in zip(batch.inputs, batch.info["part"], strict=True):
        assert marks[part] in row and marks[1 - part] not in row


def test_a_curriculum_over_sizes_is_a_mixture_of_ranges():
    short, long = replace(SORT, longest_train=2), SORT
    parts = (("long", long), ("short", short))
    task = TaskMixture(parts, (Phase(1.0, (("short", 1.0),)), Phase(1.0, (("long", 1.0),))))
    early, late = (task.mix(jax.random.key(0), task.weights(step, 10), 64) for step in (0, 9))
    assert early.inputs.shape == late.inputs.shape == (64, long.train_length)
    assert (jnp.sum(early.inputs > 0, axis=1) <= 6).all() and (jnp.sum(late.inputs > 0, axis=1) > 6).any()


@pytest.mark.parametrize(
    ("parts", "phases", "message"),
    [
        ((), (), "different names"),
        ((("a", SORT), ("a", SORT)), (), "different names"),
        ((("a", SORT), ("b", replace(SORT, values=8))), (), "share a vocabulary, got a 19, b 18"),
        ((("sort", SORT),), (Phase(1.0, (("sorts", 1.0),)),), "weigh 'sorts'; did you mean sort"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_one_line(parts, phases, message):
    with pytest.raises(ConfigError, match=message):
        TaskMixture(parts, phases)
