"""Semiautomata: their algebra, their samplers, and shortcuts to them by hand."""

import dataclasses
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.strict import ConfigError
from tasks.formal.automata import depth_study as depth_study
from tasks.formal.automata import parts as parts
from tasks.formal.automata import semiautomata as sa
from tasks.formal.automata import shortcuts as constructions
from tasks.formal.automata import study as study
from tasks.formal.automata.cascades import cascade
from tasks.formal.automata.simulation import Automaton, run
from tasks.formal.automata.study import errors, every_word

SIZES = [
    *((sa.cyclic(n), n) for n in (2, 3, 5)),
    *((sa.dihedral(n), 2 * n) for n in (3, 4)),
    (sa.quaternion(), 8),
    (sa.symmetric(3), 6), (sa.symmetric(4), 24), (sa.symmetric(5), 120),
    (sa.alternating(4), 12), (sa.alternating(5), 60),
    *((sa.flip_flop(n), n + 1) for n in (2, 4)),
    (sa.abab(), 9), (sa.carry(2), 3),
    *((sa.gridworld(n), size) for n, size in zip(range(2, 10), (2, 7, 17, 34, 60, 97, 147, 212), strict=True)),
    (sa.stack(2), 59), (sa.stack(4, kinds=1), 55),
]  # fmt: skip


@pytest.mark.parametrize(("automaton", "size"), SIZES)
def test_the_semigroup_of_every_family_has_its_known_size(automaton, size):
    assert len(sa.maps(automaton)) == size


STRUCTURES = [
    # family, order, is a group, solvable, orders of the cyclic factors
    ("cyclic", 6, True, True, [6]),
    ("cyclic_cube", 2, True, True, [2, 2, 2]),
    ("dihedral", 4, True, True, [2, 4]),
    ("quaternion", 8, True, True, [2, 4]),
    ("symmetric", 3, True, True, [2, 3]),
    ("symmetric", 4, True, True, [2, 3, 2, 2]),
    ("alternating", 4, True, True, [3, 2, 2]),
    ("symmetric", 5, True, False, None),
    ("alternating", 5, True, False, None),
    ("reset", 3, False, True, None),
    ("gridworld", 5, False, True, None),
    ("abab", 5, False, True, None),
]


@pytest.mark.parametrize(("family", "order", "group", "solvable", "orders"), STRUCTURES)
def test_the_structure_of_a_semigroup_is_known(family, order, group, solvable, orders):
    automaton = sa.make(family, order)
    found = sa.structure(automaton)
    assert (found.group, found.solvable) == (group, solvable)
    if orders is not None:
        elements = sa.maps(automaton)
        series = sa.cyclic_series(elements)
        assert [factor.order for factor in series] == orders
        for factor in series:  # the kernel is normal, and with the powers of the turn it makes the whole
            inverse = sa.inverses(elements)
            assert all(sa.then(sa.then(inverse[g], r), g) in factor.kernel for g in elements for r in factor.kernel)
            assert elements == sa.closure({*factor.kernel, factor.turn})
            elements = set(factor.kernel)


def test_structures_agree_with_those_of_sympy():
    combinatorics = pytest.importorskip("sympy.combinatorics")
    for family, order, group, solvable, _ in STRUCTURES:
        if group:
            automaton = sa.make(family, order)
            theirs = combinatorics.PermutationGroup([combinatorics.Permutation(m) for m in automaton.generators()])
            assert (theirs.order(), theirs.is_solvable) == (len(sa.maps(automaton)), solvable)
            if solvable:
                assert sa.derived_length(sa.maps(automaton)) == len(theirs.derived_series()) - 1


def test_bounded_stacks_have_their_states_and_a_group_below_the_top_counts():
    assert [sa.stack(depth).states for depth in (2, 3, 4)] == [8, 16, 32]
    permuted_until_a_reset = sa.from_maps([*sa.symmetric(5).generators(), tuple([0] * 120)])
    assert not sa.structure(permuted_until_a_reset).solvable
    with pytest.raises(ConfigError, match="a group of 60 maps is its own commutator subgroup"):
        cascade(sa.symmetric(5), 4)
    with pytest.raises(ConfigError, match="symbol 0 of the automaton neither permutes its states nor resets them"):
        cascade(sa.gridworld(3), 4)


def test_the_order_of_composition_is_that_of_the_word():
    one, i, j, k = range(4)
    table = sa.quaternion().table
    assert (table[i][j], table[j][i], table[i][i]) == (k, k + 4, one + 4)
    word = [1, 1, 2]
    state = sa.symmetric(3).run(word)[-1]
    moves = sa.symmetric(3).generators()
    forwards, backwards = tuple(range(6)), tuple(range(6))
    for symbol in word:
        forwards, backwards = sa.then(forwards, moves[symbol]), sa.then(moves[symbol], backwards)
    assert forwards[0] == state != backwards[0]


