"""Random acyclic graphs of fixed shape, with a place to stand in and a goal, drawn without a loop over examples.

    graph = balanced(key, ahead=2, vertices=9)
    look_ahead(graph)

Saparov et al. 2025, appendix on data. Vertices are 0..V-1, edges[a, b] says that b is a child of a, and reach[a, b]
that b can be reached from a or is a. Letters here: W vertices as neighbours, J branches.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm.types import Array, Key
from tasks.build import below, fraction

MOST = 3  # parents of a vertex, and children of an attached one
MORE = 5  # vertices beyond the shortest chains


class Graph(NamedTuple):
    """Edges and reachability [V, W], the vertex stood in, and the goal."""

    edges: Array
    reach: Array
    current: Array
    goal: Array


def reachability(edges_VW: Array) -> Array:
    """Return which vertex is reached from which, each from itself, by squaring: paths double their length each time."""
    reach_VW = edges_VW | jnp.eye(edges_VW.shape[0], dtype=bool)
    for _ in range((edges_VW.shape[0] - 1).bit_length()):
        reach_VW = jnp.any(reach_VW[:, :, None] & reach_VW[None], axis=1)
    return reach_VW


def union(which_V: Array, rows_VW: Array) -> Array:
    """Return the union of the chosen rows, [W]: a product of booleans, without the slow matrix product of them."""
    return jnp.any(which_V[:, None] & rows_VW, axis=0)


def useful_children(graph: Graph) -> Array:
    """Return the children of the current vertex from which the goal is reached, [V]."""
    return graph.edges[graph.current] & graph.reach[:, graph.goal]


def look_ahead(graph: Graph) -> Array:
    """Return how often the frontier of a breadth-first search is examined until no entry of it began with a useless
    step, or the goal is in it; 0 where no child is useless.

    An entry that two first steps reach at once began with both.
    """
    vertices = graph.edges.shape[0]
    frontier_V = graph.edges[graph.current]
    astray_V = frontier_V & ~useful_children(graph)
    seen_V = frontier_V | (jnp.arange(vertices) == graph.current)

    def expand(_: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        frontier_V, astray_V, seen_V, ahead, done = state
        done = done | ~jnp.any(astray_V)
        ahead = ahead + ~done
        done = done | frontier_V[graph.goal]
        frontier_V, astray_V = (union(which_V, graph.edges) & ~seen_V for which_V in (frontier_V, astray_V))
        return frontier_V, astray_V, seen_V | frontier_V, ahead, done

    state = (frontier_V, astray_V, seen_V, jnp.int32(0), jnp.bool_(False))
    return jax.lax.fori_loop(0, vertices, expand, state)[3]


def balanced(key: Key, ahead: Array, vertices: int, attach: Array | bool = True, chains_only: bool = False) -> Graph:
    """Return a graph whose chains from vertex 0 ask for this look-ahead; what is attached to them may change it.

    One chain leads to the goal in as many steps, one or more others are as long or one longer (where no look-ahead is
    asked, there is one edge and no other chain), and a chain of random length leads to vertex 0. Up to five more
    vertices are attached where `attach`. With `chains_only` all chains are alike and nothing else is there.
    """
    key_chains, key_attached = jax.random.split(key)
    bits = jax.random.bits(key_chains, (vertices + 3,))
    order_V = jnp.arange(vertices)
    length = jnp.maximum(ahead, 1)
    branches = jnp.where(ahead == 0, 1, 2 + below(bits[0], jnp.maximum((vertices - 1) // length - 1, 1)))
    core = length * branches + 1
    count = core if chains_only else jnp.minimum(core + below(bits[1], MORE + 1), vertices)
    longer_J = (bits[3:] & 1).astype(bool) & (order_V > 0) & (order_V < branches)
    longer_J &= jnp.cumsum(longer_J) <= count - core
    lengths_J = jnp.where(order_V < branches, length, 0) + longer_J
    starts_J = 1 + jnp.cumsum(lengths_J) - lengths_J
    core = 1 + jnp.sum(lengths_J)
    first_V = jnp.any((order_V[:, None] == starts_J[None]) & (lengths_J > 0)[None], axis=1)
    before = below(bits[2], count - core + 1)
    is_child_V = (order_V > 0) & (order_V < core)
    is_before_V = (order_V >= core) & (order_V < core + before)
    from_V = jnp.where(is_child_V, jnp.where(first_V, 0, order_V - 1), order_V)
    to_V = jnp.where(is_child_V, order_V, jnp.where(order_V == core, 0, order_V - 1))
    there_V11 = (is_child_V | is_before_V)[:, None, None]
    edges_VW = jnp.any(
        there_V11 & (from_V[:, None] == order_V[None])[:, :, None] & (to_V[:, None] == order_V[None])[:, None], axis=0
    )
    graph = Graph(edges_VW, reachability(edges_VW), jnp.int32(0), length)
    if chains_only:
        return graph
    return _attached(key_attached, graph, core + before, jnp.where(attach, count, 0))


def _attached(key: Key, graph: Graph, start: Array, stop: Array) -> Graph:
    """Attach vertices start..stop-1, each to up to three children and parents, more likely to those of high degree."""
    vertices = graph.edges.shape[0]
    order_V = jnp.arange(vertices)
    bits = jax.random.bits(key, (MORE, vertices + 1))
    halves = jnp.stack([bits & 0xFFFF, bits >> 16], axis=1)  # one word decides of a child and of a parent

    def pick(bits_V: Array, weights_V: Array, allowed_V: Array, count: Array) -> Array:
        """Choose by the order in which exponential clocks of these rates ring, of 16 bits each."""
        rings_V = jnp.where(allowed_V, -jnp.log1p(-fraction(bits_V << 16)) / weights_V, jnp.inf)
        same_VW = (rings_V[None] == rings_V[:, None]) & (order_V[None] < order_V[:, None])
        return allowed_V & (jnp.sum((rings_V[None] < rings_V[:, None]) | same_VW, axis=1) < count)

    def attach(number: Array, held: tuple[Array, Array]) -> tuple[Array, Array]:
        (edges_VW, reach_VW), vertex = held, start + number
        weights_V = 0.5 + edges_VW.sum(axis=0) + edges_VW.sum(axis=1)
        here_V = order_V == vertex
        children, parents = halves[number, :, -1] << 16
        children = below(children, MOST + 1)
        parents = jnp.where(children == 0, 1 + below(parents, MOST), below(parents, MOST + 1))
        known_V = (vertex < stop) & (order_V < vertex)
        children_V = pick(halves[number, 0, :-1], weights_V, known_V, children)
        behind_V = union(children_V, reach_VW)
        parents_V = pick(halves[number, 1, :-1], weights_V, known_V & ~behind_V, parents)
        edges_VW |= (here_V[:, None] & children_V[None]) | (parents_V[:, None] & here_V[None])
        reach_VW |= (union(parents_V, reach_VW.T) | here_V)[:, None] & (behind_V | here_V)[None]
        return edges_VW, reach_VW

    edges_VW, reach_VW = jax.lax.fori_loop(0, MORE, attach, (graph.edges, graph.reach))
    return graph._replace(edges=edges_VW, reach=reach_VW)


def star(key: Key, ahead: Array, vertices: int, attach: Array | bool = True) -> Graph:
    """Return chains of one length from vertex 0, the goal at the end of one; a single chain where nothing is asked."""
    return balanced(key, ahead, vertices, chains_only=True)


def naive(key: Key, ahead: Array, vertices: int, attach: Array | bool = True) -> Graph:
    """Return a graph whose vertices have one parent or, as often, one to three of those before them (one each without
    `attach`), a vertex and a goal that it reaches; no look-ahead is asked for."""
    bits = jax.random.bits(key, (vertices + 2, vertices))
    order_V = jnp.arange(vertices)
    count = 2 + below(bits[-1, 0], vertices - 1)
    coins_V, parents_V = bits[-2] & 1, below(bits[-2], MOST)
    parents_V = 1 + jnp.where(attach, coins_V.astype(jnp.int32) * parents_V, 0)
    earlier_VW = order_V[None] < order_V[:, None]
    rings_VW = jnp.where(earlier_VW, fraction(bits[:-2]), 1.0)
    rank_VW = jnp.sum(rings_VW[:, None] < rings_VW[:, :, None], axis=2)
    parent_VW = earlier_VW & (rank_VW < parents_V[:, None]) & (order_V < count)[:, None]
    edges_VW = parent_VW.T
    reach_VW = reachability(edges_VW)
    pairs_VW = reach_VW & ~jnp.eye(vertices, dtype=bool)
    chosen = choose(jax.random.bits(jax.random.fold_in(key, 0), (vertices * vertices,)), pairs_VW.reshape(-1))
    return Graph(edges_VW, reach_VW, chosen // vertices, chosen % vertices)


def choose(bits_N: Array, allowed_N: Array) -> Array:
    """Return one of the allowed indices, each as likely; 0 where there is none."""
    return jnp.argmax(jnp.where(allowed_N, 1 + (bits_N >> 1), 0)).astype(jnp.int32)


KINDS = {"balanced": balanced, "star": star, "naive": naive}


def fits(graph: Graph, ahead: Array, most_edges: int, kind: str) -> Array:
    """Return whether a graph has few enough edges and, unless it is naive, the look-ahead that was asked for."""
    few = jnp.sum(graph.edges) <= most_edges
    return few if kind == "naive" else few & (look_ahead(graph) == ahead)


def draw_graph(key: Key, ahead: Array, vertices: int, kind: str, tries: int) -> Graph:
    """Return the first of several graphs that fits into as many edges as vertices; the last has nothing attached,
    so that it fits."""
    more_T = jnp.arange(tries) < tries - 1
    graphs = jax.vmap(lambda key, more: KINDS[kind](key, ahead, vertices, more))(jax.random.split(key, tries), more_T)
    first = jnp.argmax(jax.vmap(lambda graph: fits(graph, ahead, vertices, kind))(graphs))
    return jax.tree.map(lambda x: x[first], graphs)
