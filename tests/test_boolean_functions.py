"""Boolean functions in a prompt: labels, forced points, lessons and exact learners; transformers on vectors."""

import functools
import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import TransformerConfig
from lm.models import build
from lm.observe import observe
from lm.strict import ConfigError, override
from lm.types import Batch
from tasks.formal.boolean import study as boolean_study
from tasks.formal.boolean.functions import FAMILIES, RANDOM, BooleanFunctions, boolean_conjunction_cpu
from tasks.formal.boolean.learners import (
    averaging,
    bayes,
    conjunction,
    disjunction,
    majority,
    nearest_neighbour,
    parity,
    sparse_parity,
)

PROMPTS = 400


@functools.cache
def prompts(family, width=8, points=24, count=PROMPTS):
    """Return points [B, M, N], labels [B, M] and how many points teach [B]."""
    task = BooleanFunctions(family, width, points)
    drawn = jax.jit(jax.vmap(task.prompt))(jax.random.split(jax.random.key(1), count))
    return tuple(map(np.asarray, drawn))


def said(learner, family, **settings):
    """Return what a learner says of those prompts, and the labels, [B, M] each."""
    x, y, _ = prompts(family, **settings)
    return np.asarray(jax.jit(jax.vmap(learner))(x, y)), y


def by_definition(family, weights, threshold, point):
    """Label one point, one literal at a time."""
    clauses = [[w == x for w, x in zip(clause, point, strict=True) if w != 0] for clause in weights]
    total = sum(w * x for w, x in zip(weights[0], point, strict=True))
    if family in ("conjunction", "dnf") or family.startswith("taught"):
        return any(all(clause) for clause in clauses)
    if "disjunction" in family or family == "cnf":
        return all(any(clause) for clause in clauses)
    if "parity" in family:
        return sum(clauses[0]) % 2 == 1
    return total > threshold


@pytest.mark.parametrize("family", [name for name in FAMILIES if FAMILIES[name].label is not None])
def test_labels_are_those_of_the_definition_on_every_point(family):
    width = 5
    points = np.array(list(itertools.product((-1, 1), repeat=width)))
    shuffle = np.random.default_rng(0).permutation(width)
    for key in jax.random.split(jax.random.key(0), 20):
        function = FAMILIES[family].draw(key, width)
        labels = FAMILIES[family].label(function, jnp.asarray(points))
        weights, threshold = np.asarray(function.weights), float(function.threshold)
        assert labels.tolist() == [by_definition(family, weights, threshold, point) for point in points]
        moved = FAMILIES[family].label(function._replace(weights=weights[:, shuffle]), jnp.asarray(points[:, shuffle]))
        assert labels.tolist() == moved.tolist()
    nothing = function._replace(weights=jnp.zeros_like(function.weights))
    empty = {True: ("conjunction", "dnf"), False: ("disjunction", "cnf", "parity", "sparse_parity")}
    for value, names in empty.items():
        assert family not in names or np.all(FAMILIES[family].label(nothing, jnp.asarray(points)) == value)


def test_functions_follow_their_laws():
    for name, values, shares in (
        ("conjunction", (-1, 0, 1), (0.15, 0.7, 0.15)),
        ("dnf", (-1, 0, 1), (0.1, 0.8, 0.1)),
        ("parity", (0, 1), (0.5, 0.5)),
        ("majority", (0, 1), (0.7, 0.3)),
        ("halfspace", range(-3, 4), [1 / 7] * 7),
    ):
        weights = drawn(name, 10, 500).weights
        for value, share in zip(values, shares, strict=True):
            assert abs(np.mean(weights == value) - share) < 4 * (share * (1 - share) / weights.size) ** 0.5
    for name, size in (("sparse_parity", 2), ("sparse_disjunction", 4)):
        weights = drawn(name, 10, 500).weights
        assert np.all(weights.sum(axis=-1) == size) and np.all(weights.sum(axis=(0, 1)) > 0)
    thresholds = drawn("sparse_threshold", 4, 500).threshold
    assert set(thresholds.tolist()) == {-2.5, -1.5, -0.5, 0.5, 1.5, 2.5}


