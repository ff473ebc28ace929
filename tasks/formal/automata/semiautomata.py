"""Semiautomata as transition tables, and the algebra of their maps (Liu et al. 2023, arXiv 2210.10749).

grid = gridworld(4)
states = grid.run([1, 1, 0])           # 1, 2, 1
structure(grid)                        # the size of its semigroup, whether it is a group, whether it is solvable
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from lm.strict import ConfigError, nearest

Map = tuple[int, ...]  # where each state goes


@dataclass(frozen=True)
class Semiautomaton:
    """States 0..Q-1 and symbols 0..S-1: `table[state][symbol]` is the next state; `law` weighs the symbols."""

    table: tuple[Map, ...]
    start: int = 0
    law: tuple[float, ...] = ()  # () is uniform

    @property
    def states(self) -> int:
        return len(self.table)

    @property
    def symbols(self) -> int:
        return len(self.table[0])

    def generators(self) -> list[Map]:
        """Return the map of each symbol."""
        return [tuple(row[symbol] for row in self.table) for symbol in range(self.symbols)]

    def run(self, word: Iterable[int]) -> list[int]:
        """Return the state after each symbol, one step at a time."""
        state, visited = self.start, []
        for symbol in word:
            state = self.table[state][symbol]
            visited.append(state)
        return visited


def from_maps(generators: Sequence[Map], start: int = 0, law: tuple[float, ...] = ()) -> Semiautomaton:
    """Return the semiautomaton whose symbols act as these maps."""
    return Semiautomaton(tuple(zip(*generators, strict=True)), start, law)


def then(first: Map, second: Map) -> Map:
    """Return the map that applies `first`, then `second`."""
    return tuple(second[state] for state in first)


def cyclic(n: int) -> Semiautomaton:
    """Count modulo n; the symbols add 0 and 1 (parity for n = 2)."""
    return from_maps([tuple(range(n)), tuple((q + 1) % n for q in range(n))])


def cyclic_cube(n: int) -> Semiautomaton:
    """Count three things modulo n; symbol i adds 1 to count i, the last one to none."""
    triples = list(product(range(n), repeat=3))
    place = {triple: number for number, triple in enumerate(triples)}

    def bump(triple: tuple[int, ...], i: int) -> int:
        return place[tuple((x + (j == i)) % n for j, x in enumerate(triple))]

    return from_maps([tuple(bump(triple, i) for triple in triples) for i in range(4)])


def dihedral(n: int) -> Semiautomaton:
    """Drive around a circle of n places: 0 turns round, 1 drives one place; states are n * direction + place."""
    turn = [(1 - q // n) * n + q % n for q in range(2 * n)]
    drive = [q // n * n + (q % n + (1 if q < n else -1)) % n for q in range(2 * n)]
    return from_maps([tuple(turn), tuple(drive)])


def quaternion(_: int = 8) -> Semiautomaton:
    """Multiply by 1, i, j or k from the right; states 0..3 are 1, i, j, k and 4..7 their negatives."""
    rows = ((0, 1, 2, 3), (1, 4, 3, 6), (2, 7, 4, 1), (3, 2, 5, 4))
    return Semiautomaton(rows + tuple(tuple((x + 4) % 8 for x in row) for row in rows))


def symmetric(n: int) -> Semiautomaton:
    """Permute n things: the symbols do nothing, shift all, or swap the first two; states are ranked permutations."""
    shift, swap = (*range(1, n), 0), (1, 0, *range(2, n))
    return _permuting(list(permutations(range(n))), [tuple(range(n)), shift, swap])


def alternating(n: int) -> Semiautomaton:
    """Permute n things evenly: the symbols do nothing, or turn the first two and one other around."""
    even = [p for p in permutations(range(n)) if _parity(p) == 0]
    turns = []
    for x in range(2, n):
        turn = list(range(n))
        turn[0], turn[1], turn[x] = 1, x, 0
        turns.append(tuple(turn))
    return _permuting(even, [tuple(range(n)), *turns])


def _permuting(states: list[Map], moves: Sequence[Map]) -> Semiautomaton:
    place = {state: number for number, state in enumerate(states)}
    return from_maps([tuple(place[tuple(state[i] for i in move)] for state in states) for move in moves])


def _parity(p: Map) -> int:
    return sum(p[i] > p[j] for j in range(len(p)) for i in range(j)) % 2


def flip_flop(n: int) -> Semiautomaton:
    """Remember the last of n symbols written; 0 reads, half of the time, and state 0 is before any write."""
    maps = [tuple(range(n + 1)), *(tuple([symbol] * (n + 1)) for symbol in range(1, n + 1))]
    return from_maps(maps, law=(0.5, *([0.5 / n] * n)))


def gridworld(n: int) -> Semiautomaton:
    """Walk on a line of n places with walls: 0 goes left, 1 goes right."""
    return from_maps([tuple(max(q - 1, 0) for q in range(n)), tuple(min(q + 1, n - 1) for q in range(n))])


def abab(_: int = 5) -> Semiautomaton:
    """Watch for 0101...; state 4 is a word that broke the pattern."""
    return Semiautomaton(((4, 1), (2, 4), (4, 3), (0, 4), (4, 4)), start=3)


def carry(n: int) -> Semiautomaton:
    """Add n numbers of bits, units first: a symbol is the number of ones in a column, the state the carry."""
    return from_maps([tuple((q + column) // 2 for q in range(n)) for column in range(n + 1)])


def adder(n: int) -> Semiautomaton:
    """Add n numbers of bits, units first: a symbol is a column, bit by bit; states are digit + 2 * carry."""
    sums = [[q // 2 + column.bit_count() for column in range(2**n)] for q in range(2 * n)]
    return Semiautomaton(tuple(tuple(total % 2 + 2 * (total // 2) for total in row) for row in sums))


def reset(n: int) -> Semiautomaton:
    """Permute n things, or set them to a given order: symbols n! and on permute, the others reset, one in five."""
    group = symmetric(n)
    maps = [tuple([state] * group.states) for state in range(group.states)] + group.generators()
    resets, moves = 0.2 / group.states, 0.8 / group.symbols
    return from_maps(maps, law=(*([resets] * group.states), *([moves] * group.symbols)))


def stack(depth: int, kinds: int = 2) -> Semiautomaton:
    """Push and pop brackets of `kinds` kinds, at most `depth` deep; the last state is a word that broke the rules."""
    stacks = [s for size in range(depth + 1) for s in product(range(kinds), repeat=size)]
    place: dict[tuple[int, ...] | None, int] = {s: number for number, s in enumerate(stacks)}
    place[None] = len(stacks)

    def push(s: tuple[int, ...] | None, kind: int) -> int:
        return place[None if s is None or len(s) == depth else (*s, kind)]

    def pop(s: tuple[int, ...] | None, kind: int) -> int:
        return place[s[:-1] if s and s[-1] == kind else None]

    actions = [(act, kind) for act in (push, pop) for kind in range(kinds)]
    return from_maps([tuple(act(s, kind) for s in place) for act, kind in actions])


FAMILIES: Mapping[str, Callable[[int], Semiautomaton]] = MappingProxyType(
    {
        family.__name__: family
        for family in (
            cyclic, cyclic_cube, dihedral, quaternion, symmetric, alternating, flip_flop, gridworld, abab, carry, adder,
            reset, stack,
        )
    }
)  # fmt: skip

LARGEST: Mapping[str, int] = MappingProxyType(  # orders whose tables are still small; 64 where none stands
    {"symmetric": 6, "alternating": 7, "reset": 5, "adder": 9, "stack": 9, "cyclic_cube": 8}
)


def make(family: str, order: int) -> Semiautomaton:
    """Return the member of a family; ConfigError with the nearest name where there is none."""
    if family not in FAMILIES:
        raise ConfigError(f"no family {family!r}{nearest(family, FAMILIES)} (families: {', '.join(FAMILIES)})")
    largest = LARGEST.get(family, 64)
    if not 2 <= order <= largest:
        raise ConfigError(f"the order of {family} must lie in 2..{largest}, got {order}")
    return FAMILIES[family](order)


def readings(family: str, order: int) -> dict[str, Map]:
    """Return what may be asked in place of the state, as one answer a state (indirect supervision)."""
    states = range(make(family, order).states)
    found: dict[str, Callable[[int], int]] = {
        "cyclic": {"zero": lambda q: int(q == 0)},
        "dihedral": {"place": lambda q: q % order, "direction": lambda q: q // order},
        "symmetric": {"first_chair": lambda q: q // math.factorial(order - 1)},
        "gridworld": {"boundary": lambda q: int(q in (0, order - 1))},
        "abab": {"accepted": lambda q: int(q == 3)},
        "adder": {"digit": lambda q: q % 2, "carry": lambda q: q // 2},
        # Stacks are ordered by size, then by what they hold: the top one is 1 or 2, or 0 where nothing is, or 3.
        "stack": {"top": lambda q: 3 if q == len(states) - 1 else (q + 1) % 2 + 1 if q else 0},
    }.get(family, {})
    return {name: tuple(map(reading, states)) for name, reading in found.items()}


class Structure(NamedTuple):
    """The size of a semigroup of maps, whether it is a group, whether every group that divides it is solvable."""

    size: int
    group: bool
    solvable: bool


def structure(automaton: Semiautomaton) -> Structure:
    """Return what the semigroup says of the depth that a semiautomaton needs (constant where it is solvable)."""
    semigroup = maps(automaton)
    bijective = all(len(set(g)) == automaton.states for g in automaton.generators())
    solvable = all(derived_length(group) is not None for group in maximal_groups(semigroup))
    return Structure(len(semigroup), bijective, solvable)


def maps(automaton: Semiautomaton) -> set[Map]:
    """Return the transformation semigroup: every map that a word of at least one symbol makes."""
    return closure(automaton.generators())


def closure(generators: Iterable[Map]) -> set[Map]:
    """Return every product of at least one of the generators."""
    generators = set(generators)
    found, fresh = set(generators), set(generators)
    while fresh:
        fresh = {then(m, g) for m in fresh for g in generators} - found
        found |= fresh
    return found


def maximal_groups(semigroup: set[Map]) -> list[set[Map]]:
    """Return the group of units around each idempotent e: the maps that permute its image and go where e goes.

    Every group that divides the semigroup divides one of these.
    """
    idempotents = [m for m in semigroup if then(m, m) == m]
    return [{m for m in semigroup if set(m) == set(e) and then(e, m) == m} for e in idempotents]


def derived_length(group: set[Map]) -> int | None:
    """Return how many times a group's commutators must be taken until one map is left; None if that never happens."""
    length = 0
    while len(group) > 1:
        derived = commutators(group)
        if derived == group:
            return None
        group, length = derived, length + 1
    return length


