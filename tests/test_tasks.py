"""Laws of every task that draws its examples, and the exact properties that the papers' sheets name."""

import doctest
import functools
import itertools
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import DRAWN

from lm.config import Learned, ResNetConfig
from lm.exits import UserError
from lm.models import build
from lm.strict import ConfigError, from_json, to_json
from tasks.arithmetic.addition import Addition
from tasks.arithmetic.aggregates import Aggregates
from tasks.arithmetic.sorting import FIRST, Sorting
from tasks.build import add_digits, below, below_large, concatenate, latest, numeral
from tasks.formal.boolean.functions import BooleanFunctions
from tasks.formal.flip_flop.language import IGNORE, READ, WRITE, FlipFlop
from tasks.formal.flip_flop.study import all_strings
from tasks.formal.groups.grokking import by_hand, character, explained
from tasks.formal.groups.modular_arithmetic import OPERATIONS, ModularArithmetic, table
from tasks.formal.parity.sparse_parity import SparseParity
from tasks.registry import EXPERIMENTS, KINDS, RECIPES, TASKS
from tasks.task import Task
from tasks.vision.augment import Augment
from tasks.vision.digits import Digits
from tasks.vision.shapes import Shapes
from tasks.vision.stored import Cifar

each_task = pytest.mark.parametrize("task", DRAWN.values(), ids=DRAWN.keys())


def assert_same(a, b):
    """Tokens and the like are equal; of numbers the last bits differ where a compiler joins a product and a sum."""

    def same(x, y):
        if np.asarray(x).dtype == "float32":
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(x, y)

    jax.tree.map(same, a, b)


def ways_to_draw(task):
    """Yield (sample, smallest and largest size, length) of training and of tests."""
    yield task.sample, task.train_sizes, task.train_length
    yield task.sample_test, (min(task.test_sizes), max(task.test_sizes)), task.max_length


@functools.cache
def draws(task, count=16):
    """Return a batch of training examples and one of test examples, of sizes from the smallest to the largest."""
    keys = jax.random.split(jax.random.key(5), count)
    sizes = [np.linspace(low, high, count).round().astype(int) for _, (low, high), _ in ways_to_draw(task)]
    return [jax.jit(jax.vmap(f))(keys, n) for (f, _, _), n in zip(ways_to_draw(task), sizes, strict=True)]


def reads_numbers(task):
    return draws(task)[0].inputs.dtype == "float32"


def answers_numbers(task):
    return draws(task)[0].targets.dtype == "float32"


def test_every_drawing_task_stands_in_the_table():
    assert {type(task) for task in DRAWN.values()} == {t for t in TASKS.values() if t.sample is not Task.sample}


@each_task
def test_samples_are_pure_and_any_size_runs_in_one_program(task):
    keys = jax.random.split(jax.random.key(5), 16)
    for batch, (sample, (low, high), length) in zip(draws(task), ways_to_draw(task), strict=True):
        jitted = jax.jit(sample)
        for row, size in ((0, low), (-1, high), (0, low)):
            example = jitted(keys[row], size)
            assert_same(example, jax.tree.map(lambda x, row=row: x[row], batch))
        others = np.stack([jitted(key, high).inputs for key in keys])
        assert jitted._cache_size() == 1 and len(np.unique(others, axis=0)) > 1
        numbers = reads_numbers(task)
        assert example.positions.shape[0] == length and example.positions.ndim <= 2
        assert example.inputs.ndim > 1 if numbers else example.inputs.shape == (length,)
        assert example.targets.shape == example.weights.shape
        assert example.targets.dtype == ("float32" if answers_numbers(task) else "int32")
        assert example.weights.dtype == "float32"
        assert example.inputs.dtype == ("float32" if numbers else "int32")
    assert_same(example, sample(keys[0], low))


@each_task
def test_sizes_and_tokens_keep_their_limits(task):
    low, high = task.train_sizes
    sizes = task.draw_sizes(jax.random.key(0), 500)
    assert min(task.test_sizes) <= high <= max(task.test_sizes) and task.train_length <= task.max_length
    assert (sizes.min(), sizes.max()) == (low, high)
    for batch in draws(task):
        for tokens in (batch.inputs, batch.targets):
            assert tokens.dtype == "float32" or tokens.min() >= 0 and tokens.max() < task.vocabulary
        assert np.all(np.isin(batch.weights, (0, 1))) and np.all(batch.weights.sum(axis=1) > 0)