def draw_keys(count):
    return jax.random.split(jax.random.key(7), count)


def drawn(family, width, count):
    return jax.vmap(FAMILIES[family].draw, (0, None))(draw_keys(count), width)


@pytest.mark.parametrize("family", ["conjunction", "disjunction", "dnf", "cnf", "sparse_disjunction"])
def test_forced_points_have_the_label_they_are_forced_to(family, monkeypatch):
    always = {**FAMILIES, family: FAMILIES[family]._replace(forced=1.0)}
    monkeypatch.setattr("tasks.formal.boolean.functions.FAMILIES", always)
    x, label, _ = jax.vmap(BooleanFunctions(family).prompt)(draw_keys(50))
    assert np.all(label == (FAMILIES[family].towards > 0))
    assert np.all(x.std(axis=(0, 1)) > 0)


def test_the_positive_share_of_long_conjunctions_is_the_papers():
    _, label, _ = prompts("conjunction", width=28, points=24, count=2000)
    expected = 0.3 + 0.7 * 0.85**28
    assert abs(expected - 0.3074) < 1e-4
    assert abs(label.mean() - expected) < 4 * label.mean(axis=1).std() / len(label) ** 0.5


def test_points_copy_the_label_of_the_nearest_earlier_one():
    x, label, _ = prompts("nearest_neighbour", width=5, points=40, count=30)
    for points, labels in zip(x, label, strict=True):
        for i in range(RANDOM, len(points)):
            likeness = [int(points[i] @ points[j]) for j in range(i)]
            assert labels[i] == labels[likeness.index(max(likeness))]
        for i, j in itertools.combinations(range(RANDOM), 2):
            assert labels[i] == labels[j] or tuple(points[i]) != tuple(points[j])
    assert 0.4 < label.mean() < 0.6


@pytest.mark.parametrize("family, positives", [("taught_monotone_conjunction", 1), ("taught_conjunction", 2)])
def test_a_lesson_is_its_positive_points_and_one_near_miss_for_each_relevant_coordinate(family, positives):
    x, label, taught = prompts(family)
    for points, labels, count in zip(x, label, taught, strict=True):
        lesson = points[:count]
        assert labels[:positives].all() and not labels[positives:count].any()
        misses = lesson[positives:] != lesson[0]
        assert np.all(misses.sum(axis=1) == 1) and len(np.unique(misses, axis=0)) == count - positives
        relevant = misses.any(axis=0)
        assert np.all(lesson[0][~relevant] == -1) and (positives == 1 or np.all(lesson[1][~relevant] == 1))
        assert positives == 1 or np.all(lesson[1][relevant] == lesson[0][relevant])
    assert set(taught) >= {positives, positives + 1, positives + 3}


def test_a_lesson_on_a_formula_teaches_clause_after_clause():
    x, label, taught = prompts("taught_dnf", points=40)
    for points, labels, count in zip(x, label, taught, strict=True):
        assert count >= 3 and points.shape == (40, 8)
        rows = iter(range(count))
        for _ in range(3):
            first = points[next(rows)]
            for _ in range(np.sum(first > 0)):
                row = next(rows)
                assert np.sum(points[row] != first) == 1 and np.all(points[row] <= first)
        assert next(rows, None) is None and labels[0]


def test_elimination_never_errs_in_favour_and_is_exact_behind_a_lesson():
    found, label = said(conjunction, "conjunction")
    assert not np.any(found & ~label) and np.mean(found[:, -1] == label[:, -1]) > 0.96
    found, label = said(disjunction, "disjunction")
    assert not np.any(~found & label) and np.mean(found[:, -1] == label[:, -1]) > 0.96
    found, label = said(conjunction, "taught_conjunction")
    after = np.arange(24)[None] >= prompts("taught_conjunction")[2][:, None]
    assert np.array_equal(found[after], label[after]) and not np.array_equal(found, label)