@pytest.mark.parametrize("family", sa.FAMILIES)
def test_the_scan_over_maps_is_the_run_step_by_step(family):
    order = {"symmetric": 4, "reset": 3, "cyclic_cube": 2, "stack": 3, "adder": 3}.get(family, 5)
    task = Automaton(family=family, order=order, length=100)
    batch = jax.jit(lambda key: task.draw(key, 100))(jax.random.key(1))
    for word, states in zip(np.asarray(batch.inputs), np.asarray(batch.targets), strict=True):
        assert task.automaton.run(word.tolist()) == states.tolist()


def test_symbols_follow_their_law_and_scratchpads_alternate():
    task = Automaton(family="flip_flop", order=4, length=50)
    inputs = np.asarray(jax.jit(lambda key: task.draw(key, 400))(jax.random.key(0)).inputs)
    shares = np.bincount(inputs.ravel(), minlength=5) / inputs.size
    assert shares == pytest.approx([0.5, 0.125, 0.125, 0.125, 0.125], abs=4 * 0.5 / inputs.size**0.5)
    rare = dataclasses.replace(task, family="cyclic", order=2, ones=0.9)
    assert jax.jit(lambda key: rare.draw(key, 400))(jax.random.key(0)).inputs.mean() == pytest.approx(0.9, abs=0.02)
    pad = Automaton(family="cyclic", order=3, length=6, longest=9, form="scratchpad")
    example = pad.sample_test(jax.random.key(2), 4)
    word = np.asarray(example.inputs[0:8:2])
    assert (np.asarray(example.targets[0:8:2]) - 2).tolist() == pad.automaton.run(word.tolist())
    assert example.weights.tolist() == [1, 0, 1, 0, 1, 0, 1] + [0] * 10 and example.inputs.shape == (17,)
    half = dataclasses.replace(task, revealed=0.5)
    assert jax.jit(lambda key: half.draw(key, 100))(jax.random.key(3)).weights.mean() == pytest.approx(0.5, abs=0.05)


CASCADES = [
    # family, order, layers
    ("cyclic", 3, 1), ("cyclic_cube", 2, 3), ("dihedral", 3, 2), ("quaternion", 8, 2), ("symmetric", 4, 4),
    ("flip_flop", 2, 1), ("reset", 2, 3), ("reset", 3, 4),
]  # fmt: skip


