"""Shortcuts to semiautomata as weights: two layers for a walk between walls, the logarithm of the length for all.

    hand = gridworld(4, longest=100)           # two layers
    states_BT = follow(hand, words_BT)         # the state after each symbol

Liu et al. 2023 (arXiv 2210.10749), theorems 1 and 3; the weights are ours. Those of theorem 2: cascades.py.
"""

from __future__ import annotations

import math

import numpy as np

from tasks.construct import Layer
from tasks.formal.automata import parts as parts
from tasks.formal.automata import semiautomata
from tasks.formal.automata.parts import Axes, Hand, Hidden
from tasks.formal.automata.semiautomata import Semiautomaton


def gridworld(n: int, longest: int) -> Hand:
    """Walk between walls in two layers, whatever the length; n - 1 steps to the left come first.

    Layer 1 sums the steps to c. Head k of layer 2 finds the latest time at which the sum was c - k modulo n; the
    state is the number of k in 1..n-1 for which it was below c then, as the wall that was met last decides.
    """
    automaton = semiautomata.gridworld(n)
    tokens = longest + n - 1
    axes = Axes(one=1, first=1, left=1, place=1, step=1, total=1, rest=n, before=n - 1, state=1)
    embedding = parts.embedding_table(axes, automaton)
    embedding[0, axes["step"]], embedding[1, axes["step"]] = -1.0, 1.0
    first = Hidden(axes)
    rests = {axes["rest"].start + r: (lambda c, r=r: float(c % n == r)) for r in range(n)}
    first.function({axes["total"].start: float(tokens)}, -tokens, tokens, rests)
    # Layer 2: scores match the remainder, and the latest match wins.
    width = n + 1
    query, key, values = (np.zeros((axes.width, n - 1, width)) for _ in range(3))
    output = np.zeros((n - 1, width, axes.width))
    second = Hidden(axes)
    for k in range(1, n):
        for r in range(n):
            query[axes["rest"].start + r, k - 1, (r - k) % n] = (tokens + 1) * parts.SHARP
            key[axes["rest"].start + r, k - 1, r] = 1.0
        query[axes["one"], k - 1, n] = 1.0
        key[axes["place"], k - 1, n] = parts.SHARP
        values[axes["total"], k - 1, 0] = 1.0
        place = axes["before"].start + k - 1
        output[k - 1, 0, place] = 1.0
        behind = {axes["total"].start: float(tokens), place: -float(tokens)}
        second.function(behind, 0, 2 * tokens, {axes["state"].start: lambda c: float(c > 0)})
    layers = [
        parts.padded(parts.one_head(parts.counting(axes, tokens, "step", "total"), first), n - 1, width),
        Layer(query, key, values, output, *second.arrays()),
    ]
    head = axes.zeros(n).T
    head[axes["state"]] = 2.0 * np.arange(n)  # 2 a q - a^2 is largest for a = q
    head[axes["one"]] = -1.0 * np.arange(n) ** 2
    prefix = [automaton.symbols, *([0] * (n - 1))]
    return parts.finish(
        automaton, embedding, parts.position_table(axes, tokens), parts.alike(layers), head, prefix, longest
    )


def divide_and_conquer(automaton: Semiautomaton, longest: int) -> Hand:
    """Follow any semiautomaton in ceil(log2(longest + 1)) layers: each doubles the stretch whose map a token knows.

    A token holds a map as a table of ones, [Q, Q]. It attends to the token that far before it, or to the first one
    (which holds the identity), and composes: new[q][a] is 1 where some b has prev[q][b] = cur[b][a] = 1.
    """
    q = automaton.states
    axes = Axes(one=1, first=1, cos=1, sin=1, cur=q * q, prev=q * q)
    embedding = parts.embedding_table(axes, automaton)
    for symbol, images in [*enumerate(automaton.generators()), (automaton.symbols, tuple(range(q)))]:
        embedding[symbol, axes["cur"]] = np.eye(q)[list(images)].reshape(-1)
    angle = math.pi / (longest + 2)
    positions = axes.zeros(longest + 1)
    positions[:, axes["cos"]] = np.cos(angle * np.arange(longest + 1))[:, None]
    positions[:, axes["sin"]] = np.sin(angle * np.arange(longest + 1))[:, None]
    scale = parts.SHARP / (1 - math.cos(angle))
    layers = [_doubling(axes, q, angle * 2**level, scale) for level in range(max(1, math.ceil(math.log2(longest + 1))))]
    head = axes.zeros(q).T
    head[axes["cur"].start + automaton.start * q : axes["cur"].start + (automaton.start + 1) * q] = np.eye(q)
    return parts.finish(automaton, embedding, positions, layers, head, [automaton.symbols], longest)


def _doubling(axes: Axes, q: int, back: float, scale: float) -> Layer:
    """Return the layer that composes a token's map with the one held an angle of `back` before it."""
    width = q * q
    query, key, values = (np.zeros((axes.width, 1, max(2, width))) for _ in range(3))
    output = np.zeros((1, max(2, width), axes.width))
    cos, sin = axes["cos"].start, axes["sin"].start
    # (cos, sin) of the query's angle minus `back`, against those of the key
    query[cos, 0, :2] = scale * np.array([math.cos(back), -math.sin(back)])
    query[sin, 0, :2] = scale * np.array([math.sin(back), math.cos(back)])
    key[cos, 0, 0] = key[sin, 0, 1] = 1.0
    values[axes["cur"], 0, :width] = np.eye(width)
    output[0, :width, axes["prev"]] = np.eye(width)
    hidden, cur, prev, one = Hidden(axes), axes["cur"].start, axes["prev"].start, axes["one"].start
    for a in range(q):
        for b in range(q):
            for c in range(q):
                hidden.add({prev + a * q + b: 1.0, cur + b * q + c: 1.0, one: -1.0}, {cur + a * q + c: 1.0})
    for place in range(width):
        hidden.add({cur + place: 1.0}, {cur + place: -1.0})
        hidden.add({prev + place: 1.0}, {prev + place: -1.0})
    return Layer(query, key, values, output, *hidden.arrays())