def test_gaussian_elimination_is_exact_where_it_is_determined():
    x, label, _ = prompts("parity")
    found = jax.jit(jax.vmap(parity))(x, label)
    prediction, determined = map(np.asarray, found)
    assert np.array_equal(prediction[determined], label[determined])
    ranks = np.array([[gf2_rank(points[:i] > 0) for i in range(25)] for points in x[:40]])
    assert np.array_equal(determined[:40], ranks[:, 1:] == ranks[:, :-1])
    assert determined[:40][ranks[:, :-1] == 8].all() and (ranks[:, -1] == 8).all()
    wrong = prediction[~determined] != label[~determined]
    assert abs(wrong.mean() - 0.5) < 4 * 0.5 / wrong.size**0.5


def gf2_rank(rows):
    basis = []
    for row in (int("".join(map(str, map(int, row))), 2) for row in rows):
        for b in basis:
            row = min(row, row ^ b)
        basis += [row] if row else []
    return len(basis)


def test_votes_are_those_of_all_that_fit():
    settings = {"width": 5, "points": 16, "count": 60}
    found, label = said(sparse_parity, "sparse_parity", **settings)
    tied = np.zeros_like(found)
    x, _, _ = prompts("sparse_parity", **settings)
    pairs = list(itertools.combinations(range(5), 2))
    odd = np.stack([x[:, :, a] != x[:, :, b] for a, b in pairs], axis=-1)
    for i in range(16):
        fits = np.all(odd[:, :i] == label[:, :i, None], axis=1)
        share = np.sum(fits & odd[:, i], axis=1) / np.sum(fits, axis=1)
        assert np.array_equal(found[:, i], share > 0.5)
        tied[:, i] = share == 0.5
    vote = functools.partial(bayes, FAMILIES["sparse_parity"], drawn("sparse_parity", 5, 2000))
    voted, _ = said(vote, "sparse_parity", **settings)
    assert np.array_equal(voted[~tied], found[~tied])


def test_simple_learners_do_as_they_say():
    x, label, _ = prompts("halfspace", count=40)
    names = (nearest_neighbour, averaging, majority)
    near, mean, common = (said(learner, "halfspace", count=40)[0] for learner in names)
    for b, i in itertools.product(range(40), range(1, 24)):
        signs = 2 * label[b, :i].astype(int) - 1
        likeness = (x[b, :i] @ x[b, i]).tolist()
        assert near[b, i] == label[b, likeness.index(max(likeness))]
        assert mean[b, i] == (signs @ x[b, :i] @ x[b, i] > 0)
        assert common[b, i] == (signs.sum() > 0)


def test_no_learner_looks_at_the_label_it_predicts_or_at_later_points():
    x, label, _ = prompts("conjunction", count=30)
    vote = functools.partial(bayes, FAMILIES["conjunction"], drawn("conjunction", 8, 100))
    learners = (conjunction, disjunction, sparse_parity, nearest_neighbour, averaging, majority, vote)
    for learner in (*learners, lambda x, y: parity(x, y).prediction):
        predict, (other_x, other_label) = jax.jit(jax.vmap(learner)), changed(x, label, 12)
        before = predict(x, label)
        assert np.array_equal(before[:, :12], predict(other_x, other_label)[:, :12])
        assert np.array_equal(before[:, 12], predict(x, other_label)[:, 12])


def changed(x, label, start):
    later = np.arange(x.shape[1]) >= start
    return np.where(later[None, :, None], -x, x), label ^ later[None]


# Transformers on vectors


