"""Copies and boards of mines: what is asked is right, and tokens that belong together share their ids."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.strict import ConfigError
from tasks.arithmetic.board import EMPTY, EQUALS, MINE, ZERO, Board
from tasks.arithmetic.copying import ZERO as DIGIT
from tasks.arithmetic.copying import Copying
from tasks.arithmetic.copying_construction import construct

ORDERS = ("forwards", "backwards")


def drawn(sample, sizes):
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(sample))(jax.random.split(jax.random.key(3), len(sizes)), sizes))


def boards(batch):
    """Yield the board that is asked, the one that is answered, and their ids [height, width, 2]."""
    for row, (height, width) in enumerate(zip(batch.info["height"], batch.info["width"], strict=True)):
        count = height * width
        assert batch.inputs[row, count + 1] == EQUALS and batch.weights[row].sum() == count + 1
        shape, asked, answered = (height, width), slice(1, count + 1), slice(count + 2, 2 * count + 2)
        ids = batch.positions[row]
        assert np.array_equal(ids[asked], ids[answered])
        yield batch.inputs[row, asked].reshape(shape), batch.inputs[row, answered].reshape(shape), ids[asked]


def count_around(mines, row, column):
    height, width = mines.shape
    around = set(itertools.product(range(row - 1, row + 2), range(column - 1, column + 2))) - {(row, column)}
    return sum(mines[r, c] for r, c in around if 0 <= r < height and 0 <= c < width)


def test_numbers_are_the_mines_around_each_cell():
    task = Board(shortest_train=2, longest_train=6, longest_test=6)
    for sample, sizes in ((task.sample, np.arange(100) % 5 + 2), (task.sample_test, np.arange(50) % 5 + 2)):
        for asked, answered, _ in boards(drawn(sample, sizes)):
            assert set(np.unique(asked)) <= {MINE, EMPTY}
            mines = asked == MINE
            for (row, column), mine in np.ndenumerate(mines):
                assert answered[row, column] == (MINE if mine else ZERO + count_around(mines, row, column))


def test_an_empty_board_counts_nothing_and_one_mine_is_counted_eight_times():
    task = Board()
    field = np.zeros((5, 5), int)
    for mines, numbers in ((field, "0" * 25), (np.pad([[1]], 2), "000000111001M10011100" + "0" * 4)):
        example = task.write(mines, 5, 5, 1)
        assert task.spell(example.targets[example.weights > 0]) == numbers + "$"


def test_sides_are_independent_and_so_are_the_starts_of_the_axes():
    task = Board()
    batch = drawn(lambda key, _: task.draw(key, 1), np.zeros(4000, int))
    info, ids = batch.info, batch.positions[:, 0]
    pairs = np.stack([info["height"], info["width"]])[..., 0]
    found = np.bincount(np.ravel_multi_index(pairs - 3, (3, 3)), minlength=9) / 4000
    assert np.allclose(found, 1 / 9, atol=4 * (8 / 81 / 4000) ** 0.5)
    equals = ids[np.arange(4000), pairs.prod(axis=0) + 1]
    assert set(map(tuple, equals[pairs.max(axis=0) == 5])) == set(itertools.product(range(1, 8), repeat=2))


def test_the_share_of_mines_is_uniform_from_a_tenth_to_a_quarter():
    batch = drawn(Board(longest_test=9).sample_test, np.full(2000, 9))
    shares = np.mean(batch.inputs[:, 1:82] == MINE, axis=1)
    expected = (0.175 - 0.0325) / 81 + 0.15**2 / 12  # of a mine given its share, and of the share
    assert abs(shares.mean() - 0.175) < 4 * (expected / 2000) ** 0.5
    assert abs(shares.var() / expected - 1) < 4 * (2 / 2000) ** 0.5


@pytest.mark.parametrize("height, width", [(3, 5), (5, 3), (5, 5)])
def test_ids_of_a_board_are_its_columns_and_rows_and_shift_with_the_starts(height, width):
    task = Board()
    write = jax.jit(lambda start_1A: task.write(np.eye(5), height, width, start_1A).positions)
    first = np.asarray(write(np.ones((1, 2), int)))
    cells = [(2 + c, 2 + r) for r in range(height) for c in range(width)]
    assert first.tolist()[: 2 * len(cells) + 2] == [[0, 0], *map(list, cells), [1, 1], *map(list, cells)]
    assert np.all(first[2 * len(cells) + 2 :] == 0)
    last = task.starts(5)
    for start in itertools.product((1, 3, last), repeat=2):
        assert np.array_equal(write(np.array([start])), np.where(first > 0, first + np.array([start]) - 1, 0))
    assert write(np.full((1, 2), last)).max() == task.max_position - 5 + max(height, width)


@pytest.mark.parametrize("order", ORDERS)
def test_copies_repeat_their_digits_and_their_ids(order):
    task = Copying(longest_train=6, longest_test=9, order=order)
    turn = 1 if order == "forwards" else -1
    for sample, longest in ((task.sample, 6), (task.sample_test, 9)):
        sizes = np.arange(60) % longest + 1
        batch = drawn(sample, sizes)
        for row, n in enumerate(sizes):
            digits, copy = slice(1, n + 1), slice(n + 2, 2 * n + 2)
            tokens, ids = batch.inputs[row], batch.positions[row]
            assert np.array_equal(tokens[digits][::turn], tokens[copy]) and batch.weights[row].sum() == n + 1
            assert np.array_equal(ids[digits][::turn], ids[copy])
            assert ids[n + 1] == ids[copy][0] - turn and np.array_equal(ids[digits], ids[1] + np.arange(n))
            assert np.all((ids > 0) == (np.arange(ids.size) > 0) & (np.arange(ids.size) < 2 * n + 2))
        assert set(np.unique(batch.inputs[:, 1])) == set(range(DIGIT, DIGIT + 10))


@pytest.mark.parametrize("order", ORDERS)
def test_ids_of_a_copy_shift_with_the_start_up_to_the_largest(order):
    task = Copying(longest_train=4, longest_test=4, order=order, max_position=9)
    for n in (1, 4):
        write = jax.jit(lambda start, n=n: task.write(jnp.arange(4), n, start).positions)
        first = np.asarray(write(1))
        assert first[first > 0].min() == 1
        for start in range(1, task.starts(n) + 1):
            assert np.array_equal(write(start), np.where(first > 0, first + start - 1, 0))
        assert write(task.starts(n)).max() == task.max_position


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("longest", [1, 7, 500])
def test_one_head_by_hand_copies_at_every_length_and_from_every_start(order, longest):
    task = Copying(longest_train=longest, longest_test=longest, order=order, max_position=longest + 9)
    for sharpness, right in ((20.0, 1.0), (0.0, 0.0)):
        net, params = construct(task, sharpness)
        grade = jax.jit(lambda params, batch, net=net: jnp.argmax(net.apply(params, batch).logits, axis=-1))
        for sample in (task.sample, task.sample_test):
            batch = drawn(sample, np.full(10, longest))
            assert np.all(jax.vmap(task.score)(grade(params, batch), batch)["exact_match"] == right)


@pytest.mark.parametrize(
    "make, field",
    [
        (lambda: Copying(order="backward"), "did you mean backwards"),
        (lambda: Copying(max_position=40), "task.max_position must be at least 41"),
        (lambda: Board(shortest_train=6), "task.shortest_train must be from 1 to task.longest_train 5, got 6"),
        (lambda: Board(max_position=8), "task.max_position must be at least 9 for 8 side"),
    ],
)
def test_impossible_boards_and_copies_are_refused_by_name(make, field):
    with pytest.raises(ConfigError, match=field):
        make()
