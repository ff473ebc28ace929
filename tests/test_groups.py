"""Groups as tables, their representations, and how a network's scores are taken apart with them."""

import functools
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.optim import make_optimizer, schedule_of
from lm.strict import ConfigError, override
from tasks.formal.groups import study as groups_study
from tasks.formal.groups.grokking import by_hand, character
from tasks.formal.groups.modular_arithmetic import ModularArithmetic, table
from tasks.formal.groups.representations import (
    character_tensor,
    dissect,
    irreducibles,
    likeness,
    loss,
    projected,
    span_share,
)
from tasks.formal.groups.tables import FAMILIES, OPERATIONS, GroupTable, group, group_table_cpu, group_table_full

# dimensions of the complex irreducible representations, from the character tables
DIMENSIONS = {
    ("cyclic", 8): [1] * 8,
    ("cyclic", 59): [1] * 59,
    ("cyclic_cube", 2): [1] * 8,
    ("dihedral", 5): [1, 1, 2, 2],
    ("dihedral", 12): [1, 1, 1, 1, 2, 2, 2, 2, 2],
    ("quaternion", 8): [1, 1, 1, 1, 2],
    ("alternating", 4): [1, 1, 1, 3],
    ("alternating", 5): [1, 3, 3, 4, 5],
    ("symmetric", 4): [1, 1, 2, 3, 3],
    ("symmetric", 5): [1, 1, 4, 4, 5, 5, 6],
}
each_group = pytest.mark.parametrize("which", DIMENSIONS, ids=lambda which: f"{which[0]} {which[1]}")
made = functools.cache(group)
decomposed = functools.cache(lambda which: irreducibles(made(*which)))


@each_group
def test_tables_are_groups(which):
    product, inverse = made(*which)
    n = len(inverse)
    assert n == sum(d * d for d in DIMENSIONS[which])
    every = np.arange(n)
    assert np.array_equal(np.sort(product, axis=0), np.broadcast_to(every[:, None], (n, n)))
    assert np.array_equal(np.sort(product, axis=1), np.broadcast_to(every, (n, n)))
    assert np.array_equal(product[0], every) and np.array_equal(product[:, 0], every)
    assert not product[every, inverse].any() and not product[inverse, every].any()
    a, b, c = np.random.default_rng(0).integers(0, n, (3, 500))
    assert np.array_equal(product[product[a, b], c], product[a, product[b, c]])


def test_products_are_those_of_numbers_and_of_permutations():
    a, b, result = GroupTable(family="cyclic", order=7).table().T
    assert np.array_equal((a + b) % 7, result)
    elements = list(permutations(range(4)))
    for name, of in (
        ("product", lambda p, q, inverse: [p, q]),
        ("conjugate", lambda p, q, inverse: [p, q, inverse]),
        ("sandwich", lambda p, q, inverse: [p, q, p]),
    ):
        for a, b, result in GroupTable(operation=name).table()[::7]:
            p, q = elements[a], elements[b]
            place = tuple(range(4))
            for factor in of(p, q, tuple(np.argsort(p))):
                place = tuple(place[i] for i in factor)
            assert elements[result] == place
    assert set(OPERATIONS) == {"product", "conjugate", "sandwich"}


def test_tables_have_the_papers_sizes_and_split_into_disjoint_parts():
    sizes = {(f, order): GroupTable(family=f, order=order).rows for f, order in (("symmetric", 5), ("alternating", 5))}
    assert sizes == {("symmetric", 5): 14_400, ("alternating", 5): 3_600}
    assert group_table_full().task.train_rows == 5_760
    task = GroupTable(family="dihedral", order=5, operation="conjugate", train_fraction=0.3)
    train, test = ({tuple(row) for row in part.tolist()} for part in task.split())
    assert not train & test and train | test == {tuple(row) for row in task.table().tolist()}
    assert (len(train), len(test)) == (30, 70) == (task.train_rows, task.test_count)
    a, b, mixed = table("add_or_multiply", 11).T
    assert np.all(mixed == np.where(a % 2 == 0, a + b, a * b) % 11)
    a, b, mixed = table("add_or_subtract", 11).T
    assert np.all(mixed == np.where(a % 2 == 0, a + b, a - b) % 11)
    assert ModularArithmetic(modulus=97).rows == 9_409


