"""Shortcuts of constant depth to solvable automata: cascades of cyclic counters, and a memory for resets.

    hand = cascade(symmetric(4), longest=100)          # four layers, one for each cyclic factor of the group
    hand = cascade(reset(3), longest=100)              # two counters, the latest reset, what came since

Krohn and Rhodes 1965 for automata whose symbols permute all states or reset them to one; Liu et al. 2023
(arXiv 2210.10749), theorem 2; the weights are ours.

The prefix product p_t of a group with a normal subgroup N and a cyclic quotient is r_t x^a_t, r_t in N. A symbol g
adds its exponent to a, and r_t = r_{t-1} (x^a_{t-1} g x^-a_t): a word over N, whose symbols a token knows once it
knows a_t. So layer i counts the exponents that layer i - 1 left it, modulo the order of factor i.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lm.strict import ConfigError
from tasks.construct import Layer
from tasks.formal.automata import parts as parts
from tasks.formal.automata.parts import Axes, Hand, Hidden
from tasks.formal.automata.semiautomata import Factor, Map, Semiautomaton, closure, cyclic_series, inverses, then


class Level(NamedTuple):
    """A counter of a cascade: the symbols it may read, and for each its exponent and what it leaves to the next level.

    `rest[symbol][a]` is the symbol of the next level where the counter stands at `a` after this one.
    """

    order: int
    exponent: Mapping[Map, int]
    rest: Mapping[Map, tuple[Map, ...]]


def powers(factor: Factor) -> list[Map]:
    """Return the powers 0..order-1 of a factor's turn."""
    found = [tuple(range(len(factor.turn)))]
    while len(found) < factor.order:
        found.append(then(found[-1], factor.turn))
    return found


def levels_of(series: Sequence[Factor], symbols: set[Map]) -> list[Level]:
    """Return the counters that follow words over these symbols of a group, the first to act first."""
    levels = []
    for factor in series:
        reps = powers(factor)
        backs = [inverse_of(x) for x in reps]
        exponent = {g: _exponent(g, factor, backs) for g in symbols}
        rest = {
            g: tuple(then(then(reps[(a - exponent[g]) % factor.order], g), backs[a]) for a in range(factor.order))
            for g in symbols
        }
        levels.append(Level(factor.order, exponent, rest))
        symbols = {r for each in rest.values() for r in each}
    return levels


def inverse_of(p: Map) -> Map:
    """Return the inverse of a permutation of all states."""
    return tuple(sorted(range(len(p)), key=p.__getitem__))


def _exponent(g: Map, factor: Factor, backs: Sequence[Map]) -> int:
    """Return the a for which g is of the kernel, then the a-th power of the turn."""
    return next(a for a, back in enumerate(backs) if then(g, back) in factor.kernel)


def counts_of(p: Map, series: Sequence[Factor]) -> list[int]:
    """Return where the counters stand after an element of the group."""
    counts = []
    for factor in series:
        backs = [inverse_of(x) for x in powers(factor)]
        counts.append(_exponent(p, factor, backs))
        p = then(p, backs[counts[-1]])
    return counts


