"""Learning on a part of the cube: the transform, the interpolator of minimum degree, what is seen."""

import itertools
import math

import numpy as np
import pytest

from tasks.formal.boolean.unseen import Unseen, degrees, fourier, minimum_degree, profile, signs, targets
from tasks.formal.boolean.unseen_study import (
    LEARNERS,
    TARGETS,
    closed_form_error,
    diagonal_net,
    identities,
    interpolator,
    pictures,
    polynomial,
    random_features,
)


def test_the_transform_is_its_own_inverse_and_keeps_squares():
    values = np.random.default_rng(0).normal(size=64)
    coefficients = fourier(values)
    np.testing.assert_allclose(fourier(coefficients) * 64, values, atol=1e-12)
    assert profile(coefficients).sum() == pytest.approx(np.mean(values**2))
    with pytest.raises(ValueError, match="power of two"):
        fourier(np.ones(6))


@pytest.mark.parametrize("term", [(), (0,), (2,), (0, 3), (0, 1, 2, 3)])
def test_a_monomial_has_one_coefficient_at_its_number(term):
    values = signs(4)[:, list(term)].prod(axis=1)
    expected = np.zeros(16)
    expected[sum(1 << i for i in term)] = 1
    np.testing.assert_allclose(fourier(values), expected, atol=1e-12)
    assert degrees(4)[np.argmax(expected)] == len(term)


@pytest.mark.parametrize("name", TARGETS)
def test_the_interpolator_agrees_where_it_was_seen_and_no_other_has_a_smaller_profile(name):
    task = Unseen(target=name, bits=5)
    values, seen = task.values(), task.seen()
    least = minimum_degree(values, seen)
    np.testing.assert_allclose(least[seen], values[seen], atol=1e-9)
    own = profile(fourier(least)).round(9)
    rng = np.random.default_rng(0)
    others = [values, *(least + ~seen * rng.normal(0, scale, 32) for scale in (1e-2, 1, 10) for _ in range(20))]
    assert all(tuple(own) <= tuple(profile(fourier(other)).round(9)) for other in others)
    assert np.flatnonzero(own)[0] >= np.flatnonzero(profile(fourier(values)).round(9))[0]


@pytest.mark.parametrize(
    ("name", "share"), [("triangle", 1 / 2), ("product", 3 / 4), ("triples", 7 / 8), ("majority", 3 / 4)]
)
def test_the_part_that_is_seen_has_its_size_and_the_target_its_values(name, share):
    task = Unseen(target=name, bits=6)
    assert task.seen().mean() == share
    for point, value in zip(
        itertools.product((1, -1), repeat=6), task.values().reshape((2,) * 6).T.ravel(), strict=True
    ):
        x = point
        expected = {
            "triangle": x[0] * x[1] - 1.25 * x[1] * x[2] + 1.5 * x[2] * x[0],
            "product": x[0] * x[1],
            "triples": sum(x[i] * x[(i + 1) % 6] * x[(i + 2) % 6] for i in range(6)),
            "majority": np.sign(x[0] + x[1] + x[2]),
        }
        assert value == pytest.approx(expected[name])


def test_interpolators_are_those_derived_by_hand():
    assert set(TARGETS) < set(targets(6)) and closed_form_error(6) < 1e-9
    task = Unseen(bits=6)
    least = minimum_degree(task.values(), task.seen())
    assert identities(least) < 1e-9 and identities(task.values()) == 0
    errors = np.square(least - task.values())
    assert errors[~task.seen()] == pytest.approx(16) and errors.mean() == pytest.approx(4)


def test_features_and_a_diagonal_net_fit_and_lean_to_low_degree():
    task = Unseen(bits=8)
    features = random_features(task, 0, 2048)
    assert identities(features) < 1e-6 and 0 < fourier(features)[3] < 0.3
    assert abs(fourier(diagonal_net(task))[3]) < 0.02 and identities(diagonal_net(task)) < 1e-6


@pytest.mark.parametrize("name", TARGETS)
def test_an_interpolator_by_hand_agrees_where_it_was_seen_and_is_of_smaller_degree(name):
    task = Unseen(name, bits=5)
    by_hand = interpolator(name, 5)
    values, seen = task.values(), task.seen()
    np.testing.assert_allclose(polynomial(by_hand, 5)[seen], values[seen], atol=1e-12)
    assert tuple(profile(fourier(polynomial(by_hand, 5)))) < tuple(profile(fourier(values)))


@pytest.mark.parametrize("bits", [4])
@pytest.mark.parametrize("name", TARGETS)
def test_no_interpolator_has_less_weight_by_linear_programming(name, bits):
    """With coefficients of a degree and above forced to those found, none of the next degree is smaller in sum."""
    scipy = pytest.importorskip("scipy.optimize")
    task = Unseen(name, bits)
    values, seen = task.values(), task.seen()
    points = np.arange(2**bits)
    monomials_XM = np.stack(
        [polynomial({tuple(np.flatnonzero(m >> np.arange(bits) & 1)): 1.0}, bits) for m in points], 1
    )
    least = minimum_degree(values, seen)
    degree = np.flatnonzero(profile(fourier(least)).round(9))[0]  # from the top: how many degrees can be empty
    for empty in (bits + 1 - degree, bits - degree):  # one degree more cannot be
        free = degrees(bits) < empty
        solved = scipy.linprog(
            np.zeros(free.sum()), A_eq=monomials_XM[seen][:, free], b_eq=values[seen], bounds=(None, None)
        )
        assert solved.success == (empty == bits + 1 - degree)


@pytest.mark.parametrize("most", range(5))
def test_few_minus_signs_determine_a_polynomial_of_that_degree(most):
    """A sum over j <= r of C(k, j) (-2)^j at k minus signs, by Newton's forward differences of (-1)^k."""
    task = Unseen("parity", bits=6, most=most)
    newton = [sum(math.comb(k, j) * (-2) ** j for j in range(most + 1)) for k in range(7)]
    assert task.seen().sum() == sum(math.comb(6, j) for j in range(most + 1))
    least = minimum_degree(task.values(), task.seen())
    np.testing.assert_allclose(least, np.array(newton)[degrees(6)], atol=1e-8)
    assert profile(fourier(least))[: 6 - most].max(initial=0) < 1e-12
    np.testing.assert_array_equal(np.array(newton[: most + 1]), (-1.0) ** np.arange(most + 1))


def test_a_picture_has_every_target_and_learner():
    figures = {f"distance/{target}/{name}": [0.2, 0.1, 0.3] for target in TARGETS for name in LEARNERS}
    (picture,) = pictures(figures)
    assert picture.values == [[0.2] * 3] * 4 and pictures({}) == []