@each_group
def test_representations_multiply_and_are_all_there(which):
    found, n = decomposed(which), len(made(*which).inverse)
    characters = np.array([r.character for r in found])
    for r in found:
        products = np.einsum("aij,bjk->abik", r.matrices[:20], r.matrices)
        np.testing.assert_allclose(products, r.matrices[made(*which).product[:20]], atol=1e-6)
    # Over the reals a character has norm 1, or 2 or 4 where it is a pair of complex ones or twice a quaternionic one.
    norms = characters @ characters.T / n
    types = np.diag(norms).round().astype(int)
    np.testing.assert_allclose(norms, np.diag(types), atol=1e-6)
    complex_dimensions: list[int] = []
    for dimension, kind in zip(characters[:, 0].round().astype(int).tolist(), types.tolist(), strict=True):
        complex_dimensions += {1: [dimension], 2: [dimension // 2] * 2, 4: [dimension // 2]}[kind]
    assert sorted(complex_dimensions) == DIMENSIONS[which]
    np.testing.assert_allclose(characters[0], 1, atol=1e-6)
    assert [r.name for r in found] == sorted((r.name for r in found), key=lambda s: tuple(map(int, s.split("."))))


def test_representations_of_circles_go_by_frequency_and_have_the_closed_form():
    for k, r in enumerate(decomposed(("cyclic", 59))[1:], 1):
        np.testing.assert_allclose(r.character, 2 * np.cos(2 * np.pi * k * np.arange(59) / 59), atol=1e-9)
        tensor = character_tensor(made("cyclic", 59), r)
        np.testing.assert_allclose(tensor, 2 * character(59, k), atol=1e-9)
        assert np.array_equal(tensor.argmax(axis=2).ravel(), table("add", 59)[:, 2])
        if k == 1:
            np.testing.assert_allclose(by_hand(59, 1), tensor / 2, atol=1e-9)
    # Of D12, element d * 12 + p drives p places in direction d: turns have 2 cos(2 pi k p / 12), reflections 0.
    turning = [r for r in decomposed(("dihedral", 12)) if r.matrices.shape[1] == 2]
    for k, r in enumerate(turning, 1):
        expected = np.concatenate([2 * np.cos(2 * np.pi * k * np.arange(12) / 12), np.zeros(12)])
        np.testing.assert_allclose(r.character, expected, atol=1e-9)
    assert len(turning) == 5


@pytest.mark.parametrize("which", [("symmetric", 4), ("alternating", 5), ("dihedral", 12), ("quaternion", 8)])
def test_the_scores_of_a_faithful_representation_answer_every_row(which):
    g, faithful = made(*which), 0
    rows = g.product
    for r in decomposed(which):
        dimension = r.matrices.shape[1]
        if np.sum(np.abs(r.character - dimension) < 1e-6) == 1:
            faithful += 1
            tensor = character_tensor(g, r)
            assert np.array_equal(tensor.argmax(axis=2), rows)
            np.testing.assert_allclose(tensor.max(axis=2), dimension, atol=1e-9)
    assert faithful


def test_scores_are_taken_apart_exactly():
    g, found = made("symmetric", 4), decomposed(("symmetric", 4))[1:]
    tensors = [character_tensor(g, r) for r in found]
    amounts = [0.0, 3.0, 0.0, 1.0]
    scores = sum(amount * t for amount, t in zip(amounts, tensors, strict=True))
    noise = np.random.default_rng(0).normal(size=scores.shape)
    noise -= noise.mean(axis=2, keepdims=True)
    noise -= projected(noise, tensors)
    assert abs(likeness(scores, scores) - 1) < 1e-12 and likeness(noise, tensors[0]) < 1e-12
    np.testing.assert_allclose(projected(scores + noise, tensors), scores, atol=1e-9)
    rows = GroupTable().table()
    entries = found[1].matrices.reshape(24, -1)
    outside = found[0].matrices.reshape(24, -1) * np.sqrt(np.sum(entries**2) / 24)
    mixed = np.concatenate([entries, outside], axis=1)
    offsets = np.arange(24)[None, :, None]  # alike for every c: no softmax sees them
    anatomy = dissect(4 * scores + noise + offsets, [entries, mixed], rows, found, tensors)
    whole = np.sum((4 * scores) ** 2) + np.sum(noise**2)
    expected = [np.sum((4 * a * t) ** 2) / whole for a, t in zip(amounts, tensors, strict=True)]
    np.testing.assert_allclose(list(anatomy.shares.values()), expected, atol=1e-12)
    assert anatomy.learned == 2 and abs(anatomy.explained - sum(expected)) < 1e-12
    assert abs(anatomy.span - 0.5) < 1e-9 and abs(span_share(entries, [found[1]]) - 1) < 1e-9
    assert anatomy.restricted_loss < 0.01 < anatomy.excluded_loss
    assert abs(anatomy.excluded_loss - loss(noise, rows)) < 1e-9
    assert abs(loss(np.zeros((24, 24, 24)), rows) - np.log(24)) < 1e-12


def test_weight_decay_reaches_every_parameter():
    optimizer = make_optimizer(group_table_cpu().optimizer, schedule_of(group_table_cpu()))
    params = {"embedding": {"table": jnp.ones((2, 3, 4))}, "head": {"kernel": jnp.full((4, 3), 2.0)}}
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    for update, value in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(update, -1e-3 * value, rtol=1e-5)


def test_the_study_follows_a_group_and_draws_it(tmp_path):
    recipe = override(groups_study.recipe_of(groups_study.STUDIES["S4"]), {"train.steps": 4, "model.width": 16})
    found = groups_study.watch(recipe, 2, tmp_path)
    assert found["test_step"] == 6 and {"train/2", "test/4", "restricted/4", "excluded/2"} <= set(found)
    figures = {f"S4/{name}": [value] * 3 for name, value in found.items()}
    curves, losses, shares = groups_study.pictures(figures)
    assert [list(s.x) for s in (*curves.series, *losses.series)] == [[2, 4]] * 4
    assert np.array(shares.values).shape == (3, 4) and shares.columns == ["1.2", "2.1", "3.1", "3.2"]


def test_impossible_tables_are_refused_by_name():
    for settings, message in (
        ({"family": "gridworld"}, "task.family"),
        ({"family": "cyclic", "order": 65}, "order"),
        ({"operation": "products"}, "did you mean product"),
        ({"train_fraction": 0.0}, "task.train_fraction"),
    ):
        with pytest.raises(ConfigError, match=message):
            GroupTable(**settings)
    assert set(FAMILIES) >= {which[0] for which in DIMENSIONS}
