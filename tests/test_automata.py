"""Semiautomata: their algebra, their samplers, and shortcuts to them by hand."""

import dataclasses
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.strict import ConfigError
from tasks.formal import automata_constructions as constructions
from tasks.formal import semiautomata as sa
from tasks.formal.automata import Automaton, run
from tasks.formal.automata_study import errors, every_word

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


def test_bounded_stacks_have_their_states_and_groups_are_solvable_but_for_those_of_five_things():
    assert [sa.stack(depth).states for depth in (2, 3, 4)] == [8, 16, 32]
    solvable = [
        ("symmetric", 3),
        ("symmetric", 4),
        ("dihedral", 4),
        ("quaternion", 8),
        ("alternating", 4),
        ("reset", 3),
    ]
    assert all(sa.is_solvable(sa.make(*named)) for named in [*solvable, ("gridworld", 5), ("abab", 5)])
    assert not sa.is_solvable(sa.symmetric(5)) and not sa.is_solvable(sa.alternating(5))
    # A group below the top of the semigroup counts: five things permuted until a reset comes.
    identity_first = [*sa.symmetric(5).generators(), tuple([0] * 120)]
    assert not sa.is_solvable(sa.from_maps(identity_first))


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
    order = {"symmetric": 4, "reset": 3, "cyclic_cube": 2, "stack": 3}.get(family, 5)
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
    assert rare.draw(jax.random.key(0), 400).inputs.mean() == pytest.approx(0.9, abs=0.02)
    pad = Automaton(family="cyclic", order=3, length=6, longest=9, form="scratchpad")
    example = pad.sample_test(jax.random.key(2), 4)
    word = np.asarray(example.inputs[0:8:2])
    assert (np.asarray(example.targets[0:8:2]) - 2).tolist() == pad.automaton.run(word.tolist())
    assert example.weights.tolist() == [1, 0, 1, 0, 1, 0, 1] + [0] * 10 and example.inputs.shape == (17,)
    half = dataclasses.replace(task, revealed=0.5).draw(jax.random.key(3), 100).weights
    assert half.mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("name", "order"), [("counter", 3), ("memory", 2), ("dihedral", 3), ("gridworld", 4)])
def test_shortcuts_by_hand_follow_every_short_word_and_long_ones(name, order, monkeypatch):
    length = 7
    hand = constructions.SHORTCUTS[name](order, length)
    words = every_word(hand.automaton, length)
    assert len(words) == hand.automaton.symbols**length and errors(hand, words) == 0
    long = constructions.SHORTCUTS[name](order, 100)
    words = np.random.default_rng(0).integers(0, hand.automaton.symbols, (50, 100))
    assert errors(long, words) == 0
    assert hand.config.depth == long.config.depth <= 2
    if name in ("memory", "gridworld"):
        monkeypatch.setattr(constructions, "SHARP", 0.01)
        assert errors(constructions.SHORTCUTS[name](order, 100), words) > 0


@pytest.mark.parametrize("automaton", [sa.symmetric(3), sa.abab(), sa.gridworld(4)])
def test_any_automaton_is_followed_in_logarithmic_depth(automaton, monkeypatch):
    words = every_word(automaton, 6)
    assert errors(constructions.divide_and_conquer(automaton, 6), words) == 0
    long = constructions.divide_and_conquer(automaton, 100)
    words = np.random.default_rng(0).integers(0, automaton.symbols, (30, 100))
    assert long.config.depth == 7 and errors(long, words) == 0
    monkeypatch.setattr(constructions, "SHARP", 0.1)
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


def test_impossible_automata_are_refused_in_one_line():
    with pytest.raises(ConfigError, match="no family 'gridwold'; did you mean gridworld"):
        Automaton(family="gridwold")
    for wrong in ({"order": 1}, {"length": 0}, {"ones": 1.5}, {"revealed": 0.0}, {"form": "diagonal"}, {"longest": 4}):
        with pytest.raises(ConfigError):
            Automaton(**wrong)
    moves = jnp.asarray(sa.gridworld(3).generators())
    assert run(moves, jnp.array([1, 1, 1, 0]), 0).tolist() == [1, 2, 2, 1]