@each_task
def test_the_right_answer_scores_best_and_a_wrong_one_worse(task):
    metric, best = ("squared_error", 0) if answers_numbers(task) else ("exact_match", 1)
    for batch in draws(task):
        score = jax.jit(lambda predictions_BL, batch=batch: jax.vmap(task.score)(predictions_BL, batch)[metric])
        targets, asked = np.array(batch.targets), np.array(batch.weights) > 0
        other = targets + 1 if answers_numbers(task) else (targets + 1) % task.vocabulary
        last = np.arange(asked.shape[1]) == np.max(np.where(asked, np.arange(asked.shape[1]), 0), axis=1)[:, None]
        assert np.all(score(targets) == best)
        assert np.all(score(np.where(asked, targets, other)) == best)
        wrong = score(np.where(last, other, targets))
        assert np.all(wrong > 0 if answers_numbers(task) else wrong == 0)


@each_task
def test_examples_in_the_docstring_are_real(task):
    failed, tried = doctest.testmod(sys.modules[type(task).__module__])
    assert tried > 0 and failed == 0


@each_task
def test_what_is_spelt_can_be_read(task):
    example = jax.tree.map(lambda x: np.asarray(x)[0], draws(task)[0])
    assert task.render(example)
    if reads_numbers(task):
        with pytest.raises(UserError, match="cannot be given as text"):
            task.read(task.spell(example.targets))
    else:
        assert task.read(task.spell(example.inputs)) == example.inputs.tolist()


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_fit_their_task_and_survive_json(name):
    recipe = RECIPES[name]()
    assert recipe.name == name and recipe == from_json(to_json(recipe), KINDS)
    assert f"scripts/train.py {name}\n" in RECIPES[name].__doc__
    net, task, model = build(recipe.model), recipe.task, recipe.model
    if type(task) in map(type, DRAWN.values()):
        assert (model.classes if isinstance(model, ResNetConfig) else model.vocabulary) == task.vocabulary
        params = jax.eval_shape(net.init, jax.random.key(0))
        for sample in (task.sample, task.sample_test):
            batch = jax.eval_shape(jax.vmap(sample, (0, None)), jax.random.split(jax.random.key(0), 2), 8)
            logits = jax.eval_shape(lambda params, batch: net.apply(params, batch).logits, params, batch)
            assert logits.shape == (*batch.targets.shape, task.vocabulary)
        if isinstance(getattr(model, "positions", None), Learned):
            longest = jax.jit(task.sample_test)(jax.random.key(0), max(task.test_sizes))
            assert longest.positions.max() < model.positions.rows


def test_experiments_claim_one_bound_each():
    for name, experiment in EXPERIMENTS.items():
        assert experiment.name == name and experiment.claims and set(experiment.seeds) == {"cpu", "full"}
        for claim in experiment.claims:
            assert (claim.at_least is None) != (claim.at_most is None)
            assert claim.rule in ("median", "best", "worst", "mean") and claim.scale in ("cpu", "full")


@pytest.mark.parametrize(
    "make, field",
    [
        (lambda: FlipFlop(length=7), "task.length"),
        (lambda: FlipFlop(ignore=(80, 101)), "task.ignore"),
        (lambda: FlipFlop(mode="claen"), "clean"),
        (lambda: ModularArithmetic(modulus=9), "task.modulus"),
        (lambda: ModularArithmetic(train_fraction=1.0), "task.train_fraction"),
        (lambda: ModularArithmetic(operation="added"), "add"),
        (lambda: BooleanFunctions(family="conjunctions"), "conjunction"),
        (lambda: BooleanFunctions(width=3), "task.width"),
        (lambda: BooleanFunctions(points=1), "task.points"),
        (lambda: Addition(longest_train=11, longest_test=10), "task.longest_train"),
        (lambda: SparseParity(bits=3, degree=4), "task.degree must be from 1 to task.bits 3"),
        (lambda: SparseParity(samples=0), "task.samples"),
        (lambda: Addition(max_position=21), "task.max_position must be at least 22"),
        (lambda: Sorting(longest_train=1), "task.longest_train"),
        (lambda: Sorting(values=1), "task.values"),
        (lambda: Aggregates(ask="mean"), "did you mean median"),
        (lambda: Aggregates(numbers=1), "task.numbers"),
        (lambda: Aggregates(largest_scale=0), "task.largest_scale"),
        (lambda: Digits(train_count=1797), "task.train_count must be from 1 to 1796"),
        (lambda: Digits(label_noise=1.5), "task.label_noise"),
        (lambda: Shapes(side=7), "task.side"),
        (lambda: Shapes(kinds=11), "task.kinds"),
        (lambda: Shapes(noise=1), "task.noise"),
        (lambda: Shapes(train_count=0), "task.train_count"),
        (lambda: Shapes(label_noise=-0.1), "task.label_noise"),
        (lambda: Augment(shift=-1), "task.augment.shift"),
        (lambda: Cifar(kinds=20), "task.kinds"),
        (lambda: Cifar(train_count=0), "task.train_count"),
    ],
)
def test_impossible_tasks_are_refused_by_name(make, field):
    with pytest.raises(ConfigError, match=field):
        make()