def test_a_prompt_alternates_points_and_labels():
    task = BooleanFunctions(width=4, points=5)
    example = jax.jit(task.sample)(jax.random.key(0), 3)
    x, label = np.asarray(example.info["points"]), np.asarray(example.info["labels"])
    assert np.array_equal(example.inputs[0:5:2], x[:3])
    assert np.array_equal(example.inputs[1:5:2, 0], 2 * label[:2] - 1) and not example.inputs[1::2, 1:].any()
    assert not example.inputs[5:].any() and example.weights.tolist() == [1, 0, 1, 0, 1, 0, 0, 0, 0]
    assert np.array_equal(example.targets[0:5:2], label[:3])
    assert float(task.score(example.targets.at[4].add(1), example)["last_point"]) == 0


def test_a_prediction_hangs_on_earlier_labels_and_no_later_input():
    recipe = boolean_conjunction_cpu()
    net = build(replace(recipe.model, depth=2, width=16))
    params = net.init(jax.random.key(0))
    batch = recipe.task.draw(jax.random.key(1), 2)

    def score(inputs, place):
        return net.apply(params, batch._replace(inputs=inputs)).logits[:, place, 1].sum()

    slope = jax.jit(jax.grad(score))
    for place in (0, 6, 22):
        touched = np.abs(slope(batch.inputs, place)).max(axis=(0, 2))
        assert np.all(touched[: place + 1] > 0) and not touched[place + 1 :].any()


def test_vectors_that_pick_a_row_are_tokens():
    config = TransformerConfig(vocabulary=7, depth=2, width=16, heads=2, tied=False)
    words, vectors = build(config), build(replace(config, inputs=7))
    params = words.init(jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (2, 6), 0, 7)
    positions = jnp.broadcast_to(jnp.arange(6), (2, 6))
    batch = Batch(tokens, tokens, jnp.ones((2, 6)), positions, {})
    moved = {name: value for name, value in params.items() if name != "embedding"}
    moved["input"] = {"kernel": params["embedding"]["table"]}
    numbers = batch._replace(inputs=jax.nn.one_hot(tokens, 7))
    assert jax.tree.structure(moved) == jax.tree.structure(vectors.init(jax.random.key(0)))
    found = jax.jit(vectors.apply)(moved, numbers).logits
    np.testing.assert_allclose(found, jax.jit(words.apply)(params, batch).logits, atol=1e-5)
    cached = jax.jit(vectors.extend)(moved, numbers, vectors.cache(2, 6))[0].logits
    np.testing.assert_allclose(found, cached, atol=1e-5)
    assert observe(replace(config, inputs=7), moved, numbers, "stream$")["blocks/stream"].shape == (2, 2, 6, 16)
    with pytest.raises(ConfigError, match="model.tied"):
        build(replace(config, inputs=7, tied=True))


def test_the_study_grades_every_learner_after_every_number_of_examples(monkeypatch, tmp_path):
    monkeypatch.setattr(boolean_study, "PROMPTS", 200)
    monkeypatch.setattr(boolean_study, "VOTES", 20)
    monkeypatch.setattr(boolean_study, "VOTERS", 200)
    recipe = override(boolean_conjunction_cpu(), {"train.steps": 2, "model.depth": 1, "task.points": 6})
    figures = boolean_study.trained(recipe, tmp_path, 0)
    assert len(figures) == 6 * 6 + 1 and all(0 <= value <= 1 for value in figures.values())
    x, y, _ = jax.vmap(recipe.task.prompt)(draw_keys(1000))
    for name, learner in (("exact", conjunction), ("nearest neighbour", nearest_neighbour)):
        assert abs(figures[f"conjunction/{name}/5"] - np.mean((jax.vmap(learner)(x, y) == y)[:, 5])) < 0.13
    (picture,) = boolean_study.pictures({name: [value] * 3 for name, value in figures.items()})
    assert [len(s.y) for s in picture.series] == [6] * 5
    assert picture.series[1].y == [figures[f"conjunction/exact/{i}"] for i in range(6)]
