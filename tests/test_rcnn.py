"""Laws of recurrent convolutions that learn parities, by hand and trained: gates, locality, memory, elimination."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import RecurrentConvolutionConfig
from lm.models import build
from lm.strict import ConfigError
from lm.types import Array, Batch
from tasks.formal.parity.rcnn import (
    AND_NOT,
    CHANNELS,
    LAYERS,
    XOR,
    compile_rule,
    decode,
    lay_out,
    memorise,
    output,
    plateau,
    predict,
    recall,
    settle,
    sums,
    tick,
)
from tasks.formal.parity.rcnn_study import (
    eliminate,
    end_to_end_errors,
    memory_error,
    parity_errors,
    reduce,
)

RULE = compile_rule()


def examples(seed, count, width, hidden=None):
    """Return points [M, D], labels of a parity [M] and its hidden set [D], as bits."""
    rng = np.random.default_rng(seed)
    hidden = rng.integers(0, 2, width) if hidden is None else hidden
    points = rng.integers(0, 2, (count, width))
    return points, points @ hidden % 2, hidden


def final_grid(points, labels, test):
    ticks = len(points) + 2 * points.shape[1] + 4
    grid, answer = jax.jit(settle, static_argnums=2)(RULE, lay_out(*map(jnp.asarray, (test, points, labels))), ticks)
    return {name: np.asarray(grid[..., k]) for k, name in enumerate(CHANNELS)}, float(answer)


def elementwise_tick(grid: Array) -> Array:
    """The rule as Boolean algebra over whole arrays, written down apart from its weights."""
    c = {name: grid[..., k] > 0.5 for k, name in enumerate(CHANNELS)}
    up = {name: np.pad(x, ((1, 0), (0, 0)))[:-1] for name, x in c.items()}
    left = {name: np.pad(x, ((0, 0), (1, 0)), constant_values=name == "go")[:, :-1] for name, x in c.items()}
    falls, comes = up["bit"] & up["go"], up["packet"] & up["go"]
    here = comes & c["slot"] & c["diagonal"]
    begin, meet = here & falls & ~c["full"], here & falls & c["full"]
    store = begin | (left["store"] & ~c["diagonal"] & c["slot"])
    add = meet | (left["add"] & ~c["diagonal"] & c["slot"])
    new = {
        "bit": (c["bit"] & ~c["go"]) | ((falls ^ (c["stored"] & add)) & ~store),
        "packet": (c["packet"] & ~c["go"]) | comes,
        "stored": (c["stored"] & ~store) | (falls & store),
        "full": c["full"] | begin,
        "store": store,
        "add": add,
        "go": c["go"] | left["go"],
        "diagonal": c["diagonal"],
        "slot": c["slot"],
    }
    return np.stack([new[name] for name in CHANNELS], axis=-1).astype(np.float32)


def test_weights_are_the_boolean_rule_at_every_tick():
    points, labels, _ = examples(0, 9, 5)
    grid = np.asarray(lay_out(jnp.asarray(points[0]), jnp.asarray(points), jnp.asarray(labels)))
    step = jax.jit(tick)
    for _ in range(24):
        expected = elementwise_tick(grid)
        grid = np.asarray(step(RULE, grid))
        np.testing.assert_array_equal(grid, expected)


def test_every_table_of_a_gate_is_in_the_weights():
    for update, store in itertools.product(itertools.product((0, 1), repeat=4), repeat=2):
        wires = sums(update, store)
        cases = ("00", "01", "10", "11")
        assert tuple(wires[1]["begin"][f"meet {case}"] for case in cases) == store
        assert tuple(wires[2]["fallen"][f"mix {case}"] for case in cases) == update
    assert jax.tree.all(jax.tree.map(jnp.array_equal, RULE, compile_rule(XOR, AND_NOT)))
    assert [bias.shape[0] for _, bias in RULE] == [*map(len, LAYERS), len(CHANNELS)]


def test_the_plateau_is_flat_where_the_memory_lies():
    values = jnp.array([0.0, 1 / 3, -1 / 3, 1 / 12, 1 / 6])
    np.testing.assert_allclose(plateau(values), [0, 1, 1, 0, 1], atol=1e-6)
    assert jnp.all(jax.vmap(jax.grad(plateau))(values[:3]) == 0)


@pytest.mark.parametrize("row, column", [(0, 0), (4, 2), (11, 5)])
def test_a_change_spreads_one_cell_a_tick(row, column):
    points, labels, _ = examples(1, 6, 5)
    grid = lay_out(jnp.asarray(points[0]), jnp.asarray(points), jnp.asarray(labels))
    for _ in range(3):
        grid = tick(RULE, grid)
    other = grid.at[row, column].set(1 - grid[row, column])
    rows, columns = np.ogrid[: grid.shape[0], : grid.shape[1]]
    reach = np.maximum(abs(rows - row), abs(columns - column))
    for ticks in range(1, 6):
        grid, other = tick(RULE, grid), tick(RULE, other)
        assert not np.any(np.any(np.asarray(grid != other), axis=-1) & (reach > ticks))


def test_the_rule_is_the_same_everywhere():
    grid = jax.random.bernoulli(jax.random.key(0), 0.5, (9, 8, len(CHANNELS))).astype(jnp.float32)
    moved = jnp.roll(grid, (2, 1), (0, 1))
    np.testing.assert_array_equal(tick(RULE, moved)[3:, 2:], tick(RULE, grid)[1:-2, 1:-1])


def test_one_step_of_descent_writes_one_row():
    rng = np.random.default_rng(2)
    points, labels = rng.choice([-1.0, 1.0], (6, 4)), rng.choice([-1.0, 1.0], 6)
    memory, _ = memorise(jnp.asarray(points), jnp.asarray(labels))
    gradient_of = jax.jit(jax.grad(output))
    for count in range(7):
        filled = jnp.where(jnp.arange(7)[:, None] < count, memory, 0)
        gradient = np.asarray(gradient_of(filled, jnp.asarray(points[0])))
        assert np.flatnonzero(gradient.any(axis=1)).tolist() == [count]
        np.testing.assert_allclose(gradient[count], np.append(points[0], 1.0))
    error, told = memory_error(rng)
    assert error <= 1e-6 and told <= 1e-6


@pytest.mark.parametrize("width, count", [(4, 3), (5, 15), (6, 4)])
def test_slots_hold_the_echelon_form(width, count):
    points, labels, _ = examples(width, count, width)
    points[-1] = points[0]
    labels[-1] = labels[0]
    grid, _ = final_grid(points, labels, np.zeros(width))
    rows = eliminate(np.column_stack([points, labels]), width)
    slots = grid["stored"][count + 1 :]
    full = np.diagonal(grid["full"][count + 1 :])
    assert np.flatnonzero(full).tolist() == sorted(rows)
    for place, row in rows.items():
        assert slots[place].tolist() == row.tolist() and place == np.argmax(row)


def test_wrong_labels_give_what_elimination_in_this_order_gives():
    points, labels, _ = examples(7, 14, 5)
    labels[3] ^= 1
    rows = eliminate(np.column_stack([points, labels]), 5)
    for test in itertools.product((0, 1), repeat=5):
        expected = reduce(np.array([*test, 0]), rows)
        assert not expected[:5].any()
        assert final_grid(points, labels, np.array(test))[1] == expected[5]


def test_the_rule_learns_parities_and_only_with_the_right_gates():
    wrong, asked = parity_errors(np.random.default_rng(3), hidden_sets=3, tests=4)
    assert wrong == 0 and asked > 50
    points, labels, hidden = examples(4, 15, 4, np.array([1, 0, 1, 1]))
    tests = np.array(list(itertools.product((0, 1), repeat=4)))
    run = jax.jit(jax.vmap(predict, (None, 0, None, None)))
    for update, right in ((XOR, True), ((0, 1, 1, 1), False)):
        told = run(compile_rule(update), *(jnp.asarray(x, jnp.float32) for x in (tests, points, labels)))
        assert np.all(np.asarray(told) == tests @ hidden % 2) == right


def test_memory_and_rule_learn_together():
    rng = np.random.default_rng(5)
    points, labels = rng.choice([-1.0, 1.0], (7, 4)), rng.choice([-1.0, 1.0], 7)
    memory, _ = memorise(jnp.asarray(points), jnp.asarray(labels))
    test = rng.choice([-1.0, 1.0], 4)
    for found, signs in zip(decode(recall(memory, jnp.asarray(test))), (test, points, labels), strict=True):
        np.testing.assert_array_equal(1 - 2 * found, signs)
    assert end_to_end_errors(rng) == 0


def trained_like(length, seed=0):
    """Return a learned net far from its start, and a batch of words of a length."""
    config = RecurrentConvolutionConfig(vocabulary=2, width=8, iterations=0.25)
    net = build(config)
    params = jax.tree.map(lambda x: 2 * x, net.init(jax.random.key(1)))
    words_BL = jax.random.bernoulli(jax.random.key(seed), 0.5, (3, length)).astype(jnp.int32)
    return net, params, Batch(words_BL, words_BL, jnp.ones(words_BL.shape), words_BL, {})


def test_a_learned_convolution_is_local_and_the_same_at_every_place():
    _, params, batch = trained_like(40)
    changed = batch._replace(inputs=batch.inputs.at[:, 20].set(1 - batch.inputs[:, 20]))
    shifted = batch._replace(inputs=jnp.roll(batch.inputs, 5, axis=1))
    for iterations, reach in ((1, 3), (2, 6)):  # three convolutions of three places each
        apply = build(RecurrentConvolutionConfig(width=8, iterations=iterations / 40)).apply
        logits = apply(params, batch).logits
        moved = jnp.abs(apply(params, changed).logits - logits).max(axis=(0, 2)) > 0
        assert moved[20 - reach : 21 + reach].any() and moved[20]
        assert not moved[: 20 - reach].any() and not moved[21 + reach :].any()
        np.testing.assert_allclose(apply(params, shifted).logits[:, 12:34], logits[:, 7:29], atol=1e-5)


def test_a_learned_convolution_has_the_same_weights_for_every_length_and_iterates_longer():
    net, params, _ = trained_like(8)
    programs = [str(jax.make_jaxpr(net.apply)(params, trained_like(length)[2])) for length in (8, 40)]
    assert ["length=2" in programs[0], "length=10" in programs[1]] == [True, True]
    mistakes = (({"reach": 4}, "reach must be odd"), ({"iterations": 0.0}, "iterations must"), ({"depth": 2}, "be 1"))
    for wrong, message in mistakes:
        with pytest.raises(ConfigError, match=message):
            build(RecurrentConvolutionConfig(**wrong))