# The parts of tasks/build.py


def test_below_and_numeral_cover_exactly_their_range():
    ends = jnp.array([0, 2**32 - 1], jnp.uint32)
    for limit in (1, 2, 9, 100, 399, 65536):
        assert below(ends, limit).tolist() == [0, limit - 1]
    assert below_large(ends, 2**24).tolist() == [0, 2**24 - 1]
    many = jax.random.bits(jax.random.key(1), (500,))
    assert np.array_equal(below(many, 399), below_large(many, 399))
    bits = jax.random.bits(jax.random.key(0), (3000, 3))
    for length, possible in ((1, range(10)), (2, range(10, 100)), (3, range(100, 1000))):
        drawn = jax.vmap(lambda bits_W, length=length: numeral(bits_W, length))(bits) @ jnp.array([1, 10, 100])
        assert set(drawn.tolist()) <= set(possible)
        assert abs(drawn.mean() - np.mean(possible)) < 4 * np.std(possible) / len(bits) ** 0.5


def test_digits_add_as_integers_do():
    bits = jax.random.bits(jax.random.key(1), (20, 2, 200))
    for pair in [jnp.array([[9] * 200, [1] + [0] * 199]), *jax.vmap(jax.vmap(lambda b: numeral(b, 200)))(bits)]:
        a, b = (int("".join(map(str, digits[::-1].tolist()))) for digits in pair)
        assert "".join(map(str, add_digits(*pair)[::-1].tolist())) == str(a + b).zfill(201)


def test_concatenate_joins_what_numpy_joins():
    parts = [jnp.arange(3), 10 + jnp.arange(1), 20 + jnp.arange(4)]
    joined = jax.jit(lambda lengths: concatenate(parts, lengths, 9, padding=-1))
    for lengths in itertools.product(range(4), (0, 1), range(5)):
        whole = np.concatenate([part[:length] for part, length in zip(parts, lengths, strict=True)])
        assert joined(jnp.array(lengths)).tolist() == [*whole, *[-1] * (9 - len(whole))]


# Flip-flop language: checks C1 to C5 of its sheet


def strings(task, percent, count):
    """Return samples with their last token, [count, T]."""
    batch = jax.jit(jax.vmap(task.sample, (0, None)))(jax.random.split(jax.random.key(percent), count), percent)
    return np.concatenate([batch.inputs, batch.targets[:, -1:]], axis=1)


@pytest.mark.parametrize("percent, expected", [(80, 26.4), (98, 3.54), (10, 115.3)])
def test_flip_flop_strings_have_the_papers_instructions(percent, expected):
    found = strings(FlipFlop(), percent, 1000)[:, ::2]
    reads = (found == READ).sum(axis=1)
    p = (1 - percent / 100) / 2
    assert math.isclose(1 + 254 * p, expected, abs_tol=0.05)
    assert abs(reads.mean() - expected) < 4 * (254 * p * (1 - p) / 1000) ** 0.5
    last_write = 255 - np.argmax(found[:, ::-1] == WRITE, axis=1)
    alone = (1 - p) ** 254
    assert np.all(found[:, 0] == WRITE) and np.all(found[:, -1] == READ)
    assert abs(np.mean(last_write == 0) - alone) < 4 * (alone * (1 - alone) / 1000) ** 0.5 + 1e-9
    for distance in (1, 2, 3):
        geometric = p * (1 - p) ** (distance - 1)
        near = np.mean(255 - last_write == distance)
        assert abs(near - geometric) < 4 * (geometric * (1 - geometric) / 1000) ** 0.5 + 1e-9


