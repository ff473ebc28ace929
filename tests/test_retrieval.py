"""The retrieval problem: chains of look-ups, what is asked of them, and the weights by hand that follow them."""

import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.losses import next_token
from lm.models import build
from lm.strict import ConfigError, override
from tasks.build import permutation
from tasks.formal.search.retrieval import Retrieval, retrieval_cpu
from tasks.formal.search.retrieval_construction import construct, doubled
from tasks.formal.search.retrieval_study import fewest_layers, pictures, run

TASK = Retrieval()


def drawn(task, count=300, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    return jax.jit(jax.vmap(lambda key: task.sample_test(key, task.hops)))(keys)


def follow(inputs, task):
    """Return the targets by a dictionary, the most hops first, and the dictionary."""
    pairs, (query, *more) = inputs[: 2 * task.symbols], inputs[2 * task.symbols :]
    successor = dict(zip(pairs[::2], pairs[1::2], strict=True))
    found = [query]
    for _ in range(task.symbols):
        found.append(successor[found[-1]])
    assert set(more) <= {query}
    return found, successor


@pytest.mark.parametrize("task", [TASK, Retrieval(symbols=5, hops=4), Retrieval(symbols=20, hops=1)], ids=str)
def test_answers_are_hops_through_one_cycle(task):
    batch = drawn(task)
    for inputs, targets in zip(np.asarray(batch.inputs).tolist(), np.asarray(batch.targets).tolist(), strict=True):
        found, successor = follow(inputs, task)
        assert sorted(successor) == sorted(successor.values()) == list(range(task.symbols))
        # A shorter cycle would come back to the query before all symbols were seen.
        assert found[task.symbols] == found[0] and len(set(found)) == task.symbols
        assert [targets[task.place(hop)] for hop in range(1, task.hops + 1)] == found[1 : task.hops + 1]


def test_cycles_queries_and_orders_are_uniform():
    task = Retrieval(symbols=4, hops=1)
    seen = Counter(map(tuple, np.asarray(drawn(task, 12_000).inputs).tolist()))
    cells = math.factorial(3) * math.factorial(4) * 4
    expected = 12_000 / cells
    chi_square = sum((count - expected) ** 2 / expected for count in seen.values())
    assert len(seen) == cells and abs(chi_square - (cells - 1)) < 4 * math.sqrt(2 * (cells - 1))
    # Equal keys are told apart.
    assert sorted(np.asarray(permutation(jnp.zeros(5, jnp.uint32)))) == list(range(5))


def test_names_and_the_order_of_pairs_do_not_matter():
    rng = np.random.default_rng(0)
    for inputs in np.asarray(drawn(TASK, 20).inputs):
        names, order = rng.permutation(TASK.symbols), rng.permutation(TASK.symbols)
        found, _ = follow(inputs.tolist(), TASK)
        assert follow(names[inputs].tolist(), TASK)[0] == names[found].tolist()
        pairs = inputs[: 2 * TASK.symbols].reshape(-1, 2)[order].ravel()
        assert follow([*pairs.tolist(), *inputs[2 * TASK.symbols :].tolist()], TASK)[0] == found


def test_each_way_of_asking_weighs_its_hops():
    key = jax.random.key(0)
    for ask, size, asked in (("all", 3, [1, 1, 1]), ("last", 3, [1, 0, 0]), ("random", 2, [0, 1, 0])):
        weights = Retrieval(ask=ask).sample(key, size).weights
        assert weights[-3:].tolist() == asked and weights[:-3].sum() == 0
    assert Retrieval(ask="random").sample_test(key, 3).weights.sum() == 3
    assert set(Retrieval(ask="last").score(jnp.zeros(19), TASK.sample(key, 3))) >= {"hop_3"}


def test_the_last_hop_alone_teaches_the_others_nothing():
    task = Retrieval(ask="last")
    net = build(override(retrieval_cpu(), {"model.depth": 1, "model.width": 16}).model)
    params = net.init(jax.random.key(0))
    batch = jax.vmap(lambda key: task.sample(key, 3))(jax.random.split(jax.random.key(1), 4))
    gradient = jax.jit(jax.grad(lambda params: next_token(net.apply, params, batch, None)[0]))(params)
    rows = jnp.abs(gradient["positions"]["table"]).max(axis=1)
    assert rows[task.place(3)] > 0 and rows[task.place(2)] == rows[task.place(1)] == 0


@pytest.mark.parametrize("hops", [1, 2, 3, 6])
def test_a_layer_a_hop_by_hand_is_right_everywhere(hops):
    task = Retrieval(hops=hops)
    net, params = construct(task)
    assert params["blocks"]["feedforward"]["up"]["kernel"].shape[0] == hops + 1
    batch = drawn(task)
    predictions = jnp.argmax(jax.jit(net.apply)(params, batch).logits, axis=-1)
    assert jnp.all(jax.vmap(task.score)(predictions, batch)["exact_match"] == 1)


def test_pointer_doubling_follows_two_to_the_layers_hops():
    for inputs in np.asarray(drawn(Retrieval(symbols=20, hops=1), 20).inputs):
        cycle, successor = follow(inputs.tolist(), Retrieval(symbols=20, hops=1))
        cycle = cycle[:20]
        for layers in range(5):
            found = doubled(np.array([successor[symbol] for symbol in range(20)]), layers)
            assert found[cycle].tolist() == [cycle[(i + 2**layers) % 20] for i in range(20)]


@pytest.mark.parametrize("settings, field", [({"symbols": 4, "hops": 4}, "task.hops"), ({"ask": "al"}, "all")])
def test_impossible_settings_are_refused_by_name(settings, field):
    with pytest.raises(ConfigError, match=field):
        Retrieval(**settings)


def test_the_fewest_layers_grow_like_a_logarithm():
    assert [fewest_layers(hops) for hops in (1, 2, 4, 5, 13, 14)] == [1, 2, 2, 3, 3, 4]


def test_the_study_measures_what_it_claims_and_draws(tmp_path, monkeypatch):
    tiny = override(retrieval_cpu(), {"train.steps": 20, "train.batch_size": 4, "model.width": 8})
    monkeypatch.setattr("tasks.formal.search.retrieval_study.retrieval_cpu", lambda: tiny)
    monkeypatch.setattr("tasks.formal.search.retrieval_study.LOOKS", 2)
    monkeypatch.setattr("tasks.formal.search.retrieval_study.ARMS", {"cpu": ((1, "all"), (1, "last"))})
    figures = run(tmp_path, "cpu", 0)
    assert figures["hand_errors"] == figures["doubled_errors"] == 0
    assert figures["ask=all/layers=1/hop_1"] == figures["ask=all/layers=1/curve/hop_1/20"]
    assert "ask=last/layers=1/hop_1" not in figures and "ask=last/layers=1/hop_3" in figures
    table, curves, looks = pictures({name: [value] for name, value in figures.items()})
    assert table.values[1][:2] == [None, None] and [list(s.x) for s in curves.series] == [[10, 20]] * 3
    assert len(looks.values) == 1 and all(0 <= share <= 1 for row in looks.values for share in row)