def inverses(group: set[Map]) -> dict[Map, Map]:
    """Return the inverse of every map of a group."""
    identity = next(m for m in group if then(m, m) == m)
    return {m: next(x for x in group if then(m, x) == identity) for m in group}


def commutators(group: set[Map]) -> set[Map]:
    """Return the subgroup that the commutators generate."""
    inverse = inverses(group)
    return closure(then(then(inverse[a], inverse[b]), then(a, b)) for a in group for b in group)


class Factor(NamedTuple):
    """A step of a normal series: `kernel` is normal, and the powers 0..order-1 of `turn` reach each of its cosets."""

    order: int
    turn: Map
    kernel: frozenset[Map]


def cyclic_series(group: set[Map]) -> tuple[Factor, ...]:
    """Return the shortest series of cyclic factors from a solvable group to one map; ConfigError where there is none.

    With r in the kernel every element is r, then a power of `turn`, in one way.
    """
    if len(group) == 1:
        return ()
    derived = commutators(group)
    if derived == group:
        raise ConfigError(f"a group of {len(group)} maps is its own commutator subgroup: it has no cyclic factors")
    cosets = _cosets(group, derived)
    kernels: dict[frozenset[Map], Factor] = {}
    for turn in cosets:
        order = order_modulo(turn, derived)
        for first in cosets if order > 1 else ():
            kernel = derived
            for each in (first, *cosets):  # the largest kernel, `first` in it if possible, modulo which the order stays
                larger = kernel if each in kernel else closure(kernel | {each})
                kernel = larger if order_modulo(turn, larger) == order else kernel
            if order * len(kernel) == len(group):
                kernels[frozenset(kernel)] = Factor(order, turn, frozenset(kernel))
    series = [(factor, *cyclic_series(set(factor.kernel))) for factor in kernels.values()]
    return min(series, key=lambda factors: (len(factors), -factors[0].order, sorted(factors[0].kernel)))


def _cosets(group: set[Map], kernel: set[Map]) -> list[Map]:
    """Return the least element of each coset of a normal subgroup."""
    return sorted({min(then(r, m) for r in kernel) for m in group})


def order_modulo(m: Map, kernel: set[Map]) -> int:
    """Return the least power of a permutation that lies in a group of permutations."""
    power, order = m, 1
    while power not in kernel:
        power, order = then(power, m), order + 1
    return order


def as_arrays(automaton: Semiautomaton) -> tuple[np.ndarray, np.ndarray]:
    """Return the maps of the symbols [S, Q] and the law of the symbols [S]."""
    law = automaton.law or (1 / automaton.symbols,) * automaton.symbols
    return np.array(automaton.generators(), np.int32), np.array(law, np.float32)
