"""Laws of coupled position ids: checks 1 to 5 of the position coupling sheet, for every task, scheme and size."""

import functools
import itertools
import math
import re
from dataclasses import replace

import jax
import numpy as np
import pytest

from lm.config import Learned
from lm.models import build
from lm.strict import ConfigError
from tasks.arithmetic.addition import ZERO, Addition, addition_cpu, addition_three_cpu
from tasks.arithmetic.coupled import ARMS, SCHEMES, arm
from tasks.arithmetic.multiplication import Multiplication, multiplication_cpu

COUPLED = {
    "multiplication in base 3": Multiplication(longest_train=4, longest_test=5, max_position=12, base=3),
    "multiplication": Multiplication(longest_train=4, longest_test=5, max_position=12),
    **{f"{m} operands": Addition(longest_train=4, longest_test=5, max_position=12, operands=m) for m in (2, 3, 4)},
}
RECIPES = {"addition": addition_cpu, "sums of three": addition_three_cpu, "multiplication": multiplication_cpu}
each_task = pytest.mark.parametrize("task", COUPLED.values(), ids=COUPLED.keys())


def in_scheme(task, scheme):
    return replace(task, scheme=scheme, max_position=40 if scheme == "random_start" else task.max_position)


@functools.cache
def drawn(task, count=200):
    """Return training examples, then test examples of every size, each with (tokens, ids, asked, size)."""
    keys, sizes = jax.random.split(jax.random.key(1), count), np.arange(count) % task.longest_train + 1
    examples = []
    for sample in (task.sample, task.sample_test):
        batch = jax.device_get(jax.jit(jax.vmap(sample))(keys, sizes))
        for row in range(count):
            one = jax.tree.map(lambda x, row=row: x[row], batch)
            tokens = np.append(one.inputs, one.targets[-1])
            examples.append((tokens, np.append(one.positions, 0), np.append(0, one.weights) > 0, sizes[row]))
    return examples


def text_of(task, tokens):
    return task.spell(tokens[tokens > 0])


def roles(text):
    """Return what each token of a text stands for: a sign or an end as it is, a digit by its significance."""
    question, answer = text[1:-1].split("=")
    found = ["$"]
    for number in re.split(r"(\D)", question):
        found += [number] if not number.isdigit() else list(range(len(number)))[::-1]
    return [*found, "=", *range(len(answer)), "$"]


@each_task
def test_texts_say_what_integers_say_in_every_scheme(task):
    for scheme in SCHEMES:
        for tokens, _, asked, size in drawn(in_scheme(task, scheme)):
            hinted = text_of(in_scheme(task, scheme), tokens)
            text = re.sub("<.*?>", "", hinted)
            question, answer = re.fullmatch(r"\$(.*)=(\d*)\$", text).groups()
            numbers = re.split(r"\D", question)
            if "*" in question:
                values = (int(number, task.base) for number in numbers)
                assert int(answer[::-1], task.base) == math.prod(values) and [*map(len, numbers)] == [size, 2]
                assert len(answer) == size + 2
            else:
                assert int(answer[::-1]) == sum(map(int, numbers)) and [*map(len, numbers)] == task.operands * [size]
                assert len(answer) == size + 1
            assert text_of(in_scheme(task, scheme), tokens[asked]) == hinted.split("=")[1]
            assert len(text) == task.length(size)


@each_task
def test_tokens_of_one_role_and_only_they_share_an_id(task):
    highest = 0
    for tokens, ids, _, size in drawn(task):
        found = roles(text_of(task, tokens))
        named = dict(zip(found, ids.tolist(), strict=False))
        assert [named[role] for role in found] == ids[: len(found)].tolist()
        assert named.pop("$") == 0 and not ids[len(found) :].any()
        signs = {named.pop(sign) for sign in "+*=" if sign in named}
        assert len(signs) == 1 and len({*named.values()} | signs) == len(named) + 1
        named["="] = signs.pop()
        assert min(named.values()) >= 1 and max(named.values()) - min(named.values()) == task.couples(size) - 1
        highest = max(highest, *named.values())
    assert highest == task.max_position  # the largest start is drawn, and none beyond it


@each_task
def test_ids_are_a_function_of_size_and_start(task):
    found = {}
    for _, ids, _, size in drawn(task):
        shape = np.where(ids > 0, ids - ids[ids > 0].min(), -1)[: task.length(size)].tolist()
        assert found.setdefault(int(size), shape) == shape
    for scheme in ("plain", "random_start", "hinted"):
        other, first = in_scheme(task, scheme), set()
        for tokens, ids, _, _ in drawn(other):
            last = np.count_nonzero(tokens) - 1
            assert np.array_equal(ids[:last], ids[0] + np.arange(last)) and not ids[last:].any()
            assert scheme != "random_start" or ids.max() <= other.max_position
            first.add(int(ids[0]))
        assert first == {0} if scheme != "random_start" else len(first) > 10 and min(first) == 1


