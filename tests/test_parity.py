"""Laws of sparse parity: the function, what gradients see of it, how perceptrons begin, who solves it at once."""

import itertools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import MLPConfig
from lm.losses import hinge
from lm.models import build
from lm.strict import ConfigError, override
from lm.types import Batch
from tasks.formal.parity.rcnn_study import eliminate
from tasks.formal.parity.sparse_parity import SparseParity, sparse_parity_cpu
from tasks.formal.parity.study import ERROR, FULL, STARTS, Grid, frontier, grid_figures, pictures, race
from tasks.formal.parity.tabular import LOADERS, learner, perceptron, split_table
from tasks.formal.parity.tabular_study import pictures as tabular_pictures
from tasks.formal.parity.tabular_study import trees, wins


def cube(bits):
    """Return every point of signs, [2^bits, bits]."""
    return np.array(list(itertools.product((1, -1), repeat=bits)))


def majority_coefficient(order, n):
    """The Fourier coefficient of the majority of n bits on any set of this odd order."""
    j = (order - 1) // 2
    lead = 2.0 ** -(n - 1) * math.comb(n - 1, (n - 1) // 2)
    return (-1) ** j * math.comb((n - 1) // 2, j) / math.comb(n - 1, 2 * j) * lead


def score(config):
    """Return the net's score f on signs, and its parameters at the beginning."""
    net = build(config)

    def f(params, signs_BA):
        bits = (1 - jnp.asarray(signs_BA)) // 2
        logits = net.apply(params, Batch(bits, None, None, None, {})).logits
        return logits[:, 0, 1] - logits[:, 0, 0]

    return f, net.init(jax.random.key(0))


def small(width, bits, **fields):
    recipe = override(sparse_parity_cpu(), {"model.inputs": bits, "model.width": width, "task.bits": bits})
    return override(recipe, fields)


def test_a_parity_correlates_with_itself_alone():
    points, hidden = cube(8), (1, 4, 6)
    y = points[:, hidden].prod(axis=1)
    for subset in (s for k in range(9) for s in itertools.combinations(range(8), k)):
        assert np.sum(points[:, subset].prod(axis=1) * y) == (256 if subset == hidden else 0)


def test_strings_are_uniform_and_labels_are_the_parity():
    task = SparseParity(bits=70, degree=5, seed=3)
    batch = jax.jit(jax.vmap(task.sample_test, (0, None)))(jax.random.split(jax.random.key(0), 4000), 70)
    bits, hidden = np.asarray(batch.inputs), np.asarray(batch.info["hidden"][0])
    assert hidden.sum() == 5 and np.all(bits[:, hidden].sum(axis=1) % 2 == batch.targets[:, 0])
    assert np.all(np.abs(bits.mean(axis=0) - 0.5) < 5 / 2 / 4000**0.5)
    chosen = jax.vmap(lambda seed: replace(task, seed=seed).hidden())(jnp.arange(700)).mean(axis=0)
    assert np.all(np.abs(chosen - 5 / 70) < 5 * (5 / 70 / 700) ** 0.5)


def test_a_pool_holds_so_many_strings_and_no_more():
    task = SparseParity(bits=40, samples=12)
    drawn = task.draw(jax.random.key(0), 400).inputs
    assert len(np.unique(drawn, axis=0)) == 12
    other = task.draw(jax.random.key(1), 400).inputs
    np.testing.assert_array_equal(np.unique(drawn, axis=0), np.unique(other, axis=0))
    moved = replace(task, seed=1).draw(jax.random.key(0), 400).inputs
    assert not set(map(tuple, moved.tolist())) & set(map(tuple, drawn.tolist()))


def test_the_gradient_of_a_neuron_is_a_fourier_coefficient_of_majority():
    assert [majority_coefficient(order, 7) for order in (1, 3, 5, 7)] == [0.3125, -0.0625, 0.0625, -0.3125]
    points = cube(9).astype(np.float32)
    for degree in (4, 3):
        y = points[:, :degree].prod(axis=1)
        gradient = jax.grad(lambda w, y=y: jnp.mean(y * jax.nn.relu(points @ w)))(jnp.ones(9))
        inside, outside = (majority_coefficient(k, 9) / 2 if degree == 4 else 0.0 for k in (degree - 1, degree + 1))
        np.testing.assert_allclose(gradient, [inside] * degree + [outside] * (9 - degree), atol=1e-7)


@pytest.mark.parametrize("sparse", [1, 2, 3])
def test_a_sparse_start_reads_so_many_coordinates_a_neuron(sparse):
    _, params = score(MLPConfig(inputs=20, outputs=1, vocabulary=2, embedding=None, sparse=sparse, width=4000, depth=0))
    kernel = np.asarray(params["input"]["kernel"])
    assert np.all(np.isin(kernel, (0, 1))) and np.all(kernel.sum(axis=0) == sparse)
    lucky = np.mean(kernel[:5].sum(axis=0) == sparse)
    expected = math.comb(5, sparse) / math.comb(20, sparse)
    assert abs(lucky - expected) < 4 * (expected / 4000) ** 0.5
    assert math.comb(3, 2) / math.comb(50, 2) == 3 / 1225


def test_a_dense_start_is_uniform_and_has_biases():
    _, params = score(small(3000, 25, **{"model.sparse": None}).model)
    for path, fan_in in (("input", 25), ("head", 3000)):
        for name in ("kernel", "bias"):
            values, reach = np.asarray(params[path][name]), fan_in**-0.5
            assert np.all(np.abs(values) <= reach) and np.any(values != 0)
        assert abs(np.std(params[path]["kernel"]) - reach / 3**0.5) < 0.05 * reach


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5])
def test_one_neuron_more_than_the_degree_is_enough(degree):
    points = cube(degree + 2)
    f, params = score(MLPConfig(inputs=degree + 2, outputs=1, vocabulary=2, embedding=None, width=degree + 1, depth=0))
    knots = np.arange(-degree, degree + 1, 2)  # the sum over the hidden set; the parity alternates between them
    slopes = np.diff((-1.0) ** np.arange(degree, -1, -1)) / 2
    kernel = np.zeros((degree + 2, degree + 1))
    kernel[:degree, 1:] = 1
    bends = np.append(slopes[0], np.diff(slopes))
    params = {
        "input": {"kernel": kernel, "bias": np.append(1.0, -knots[:-1])},
        "head": {"kernel": np.append(0.0, bends)[:, None], "bias": np.array([(-1.0) ** degree])},
    }
    np.testing.assert_allclose(f(params, points), points[:, :degree].prod(axis=1), atol=1e-5)