def cascade(automaton: Semiautomaton, longest: int) -> Hand:
    """Follow an automaton of permutations and resets in a layer a cyclic factor, and two more where it has resets.

    The last two find the latest reset and combine it with the products before and since; without permutations the
    first of them is enough. ConfigError where a symbol is neither, or where the group is not solvable.
    """
    identity = tuple(range(automaton.states))
    moves = automaton.generators()
    resets = {s: m[0] for s, m in enumerate(moves) if len(set(m)) == 1}
    turns = {s: identity if s in resets else m for s, m in enumerate(moves)}
    for symbol, m in turns.items():
        if len(set(m)) < automaton.states:
            raise ConfigError(f"symbol {symbol} of the automaton neither permutes its states nor resets them to one")
    group = closure({identity, *turns.values()})
    series = cyclic_series(group)
    levels = levels_of(series, {identity, *turns.values()})
    places = {p: np.cumsum([0, *(f.order for f in series)])[:-1] + counts_of(p, series) for p in group}
    told = {p[automaton.start]: p for p in group}  # with no resets the state may tell the element
    remembers = bool(resets) or len(told) < len(group)

    q, size = automaton.states, sum(f.order for f in series)
    sizes = {f"symbol{i}": len(level.rest) for i, level in enumerate(levels)}
    sizes |= {f"{name}{i}": 1 for i in range(len(levels)) for name in ("step", "count")}
    axes = Axes(one=1, first=1, left=1, place=1, write=1, **sizes, known=q + size, found=q + size, base=q, state=q)
    layers = [_counter(axes, levels, i, q + sum(f.order for f in series[:i]), longest) for i in range(len(levels))]
    head = axes.zeros(q).T
    known, found = axes["known"].start, axes["found"].start
    if not remembers:
        for state, p in told.items():
            head[known + q + places[p], state] = 1.0
    elif len(group) == 1:
        layers.append(parts.latest(axes, [("write", (longest + 1) * parts.SHARP)], "known", "found", _idle(axes)))
        head[found + np.arange(q)] = np.eye(q)
    else:
        layers += _memory(axes, places, {automaton.start, *resets.values()}, longest)
        head[axes["state"]] = np.eye(q)

    embedding = parts.embedding_table(axes, automaton)
    for symbol, p in [*turns.items(), (automaton.symbols, identity)]:
        if levels:
            _write_symbol(axes, embedding[symbol], levels, p)
    for symbol, state in [*resets.items(), (automaton.symbols, automaton.start)]:
        embedding[symbol, axes["write"]] = 1.0
        embedding[symbol, known + state] = 1.0
    width = q + size if remembers else 1
    layers = parts.alike([parts.padded(layer, 1, width) for layer in layers])
    positions = parts.position_table(axes, longest)
    return parts.finish(automaton, embedding, positions, layers, head, [automaton.symbols], longest)


def _write_symbol(axes: Axes, row: np.ndarray, levels: Sequence[Level], p: Map) -> None:
    """Write an element of the group as the first counter reads it to a row of the embedding."""
    row[axes["symbol0"].start + list(levels[0].rest).index(p)] = 1.0
    row[axes["step0"]] = levels[0].exponent[p]


def _counter(axes: Axes, levels: Sequence[Level], i: int, place: int, longest: int) -> Layer:
    """Return the layer of counter i: its count, and for each of its symbols what is left to the next counter."""
    level = levels[i]
    hidden, n = Hidden(axes), level.order
    total, high = {axes[f"count{i}"].start: float(longest)}, longest * (n - 1)
    counts = {axes["known"].start + place + a: (lambda c, a=a: float(c % n == a)) for a in range(n)}
    hidden.function(total, 0, high, counts)
    if i + 1 < len(levels):
        after, first = levels[i + 1], axes[f"symbol{i + 1}"].start
        number = {g: first + k for k, g in enumerate(after.rest)}
        for k, rest in enumerate(level.rest.values()):
            left: dict[int, Callable[..., float]] = {
                number[r]: (lambda c, r=r, rest=rest: float(rest[c % n] == r)) for r in set(rest)
            }
            left[axes[f"step{i + 1}"].start] = lambda c, rest=rest: float(after.exponent[rest[c % n]])
            hidden.function(total, 0, high, left, gate=axes[f"symbol{i}"].start + k)
    return parts.one_head(parts.counting(axes, longest, f"step{i}", f"count{i}"), hidden)


def _idle(axes: Axes) -> Hidden:
    """Return hidden units that do nothing."""
    hidden = Hidden(axes)
    hidden.add({}, {})
    return hidden


def _memory(axes: Axes, places: Mapping[Map, np.ndarray], targets: set[int], longest: int) -> list[Layer]:
    """Return the layer that finds the latest reset, and the one that adds what came since.

    A reset to q where the product stood at p is worth a start at p^-1(q): from there p leads to q.
    """
    known, found, base, state = (axes[name].start for name in ("known", "found", "base", "state"))
    q = axes["state"].stop - state
    inverse = inverses(set(places))
    back, on = Hidden(axes), Hidden(axes)
    for p, place in places.items():
        for target in targets:
            back.all([found + target, *(found + q + place)], base + inverse[p][target])
        for begun in range(q):
            on.all([base + begun, *(known + q + place)], state + p[begun])
    finding = parts.latest(axes, [("write", (longest + 1) * parts.SHARP)], "known", "found", back)
    silent = [np.zeros_like(kernel) for kernel in finding[:4]]
    return [finding, Layer(*silent, *on.arrays())]