@each_task
def test_index_hints_write_the_coupled_ids_into_the_text(task):
    hinted = in_scheme(task, "hinted")
    for (tokens, ids, asked, _), (longer, _, asked_too, _) in zip(drawn(task), drawn(hinted), strict=True):
        expected = [
            (token, was_asked)
            for token, place, was_asked in zip(tokens, ids, asked, strict=True)
            for token in ([len(task.spellings) - 1 + place] if place else []) + [token]
        ]
        found = list(zip(longer, asked_too, strict=True))
        assert found[: len(expected)] == expected[: len(found)] and not longer[len(expected) :].any()


def test_every_pair_of_short_numbers_adds():
    task = Addition(longest_train=3, longest_test=3)
    pairs = np.array([*itertools.product(range(200), range(200)), (999, 1), (0, 0)])
    digits = np.stack([pairs // 10**i % 10 for i in range(3)], axis=-1)
    size = np.char.str_len(pairs.max(axis=1).astype(str))
    batch = jax.jit(jax.vmap(lambda numbers, size: task.write(numbers, size, 1)))(digits, size)
    asked = np.asarray(batch.weights) > 0
    places = np.clip(np.cumsum(asked, axis=1) - 1, 0, 9)
    answer = np.asarray(batch.targets) - ZERO
    value = np.sum(np.where(asked & (answer >= 0), answer * 10**places, 0), axis=1)
    assert np.array_equal(value, pairs.sum(axis=1)) and np.array_equal(asked.sum(axis=1), size + 2)


@pytest.mark.parametrize("operands", [2, 3, 4])
def test_lengths_of_operands_are_independent_and_uniform(operands):
    task, count = Addition(longest_train=3, longest_test=3, operands=operands), 20_000
    batch = jax.jit(lambda key: task.draw(key, count))(jax.random.key(0))
    sizes, tokens = np.asarray(batch.info["size"]), np.asarray(batch.inputs)
    cube = np.arange(4) ** operands / 3**operands
    assert np.allclose(np.bincount(sizes, minlength=4)[1:] / count, np.diff(cube), atol=0.015)
    full = tokens[sizes == 3][:, 1 + 4 * np.arange(operands)] != ZERO  # three digits, where the longest has three
    assert np.allclose(full.mean(axis=0), 3 ** (operands - 1) / (3**operands - 2**operands), atol=0.02)


@pytest.mark.parametrize("name", ["coupled", *ARMS])
@pytest.mark.parametrize("make", RECIPES.values(), ids=RECIPES.keys())
def test_arms_differ_in_the_scheme_alone_and_have_a_row_for_every_id(make, name):
    recipe = make()
    changed = arm(recipe, name)
    net, task = build(changed.model), changed.task
    batch = jax.eval_shape(jax.vmap(task.sample, (0, None)), jax.random.split(jax.random.key(0), 2), 3)
    logits = jax.eval_shape(
        lambda params, batch: net.apply(params, batch).logits, jax.eval_shape(net.init, jax.random.key(0)), batch
    )
    assert logits.shape == (2, task.train_length, task.vocabulary)
    assert replace(task, scheme="coupled", max_position=recipe.task.max_position) == recipe.task
    model = replace(changed.model, positions=recipe.model.positions, vocabulary=recipe.model.vocabulary)
    assert replace(changed, task=recipe.task, model=model, name=recipe.name) == recipe
    if isinstance(changed.model.positions, Learned):
        assert changed.model.positions.rows == task.max_position + 1
    assert task.starts(task.longest_test) >= 1


def test_arms_and_operands_are_refused_by_name():
    with pytest.raises(ConfigError, match="no_positions"):
        arm(addition_cpu(), "no_position")
    with pytest.raises(ConfigError, match="task.operands must be from 2 to 4"):
        Addition(operands=5)


@pytest.mark.parametrize("operands", [2, 3])
def test_one_layer_with_coupled_ids_cannot_tell_operands_apart(operands):
    task = Addition(longest_train=4, longest_test=5, max_position=12, operands=operands)
    config = addition_cpu().model
    net = build(replace(config, vocabulary=task.vocabulary, positions=Learned(rows=13), dtype="float32"))
    params = net.init(jax.random.key(0))
    numbers = jax.random.randint(jax.random.key(1), (operands, 4), 1, 10)
    ways = np.array([*itertools.permutations(range(operands))])
    batch = jax.vmap(lambda way: task.write(numbers[way], 4, 3))(ways)
    logits = np.asarray(jax.jit(net.apply)(params, batch).logits)
    asked = np.asarray(batch.weights) > 0
    given = logits[asked].reshape(len(ways), -1)
    np.testing.assert_allclose(given, np.broadcast_to(given[:1], given.shape), atol=1e-4)
    assert np.abs(logits[0] - logits[1])[~asked[0]].max() > 1e-2  # within the question it can