@pytest.mark.parametrize("count, unique", [(24, True), (9, False)])
def test_elimination_finds_the_hidden_set_from_few_strings(count, unique):
    task = SparseParity(bits=14, degree=4)
    batch = jax.vmap(task.sample_test, (0, None))(jax.random.split(jax.random.key(0), count), 14)
    rows = eliminate(np.column_stack([batch.inputs, batch.targets]), 14)
    assert (len(rows) == 14) == unique
    if unique:
        solved = np.zeros(14, int)
        for place in sorted(rows, reverse=True):
            solved[place] = (rows[place][14] + rows[place][:14] @ solved) % 2
        np.testing.assert_array_equal(solved, task.hidden())


def test_hinge_is_what_the_margin_lacks_of_one():
    f, params = score(small(8, 6).model)
    points = cube(6)
    y = points[:, :2].prod(axis=1)
    batch = Batch((1 - points) // 2, (y[:, None] > 0).astype(int), jnp.ones((64, 1)), None, {})
    loss, metrics = hinge(build(small(8, 6).model).apply, params, batch, None)
    np.testing.assert_allclose(loss, np.maximum(0, 1 - y * f(params, points)).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"].value, np.mean(y * f(params, points) > 0))


def test_a_race_ends_at_success_or_at_the_limit_and_repeats_itself():
    recipe = small(64, 10, **{"task.degree": 2, "train.steps": 600})
    steps, errors = race(recipe, range(3), (100_000, 1), every=200)
    assert np.all(errors[0] <= ERROR) and np.all(steps[0] < 600) and np.all(steps[0] % 200 == 0)
    assert np.all(errors[1] > ERROR) and np.all(steps[1] == 600)
    again = race(recipe, range(3), (100_000, 1), every=200)
    np.testing.assert_array_equal((steps, errors), again)
    silent = race(recipe, range(3), (100_000,), every=200, begin=lambda p: jax.tree.map(jnp.zeros_like, p))
    assert np.all(silent[1] > 0.4)


def test_permuted_coordinates_give_the_permuted_solution():
    model = small(10, 8, **{"model.sparse": None}).model
    f, params = score(model)
    points, order = cube(8), np.random.default_rng(0).permutation(8)
    y = points[:, :3].prod(axis=1)

    @jax.jit
    def descend(params, points):
        def step(_, params):
            gradient = jax.grad(lambda p: jnp.mean(jax.nn.relu(1 - y * f(p, points))))(params)
            return jax.tree.map(lambda p, g: p - 0.1 * (g + 0.01 * p), params, gradient)

        return jax.lax.fori_loop(0, 20, step, params)

    plain = descend(params, points)
    moved = descend(
        {**params, "input": {**params["input"], "kernel": params["input"]["kernel"][order]}}, points[:, order]
    )
    np.testing.assert_allclose(moved["input"]["kernel"], plain["input"]["kernel"][order], atol=1e-5)
    np.testing.assert_allclose(moved["head"]["kernel"], plain["head"]["kernel"], atol=1e-5)


def test_the_grid_names_every_cell_and_the_pictures_show_it():
    grid = Grid(((6, 2),), (4,), (20, 30), 2, 4)
    found = grid_figures(grid, 0)
    assert len(found) == 3 * len(STARTS) * 2
    drawn = pictures({name: [value] for name, value in found.items()})
    assert [(p.rows, p.columns) for p in drawn] == [(["4"], ["20", "30"])] * 2
    cells = (
        f"success/bits={b}/degree={k}/start={s}/width={w}/samples={m}"
        for (b, k), s, w, m in itertools.product(FULL.problems, STARTS, FULL.widths, FULL.samples)
    )
    rising = {cell: float("width=100000" in cell) for cell in cells}
    claimed = frontier(FULL, rising)
    assert (claimed["rising"], claimed["leap"], claimed["sparse_lead"]) == (1.0, 1.0, 0.0)
    assert frontier(FULL, {cell: 1 - value for cell, value in rising.items()})["rising"] == 0.75
    assert frontier(FULL, dict.fromkeys(rising, 1.0))["leap"] == 0  # where few neurons succeed many leap nowhere


@pytest.mark.parametrize(
    "config, message",
    [
        (MLPConfig(embedding=None, vocabulary=3), "model.vocabulary must be 2"),
        (MLPConfig(inputs=4, vocabulary=None, sparse=5), "model.sparse must be at most the 4 inputs"),
        (MLPConfig(initialisation="uniforn"), "model.initialisation must be one of normal, uniform"),
        (MLPConfig(first=0), "model.first must be positive"),
    ],
)
def test_impossible_perceptrons_are_refused_by_name(config, message):
    with pytest.raises(ConfigError, match=message):
        build(config).init(jax.random.key(0))


def test_tables_split_into_rows_that_keep_their_labels():
    pytest.importorskip("sklearn", reason="scikit-learn, of the extra tabular, is not installed")
    from sklearn.datasets import load_wine

    whole = {tuple(row): label for row, label in zip(*load_wine(return_X_y=True), strict=True)}
    all_rows, few = split_table("wine", 1.0, 0), split_table("wine", 0.1, 0)
    assert all_rows.kept == len(all_rows.rows_NA) and few.kept == round(0.1 * all_rows.kept)
    np.testing.assert_array_equal(all_rows.tests_TA, few.tests_TA)
    for rows, labels in ((few.rows_NA, few.labels_N), (few.tests_TA, few.answers_T)):
        assert [whole[tuple(row)] for row in rows] == labels.tolist()
    assert len(few.rows_NA) + len(few.tests_TA) == len(whole) == 178
    assert not set(map(tuple, few.rows_NA)) & set(map(tuple, few.tests_TA))
    for split in (all_rows, few):  # the lowest of the rows that are kept is the lowest there is
        lowest = split.normal_rows_NA[: split.kept].min(axis=0)
        assert np.ptp(lowest) == 0 and lowest[0] == split.normal_rows_NA.min()
    column = np.argsort(all_rows.rows_NA[:, 3], kind="stable")
    assert np.all(np.diff(all_rows.normal_rows_NA[column, 3]) >= 0)
    assert np.abs(all_rows.normal_rows_NA.mean(axis=0)).max() < 0.1 and np.abs(few.normal_tests_TA).max() < 2


@pytest.mark.parametrize("start", STARTS)
def test_perceptrons_learn_a_table_from_the_kept_rows_alone(start, monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn, of the extra tabular, is not installed")
    split = split_table("iris", 0.5, 0)
    config = replace(perceptron(split, STARTS[start]), first=64, width=16)
    monkeypatch.setattr("tasks.formal.parity.tabular.EPOCHS", 50)
    learn = learner(config, split)
    told = learn(split, jax.random.key(0))
    assert np.mean(told == split.answers_T) > 0.8
    unseen = np.where(np.arange(len(split.labels_N)) < split.kept, split.labels_N, 0)
    np.testing.assert_array_equal(learn(split._replace(labels_N=unseen), jax.random.key(0)), told)


def test_trees_learn_a_table():
    for package in ("sklearn", "xgboost"):
        pytest.importorskip(package, reason=f"{package}, of the extra tabular, is not installed")
    split = split_table("wine", 1.0, 0)
    for told in trees(split, 0).values():
        assert np.mean(told == split.answers_T) > 0.85


def test_wins_count_ties_by_half():
    scores = [(0.9, 0.8), (0.8, 0.8), (0.7, 0.8), (0.9, 0.8), (0.7, 0.8)]
    found = {
        f"accuracy/{who}/{name}/1": value
        for name, pair in zip(LOADERS, scores, strict=True)
        for who, value in zip(("sparse", "forest"), pair, strict=True)
    }
    assert wins(found, 1.0) == 0.5
    (drawn,) = tabular_pictures({name: [value, value] for name, value in found.items()})
    assert drawn.columns == ["sparse", "forest"] and drawn.rows == list(LOADERS)
    np.testing.assert_allclose(drawn.values, scores)