@pytest.mark.parametrize(("family", "order", "layers"), CASCADES)
def test_cascades_follow_every_short_word_and_long_ones(family, order, layers):
    automaton = sa.make(family, order)
    assert errors(cascade(automaton, 7), every_word(automaton, min(7, 12 // automaton.symbols + 3))) == 0
    long = cascade(automaton, 100)
    assert errors(long, np.random.default_rng(0).integers(0, automaton.symbols, (50, 100))) == 0
    assert long.config.depth == layers


def test_a_cascade_follows_a_group_whose_element_the_state_does_not_tell():
    three_chairs = sa.from_maps([(1, 2, 0), (1, 0, 2)], start=1)
    assert errors(cascade(three_chairs, 8), every_word(three_chairs, 8)) == 0


def test_walks_by_hand_follow_every_short_word_and_long_ones(monkeypatch):
    short, long = (constructions.gridworld(4, n) for n in (8, 100))
    assert errors(short, every_word(short.automaton, 8)) == 0
    words = np.random.default_rng(0).integers(0, 2, (50, 100))
    assert errors(long, words) == 0 and short.config.depth == long.config.depth == 2
    monkeypatch.setattr(parts, "SHARP", 0.01)
    assert errors(constructions.gridworld(4, 100), words) > 0
    writes = np.random.default_rng(0).integers(0, 3, (50, 100))
    assert errors(cascade(sa.flip_flop(2), 100), writes) > 0


@pytest.mark.parametrize("automaton", [sa.symmetric(3), sa.abab(), sa.gridworld(4)])
def test_any_automaton_is_followed_in_logarithmic_depth(automaton, monkeypatch):
    words = every_word(automaton, 6)
    assert errors(constructions.divide_and_conquer(automaton, 6), words) == 0
    long = constructions.divide_and_conquer(automaton, 100)
    words = np.random.default_rng(0).integers(0, automaton.symbols, (30, 100))
    assert long.config.depth == 7 and errors(long, words) == 0
    monkeypatch.setattr(parts, "SHARP", 0.1)
    assert errors(constructions.divide_and_conquer(automaton, 100), words) > 0


def test_the_gridworld_has_a_closed_form():
    """The state is the number of k for which c - k was visited later than c + n - k."""
    for n, length in ((2, 8), (3, 8), (5, 8)):
        for word in product((0, 1), repeat=length):
            sums = np.cumsum([0] + [-1] * (n - 1) + [2 * symbol - 1 for symbol in word])
            last = {int(value): time for time, value in enumerate(sums)}
            c = int(sums[-1])
            count = sum(last.get(c - k, -1) > last.get(c + n - k, -1) for k in range(1, n))
            assert count == sa.gridworld(n).run(word)[-1]


LABELS = [
    # family, order, label, word, what is asked
    ("cyclic", 3, "zero", [1, 1, 1, 0], [0, 0, 1, 1]),
    ("dihedral", 4, "place", [1, 0, 1, 1], [1, 1, 0, 3]),
    ("dihedral", 4, "direction", [1, 0, 1, 0], [0, 1, 1, 0]),
    ("symmetric", 3, "first_chair", [1, 1, 2, 0], [1, 2, 0, 0]),
    ("gridworld", 3, "boundary", [1, 1, 1, 0], [0, 1, 1, 0]),
    ("abab", 5, "accepted", [0, 1, 0, 1], [0, 0, 0, 1]),
    ("adder", 2, "digit", [3, 1, 1, 0], [0, 0, 0, 1]),
    ("adder", 2, "carry", [3, 1, 1, 0], [1, 1, 1, 0]),
    ("stack", 2, "top", [1, 0, 2, 2], [2, 1, 2, 3]),
]


@pytest.mark.parametrize(("family", "order", "label", "word", "asked"), LABELS)
def test_labels_read_the_state(family, order, label, word, asked):
    reading = sa.readings(family, order)[label]
    assert [reading[state] for state in sa.make(family, order).run(word)] == asked
    plain = Automaton(family=family, order=order, length=12)
    example, labelled = (
        task.sample(jax.random.key(0), 12) for task in (plain, dataclasses.replace(plain, label=label))
    )
    assert [reading[state] for state in example.targets.tolist()] == labelled.targets.tolist()


def test_words_in_turn_of_random_length_and_place():
    task = Automaton(family="abab", order=5, length=12, shortest=3, shift=9, in_turn=1.0)
    batch = jax.jit(lambda key: task.draw(key, 300))(jax.random.key(0))
    sizes = np.asarray(batch.weights).sum(axis=1)
    assert (sizes.min(), sizes.max()) == (3, 12) and set(np.asarray(batch.positions)[:, 0]) == set(range(10))
    full = np.asarray(batch.inputs)[sizes == 12]
    assert (full == np.arange(12) % 2).all() and not np.asarray(task.sample_test(jax.random.key(0), 12).positions)[0]
    without = dataclasses.replace(task, in_turn=0.0)
    none = jax.jit(lambda key: without.draw(key, 300))(jax.random.key(0)).inputs
    assert np.asarray(none).mean() < 0.5 and len(np.unique(np.asarray(none), axis=0)) > 100


def test_pictures_are_drawn_from_the_figures_that_the_studies_name():
    ones = {f"{name}/ones={share}": [0.9, 1.0, 0.8] for name in study.remedies() for share in study.ONES}
    lengths = {f"{name}/symbols={size}": [0.5] for name in study.remedies() for size in (20, 50, 80)}
    by_ones, by_length = study.pictures(ones | lengths)
    assert (
        by_ones.series[0].x == study.ONES
        and set(by_ones.series[0].y) == {0.9}
        and by_length.series[1].x == (20, 50, 80)
    )
    automata, depths = depth_study.TABLES["cpu"]
    figures = {depth_study.cell(*named, layers): [0.1, 0.2, 0.9] for named in automata for layers in depths}
    median, best = depth_study.pictures(figures)
    assert (median.values[0][0], best.values[0][0]) == (0.2, 0.9) and len(median.rows) == len(automata)


def test_impossible_automata_are_refused_in_one_line():
    with pytest.raises(ConfigError, match="no family 'gridwold'; did you mean gridworld"):
        Automaton(family="gridwold")
    with pytest.raises(ConfigError, match="task.label must be one of state, boundary"):
        Automaton(label="boundry")
    for wrong in (
        {"order": 1},
        {"length": 0},
        {"ones": 1.5},
        {"revealed": 0.0},
        {"form": "diagonal"},
        {"longest": 4},
        {"shortest": 99},
        {"shift": -1},
        {"in_turn": 2.0},
        {"label": "boundary", "form": "scratchpad"},
    ):
        with pytest.raises(ConfigError):
            Automaton(**wrong)
    moves = jnp.asarray(sa.gridworld(3).generators())
    assert run(moves, jnp.array([1, 1, 1, 0]), 0).tolist() == [1, 2, 2, 1]