@pytest.mark.parametrize("length, number", [(6, 10), (8, 50)])
def test_flip_flop_samples_are_the_valid_strings_and_no_other(length, number):
    valid = set(all_strings(length))
    assert len(valid) == number == 2 * 5 ** (length // 2 - 2)
    assert set(map(tuple, strings(FlipFlop(length=length), 33, 2000).tolist())) == valid


def test_latest_equals_the_automaton_on_every_short_string():
    for length in (4, 6, 8, 10):
        every = jnp.array(list(all_strings(length)))
        instructions, bits = every[:, ::2], every[:, 1::2] - 3
        memory = jax.vmap(latest)(bits, instructions == WRITE)
        assert np.all((memory == bits) | (instructions != READ))


def test_flip_flop_noisy_strings_carry_the_papers_entropy():
    instructions = strings(FlipFlop(mode="noisy"), 80, 500)[:, ::2]
    middle = instructions[:, 1:-1]
    nats = np.where(middle == IGNORE, -math.log(0.8), -math.log(0.1)).sum() + math.log(2) * (instructions != READ).sum()
    assert abs(nats / 500 / 511 - 0.629) < 0.003


# Modular arithmetic: check 1 of the grokking sheet, and the characters


@pytest.mark.parametrize("operation", OPERATIONS)
def test_tables_split_into_disjoint_parts_that_make_the_whole(operation):
    task = ModularArithmetic(modulus=7, operation=operation)
    whole = {tuple(row) for row in table(operation, 7).tolist()}
    train, test = task.split()
    found = [jax.jit(task.test_example)(jax.random.key(0), i, 7).info["row"] for i in range(task.test_count)]
    assert sorted(map(tuple, np.array(found))) == sorted(map(tuple, test.tolist()))
    assert {tuple(row) for row in train.tolist()} | {tuple(row) for row in test.tolist()} == whole
    assert len(train) + len(test) == len(whole) == task.rows == len({row[:2] for row in whole})
    batch = task.draw(jax.random.key(0), task.train_rows)
    assert sorted(map(tuple, np.array(batch.info["row"]))) == sorted(map(tuple, train.tolist()))


def test_tables_are_the_papers():
    sizes = {name: ModularArithmetic(modulus=97, operation=name).rows for name in ("add", "divide")}
    assert sizes == {"add": 9409, "divide": 9312}
    for operation in ("add", "subtract"):
        square = table(operation, 11)[:, 2].reshape(11, 11)
        assert np.all(np.sort(square, axis=0) == np.arange(11)[:, None]) and np.all(np.sort(square) == np.arange(11))
    a, b, quotient = table("divide", 97).T
    assert np.all(quotient * b % 97 == a) and np.all(b > 0)
    a, b, mixed = table("divide_or_subtract", 97).T
    assert np.all(np.where(b % 2 == 1, mixed * b % 97 == a, (mixed + b) % 97 == a))


def test_characters_are_orthogonal_and_one_of_them_answers_every_row():
    p = 11
    weights = np.array([3.0, 0, 2, 0, 1])
    scores = sum(w * character(p, k + 1) for k, w in enumerate(weights)) + np.arange(p * p).reshape(p, p, 1)
    np.testing.assert_allclose(explained(scores), weights**2 / np.sum(weights**2), atol=1e-9)
    for k in range(1, p):
        np.testing.assert_allclose(by_hand(p, k), character(p, k), atol=1e-9)
        assert np.all(np.argmax(by_hand(p, k), axis=2).ravel() == table("add", p)[:, 2])


# Sorting: check 1 of the task hinting sheet


def test_lists_are_sorted_as_an_independent_sort_does():
    task = Sorting(values=9, longest_train=7, longest_test=7)
    for n in (2, 5, 7):
        batch = jax.jit(jax.vmap(task.sample, (0, None)))(jax.random.split(jax.random.key(n), 50), n)
        numbers, answers = batch.inputs[:, 1 : n + 1] - FIRST, batch.targets[:, n + 1 : 2 * n + 1] - FIRST
        assert np.array_equal(answers, np.sort(numbers, axis=1))
        assert set(np.unique(numbers)) <= set(range(9)) and np.all(batch.weights.sum(axis=1) == n + 1)
