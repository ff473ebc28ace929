"""Graph search: graphs of a known look-ahead, how they are written, and the oracle that merges paths."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.strict import ConfigError, override
from tasks.formal.search import graphs as graphs
from tasks.formal.search.graph_search import GraphSearch, graph_search_cpu
from tasks.formal.search.graph_study import BASELINES, merged_paths, parse, pictures, run, searched
from tasks.formal.search.graphs import Graph, draw_graph, look_ahead, reachability, useful_children

TASKS = {
    "balanced": GraphSearch(),
    "large": GraphSearch(inputs=50, longest=5),
    "star": GraphSearch(inputs=41, longest=4, graphs="star", tested="star"),
    "naive": GraphSearch(inputs=25, longest=2, graphs="naive"),
}
each_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def drawn(task, count=80):
    """Return training examples of every size."""
    sizes = jnp.arange(count) % (task.longest + 1)
    return jax.jit(jax.vmap(task.sample))(jax.random.split(jax.random.key(3), count), sizes), sizes.tolist()


def read(task, tokens):
    """Return the edges, start, goal and path that tokens write, after checking their form."""
    mark = task.marks
    words = [token for token in tokens if token != mark["pad"]]
    assert tokens[len(tokens) - len(words) :] == words
    query = words.index(mark["query"])
    edges = words[:query]
    assert set(edges[::3]) <= {mark["edge"]} and words[query + 3] == mark["path"]
    return list(zip(edges[1::3], edges[2::3], strict=True)), *words[query + 1 : query + 3], words[query + 4 :]


def reached(edges, vertex):
    """Return all vertices that a search from a vertex finds, itself among them."""
    found, queue = {vertex}, [vertex]
    while queue:
        here = queue.pop()
        queue += [b for a, b in edges if a == here and b not in found]
        found |= set(queue)
    return found


def steps_ahead(edges, current, goal):
    """Return the look-ahead by a breadth-first search whose entries remember the first steps that led there."""
    frontier = {child: {child} for a, child in edges if a == current}
    useful = {child for child in frontier if goal in reached(edges, child)}
    seen, ahead = {current, *frontier}, 0
    while not all(steps <= useful for steps in frontier.values()):
        ahead += 1
        if goal in frontier:
            break
        further = {}
        for a, b in edges:
            if a in frontier and b not in seen:
                further.setdefault(b, set()).update(frontier[a])
        seen |= set(further)
        frontier = further
    return ahead


def as_graph(edges, current, goal, vertices):
    matrix = np.zeros((vertices, vertices), bool)
    for a, b in edges:
        matrix[a, b] = True
    return Graph(jnp.asarray(matrix), reachability(jnp.asarray(matrix)), jnp.int32(current), jnp.int32(goal))


@each_task
def test_graphs_are_acyclic_and_ask_for_the_look_ahead(task):
    batch, sizes = drawn(task)
    shapes = set()
    for tokens, useful, target, size in zip(
        batch.inputs.tolist(), batch.info["useful"], batch.targets[:, -1].tolist(), sizes, strict=True
    ):
        edges, start, goal, path = read(task, tokens)
        names = {name for edge in edges for name in edge}
        assert len(set(edges)) == len(edges) <= task.vertices and names <= set(range(1, task.vertices + 1))
        assert all(a not in reached(edges, b) for a, b in edges)
        assert path[0] == start and set(itertools.pairwise(path)) <= set(edges) and path[-1] != goal
        children = {b for a, b in edges if a == path[-1]}
        right = {child for child in children if goal in reached(edges, child)}
        assert target in right and set(np.flatnonzero(useful).tolist()) == right
        assert task.graphs == "naive" or steps_ahead(edges, path[-1], goal) == size
        shapes.add((len(edges), len(path)))
    assert len(shapes) > 8 or task.graphs == "star"


def test_the_look_ahead_is_that_of_a_search():
    cases = [([(0, 1), (0, 2)], 1, 1), ([(0, 2), (2, 1), (0, 3), (3, 4)], 1, 2), ([(0, 2), (2, 1)], 1, 0)]
    cases.append(([(0, 2), (2, 3), (3, 1), (0, 4)], 1, 1))
    for edges, goal, ahead in cases:
        assert int(look_ahead(as_graph(edges, 0, goal, 5))) == steps_ahead(edges, 0, goal) == ahead
    pairs = list(itertools.combinations(range(5), 2))
    matrices, ahead = [], []
    for edges in (list(itertools.compress(pairs, kept)) for kept in itertools.product((0, 1), repeat=len(pairs))):
        if 4 in reached(edges, 0):
            matrices.append(as_graph(edges, 0, 4, 5))
            ahead.append(steps_ahead(edges, 0, 4))
    stacked = jax.tree.map(lambda *x: np.stack(x), *matrices)
    assert len(ahead) > 500 and set(ahead) == {0, 1, 2}
    assert jax.jit(jax.vmap(look_ahead))(stacked).tolist() == ahead


def test_training_is_uniform_over_look_aheads():
    task = GraphSearch()
    batch = jax.jit(lambda key: task.draw(key, 2000))(jax.random.key(0))
    counts = np.zeros(task.longest + 1)
    for tokens in batch.inputs.tolist():
        edges, _, goal, path = read(task, tokens)
        counts[steps_ahead(edges, path[-1], goal)] += 1
    assert ((counts - 500) ** 2 / 500).sum() < 16.3  # chi-square, three degrees of freedom, 1 in 1,000


def test_names_and_the_order_of_edges_do_not_matter():
    rng = np.random.default_rng(0)
    draw = jax.jit(lambda key: draw_graph(key, jnp.int32(2), 9, "balanced", 4))
    reachability, look_ahead = jax.jit(graphs.reachability), jax.jit(graphs.look_ahead)
    for seed in range(10):
        graph = draw(jax.random.key(seed))
        order = rng.permutation(9)
        place = np.argsort(order)
        edges = graph.edges[order][:, order]
        other = Graph(edges, reachability(edges), jnp.int32(place[graph.current]), jnp.int32(place[graph.goal]))
        assert look_ahead(other) == look_ahead(graph) == 2
        assert np.array_equal(useful_children(other), np.asarray(useful_children(graph))[order])


@each_task
def test_merging_paths_answers_every_question(task):
    batch, _ = drawn(task)
    answers = jax.jit(lambda inputs: searched(task, inputs))(batch.inputs)
    assert jnp.all(jnp.take_along_axis(batch.info["useful"], answers[:, None], axis=1))
    edges = parse(task, batch.inputs).edges[0]
    for rounds, reach in enumerate(merged_paths(edges)):
        paths = sum(np.linalg.matrix_power(np.asarray(edges, int), n) for n in range(2**rounds + 1))
        assert np.array_equal(reach, paths > 0)


@pytest.mark.parametrize(
    "settings, field",
    [({"inputs": 20, "longest": 3}, "task.longest"), ({"inputs": 16}, "task.inputs"), ({"graphs": "stars"}, "star")],
)
def test_impossible_settings_are_refused_by_name(settings, field):
    with pytest.raises(ConfigError, match=field):
        GraphSearch(**settings)


def test_any_useful_child_is_right():
    task = GraphSearch()
    example = task.sample(jax.random.key(0), 1)
    for token in range(task.vocabulary):
        predictions = jnp.full(task.inputs, token)
        assert task.score(predictions, example)["exact_match"] == example.info["useful"][token]


def test_the_study_measures_what_it_claims_and_draws(tmp_path, monkeypatch):
    tiny = override(graph_search_cpu(), {"train.steps": 2, "train.batch_size": 4, "model.width": 8, "model.depth": 1})
    monkeypatch.setattr("tasks.formal.search.graph_study.graph_search_cpu", lambda: tiny)
    monkeypatch.setattr("tasks.formal.search.graph_study.COUNT", 60)
    monkeypatch.setattr(GraphSearch, "test_count", 32)
    figures = run(tmp_path, "cpu", 0)
    for size in range(4):
        assert figures[f"oracle/{size}"] == 1
        assert all(0 <= figures[f"{name}/{size}"] <= 1 for name in ("balanced", "naive", *BASELINES))
    assert figures["random child/0"] == 1 and figures["random child/1"] < 0.5
    answers, probes = pictures({name: [value] for name, value in figures.items()})
    assert len(answers.values) == 3 + len(BASELINES) and len(probes.values) == 2
