"""Shortcuts to semiautomata as weights: constant depth where it is enough, the logarithm of the length for all.

    hand = gridworld(4, longest=100)           # two layers
    states_BT = follow(hand, words_BT)         # the state after each symbol

Liu et al. 2023 (arXiv 2210.10749), theorems 1 to 3; the weights are ours. The first token says that the text begins
(and for the gridworld some steps to the left follow it); every layer is one of lm/models/transformer.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from lm.config import TransformerConfig
from lm.models import build
from lm.types import Array, Batch, Params
from tasks.construct import Layer, hand_config, hand_params
from tasks.formal import semiautomata
from tasks.formal.semiautomata import Semiautomaton

NEVER = -1e4  # a score that gives no weight
SHARP = 30.0  # difference of scores at which attention is hard: exp(-30) is 1e-13


class Hand(NamedTuple):
    """A transformer by hand for words of at most `longest` symbols, which `prefix` tokens come before."""

    automaton: Semiautomaton
    config: TransformerConfig
    params: Params
    prefix: tuple[int, ...]
    longest: int


def follow(hand: Hand, words_BT: Array) -> Array:
    """Return the most likely state after each symbol, [B, T]."""
    prefix_BP = jnp.broadcast_to(jnp.asarray(hand.prefix, jnp.int32), (len(words_BT), len(hand.prefix)))
    tokens_BL = jnp.concatenate([prefix_BP, words_BT.astype(jnp.int32)], axis=1)
    positions_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
    batch = Batch(tokens_BL, tokens_BL, jnp.ones(tokens_BL.shape), positions_BL, {})
    logits_BLV = build(hand.config).apply(hand.params, batch).logits
    return jnp.argmax(logits_BLV[:, len(hand.prefix) :, : hand.automaton.states], axis=-1)


class Axes:
    """Named directions of the residual stream, handed out one after the other."""

    def __init__(self, **sizes: int):
        self.place: dict[str, slice] = {}
        self.width = 0
        for name, size in sizes.items():
            self.place[name] = slice(self.width, self.width + size)
            self.width += size

    def __getitem__(self, name: str) -> slice:
        return self.place[name]

    def zeros(self, *shape: int) -> np.ndarray:
        return np.zeros((*shape, self.width))


class Hidden:
    """The hidden units of a feed-forward layer, collected: each reads a combination of axes and adds to others."""

    def __init__(self, axes: Axes):
        self.axes = axes
        self.up: list[np.ndarray] = []
        self.down: list[np.ndarray] = []

    def add(self, reads: Mapping[int, float], writes: Mapping[int, float]) -> None:
        up, down = self.axes.zeros(), self.axes.zeros()
        for place, weight in reads.items():
            up[place] += weight
        for place, weight in writes.items():
            down[place] += weight
        self.up.append(up)
        self.down.append(down)

    def function(
        self,
        source: Mapping[int, float],
        low: int,
        high: int,
        outputs: Mapping[int, Callable[[int], float]],
        gate: int | None = None,
    ) -> None:
        """Add functions of an integer c in low..high, which `source` reads, to axes; zero where the axis `gate` is.

        Between integers they are linear: c is one of them but for rounding.
        """
        one = self.axes["one"].start
        slopes = {
            place: np.diff([0.0, *(f(c) for c in range(low, high + 1))], prepend=0.0) for place, f in outputs.items()
        }
        bends = {place: np.diff(each, prepend=0.0)[1:] for place, each in slopes.items()}
        for i, c in enumerate(range(low - 1, high)):
            reads = dict(source)
            reads[one] = reads.get(one, 0.0) - c
            if gate is not None:
                reads[one] -= 4 * (high - low + 2)
                reads[gate] = reads.get(gate, 0.0) + 4 * (high - low + 2)
            self.add(reads, {place: each[i] for place, each in bends.items()})

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return np.stack(self.up, axis=1), np.stack(self.down)


def _counting(axes: Axes, tokens: int, value: str, total: str) -> list[np.ndarray]:
    """Return the kernels of a head that writes the sum of `value` so far, over `tokens`, to `total`.

    With a score of ln(tokens - t) on the first token and 0 on all others, each of these has weight 1 / tokens.
    """
    query, key, values = axes.zeros(), axes.zeros(), axes.zeros()
    query[axes["left"]], key[axes["first"]], values[axes[value]] = 1.0, 1.0, 1.0
    output = axes.zeros()
    output[axes[total]] = 1.0
    return [query, key, values, output]


def _positions(axes: Axes, longest: int) -> np.ndarray:
    """Return the table of positions 0..longest: ln of the symbols left, and the place itself."""
    table = axes.zeros(longest + 1)
    left = np.arange(longest, -1, -1)
    table[:, axes["left"]] = np.where(left > 0, np.log(np.maximum(left, 1)), NEVER)[:, None]
    table[:, axes["place"]] = np.arange(longest + 1)[:, None]
    return table


def _one_head(kernels: list[np.ndarray], hidden: Hidden) -> Layer:
    query, key, values, output = kernels
    return Layer(*(k[:, None, None] for k in (query, key, values)), output[None, None], *hidden.arrays())


def _finish(automaton: Semiautomaton, embedding, positions, layers, head, prefix, longest) -> Hand:
    config = hand_config(embedding, positions, layers)
    padded = np.zeros((head.shape[0], embedding.shape[0]))
    padded[:, : automaton.states] = head[:, : automaton.states]
    return Hand(automaton, config, hand_params(embedding, positions, layers, padded), tuple(prefix), longest)


def _embedding(axes: Axes, automaton: Semiautomaton) -> np.ndarray:
    """Return rows for the symbols and for the first token, with "one" in all and "first" in the last."""
    table = axes.zeros(max(automaton.symbols + 1, automaton.states))
    table[:, axes["one"]] = 1.0
    table[automaton.symbols, axes["first"]] = 1.0
    return table


def counter(n: int, longest: int) -> Hand:
    """Count modulo n in one layer: the exact number of ones by uniform attention, then its remainder."""
    automaton = semiautomata.cyclic(n)
    axes = Axes(one=1, first=1, left=1, place=1, bit=1, count=1, state=n)
    embedding = _embedding(axes, automaton)
    embedding[1, axes["bit"]] = 1.0
    hidden = Hidden(axes)
    remainders = {axes["state"].start + r: (lambda c, r=r: float(c % n == r)) for r in range(n)}
    hidden.function({axes["count"].start: longest}, 0, longest, remainders)
    head = axes.zeros(automaton.states).T
    head[axes["state"]] = np.eye(n)
    layer = _one_head(_counting(axes, longest, "bit", "count"), hidden)
    return _finish(automaton, embedding, _positions(axes, longest), [layer], head, [automaton.symbols], longest)


def memory(n: int, longest: int) -> Hand:
    """Remember the last symbol written, in one layer: attention goes to the latest write."""
    automaton = semiautomata.flip_flop(n)
    axes = Axes(one=1, first=1, left=1, place=1, write=1, symbol=n + 1, state=n + 1)
    embedding = _embedding(axes, automaton)
    for written, token in [(0, automaton.symbols), *((s, s) for s in range(1, n + 1))]:
        embedding[token, axes["write"]] = 1.0
        embedding[token, axes["symbol"].start + written] = 1.0
    layer = _latest(axes, [("write", (longest + 1) * SHARP)], "symbol", "state")
    head = axes.zeros(automaton.states).T
    head[axes["state"]] = np.eye(n + 1)
    return _finish(automaton, embedding, _positions(axes, longest), [layer], head, [automaton.symbols], longest)


def _latest(axes: Axes, scores: list[tuple[str, float]], source: str, target: str) -> Layer:
    """Return a layer whose one head copies `source` from the latest token with the highest scores to `target`."""
    size = axes[source].stop - axes[source].start
    width = max(2, size)
    query, key, values = (np.zeros((axes.width, 1, width)) for _ in range(3))
    output = np.zeros((1, width, axes.width))
    query[axes["one"], 0, 0] = 1.0
    key[axes["place"], 0, 0] = SHARP
    for name, score in scores:
        key[axes[name], 0, 0] = score
    values[axes[source], 0, :size] = np.eye(size)
    output[0, :size, axes[target]] = np.eye(size)
    hidden = Hidden(axes)
    hidden.add({}, {})
    return Layer(query, key, values, output, *hidden.arrays())


def dihedral(n: int, longest: int) -> Hand:
    """Drive and turn around on a circle in two layers: the direction, then the sum of the signed moves."""
    automaton = semiautomata.dihedral(n)
    axes = Axes(one=1, first=1, left=1, place=1, turn=1, drive=1, turns=1, moved=1, total=1, direction=2, spot=n)
    embedding = _embedding(axes, automaton)
    embedding[0, axes["turn"]] = 1.0
    embedding[1, axes["drive"]] = 1.0
    turns = {axes["turns"].start: float(longest)}
    first = Hidden(axes)
    first.function(turns, 0, longest, {axes["direction"].start + d: (lambda c, d=d: float(c % 2 == d)) for d in (0, 1)})
    signed = {axes["moved"].start: lambda c: 1.0 - 2.0 * (c % 2)}
    first.function(turns, 0, longest, signed, gate=axes["drive"].start)
    second = Hidden(axes)
    spots = {axes["spot"].start + r: (lambda c, r=r: float(c % n == r)) for r in range(n)}
    second.function({axes["total"].start: float(longest)}, -longest, longest, spots)
    layers = [
        _one_head(_counting(axes, longest, "turn", "turns"), first),
        _one_head(_counting(axes, longest, "moved", "total"), second),
    ]
    head = axes.zeros(automaton.states).T
    for state in range(2 * n):
        head[axes["direction"].start + state // n, state] = 1.0
        head[axes["spot"].start + state % n, state] = 1.0
    return _finish(automaton, embedding, _positions(axes, longest), _alike(layers), head, [automaton.symbols], longest)


def gridworld(n: int, longest: int) -> Hand:
    """Walk between walls in two layers, whatever the length; n - 1 steps to the left come first.

    Layer 1 sums the steps to c. Head k of layer 2 finds the latest time at which the sum was c - k modulo n; the
    state is the number of k in 1..n-1 for which it was below c then, as the wall that was met last decides.
    """
    automaton = semiautomata.gridworld(n)
    tokens = longest + n - 1
    axes = Axes(one=1, first=1, left=1, place=1, step=1, total=1, rest=n, before=n - 1, state=1)
    embedding = _embedding(axes, automaton)
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
            query[axes["rest"].start + r, k - 1, (r - k) % n] = (tokens + 1) * SHARP
            key[axes["rest"].start + r, k - 1, r] = 1.0
        query[axes["one"], k - 1, n] = 1.0
        key[axes["place"], k - 1, n] = SHARP
        values[axes["total"], k - 1, 0] = 1.0
        place = axes["before"].start + k - 1
        output[k - 1, 0, place] = 1.0
        behind = {axes["total"].start: float(tokens), place: -float(tokens)}
        second.function(behind, 0, 2 * tokens, {axes["state"].start: lambda c: float(c > 0)})
    layers = [
        _padded(_one_head(_counting(axes, tokens, "step", "total"), first), n - 1, width),
        Layer(query, key, values, output, *second.arrays()),
    ]
    head = axes.zeros(n).T
    head[axes["state"]] = 2.0 * np.arange(n)  # 2 a q - a^2 is largest for a = q
    head[axes["one"]] = -1.0 * np.arange(n) ** 2
    prefix = [automaton.symbols, *([0] * (n - 1))]
    return _finish(automaton, embedding, _positions(axes, tokens), _alike(layers), head, prefix, longest)


def divide_and_conquer(automaton: Semiautomaton, longest: int) -> Hand:
    """Follow any semiautomaton in ceil(log2(longest + 1)) layers: each doubles the stretch whose map a token knows.

    A token holds a map as a table of ones, [Q, Q]. It attends to the token that far before it, or to the first one
    (which holds the identity), and composes: new[q][a] is 1 where some b has prev[q][b] = cur[b][a] = 1.
    """
    q = automaton.states
    axes = Axes(one=1, first=1, cos=1, sin=1, cur=q * q, prev=q * q)
    embedding = _embedding(axes, automaton)
    for symbol, images in [*enumerate(automaton.generators()), (automaton.symbols, tuple(range(q)))]:
        embedding[symbol, axes["cur"]] = np.eye(q)[list(images)].reshape(-1)
    angle = math.pi / (longest + 2)
    positions = axes.zeros(longest + 1)
    positions[:, axes["cos"]] = np.cos(angle * np.arange(longest + 1))[:, None]
    positions[:, axes["sin"]] = np.sin(angle * np.arange(longest + 1))[:, None]
    scale = SHARP / (1 - math.cos(angle))
    layers = [_doubling(axes, q, angle * 2**level, scale) for level in range(max(1, math.ceil(math.log2(longest + 1))))]
    head = axes.zeros(q).T
    head[axes["cur"].start + automaton.start * q : axes["cur"].start + (automaton.start + 1) * q] = np.eye(q)
    return _finish(automaton, embedding, positions, layers, head, [automaton.symbols], longest)


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


def _padded(layer: Layer, heads: int, width: int) -> Layer:
    """Return a layer with idle heads and idle dimensions of a head."""

    def grow(kernel: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
        pad = [(0, 0)] * 3
        for axis, size in zip(axes, (heads, width), strict=True):
            pad[axis] = (0, size - kernel.shape[axis])
        return np.pad(kernel, pad)

    query, key, values, output, up, down = layer
    return Layer(*(grow(k, (1, 2)) for k in (query, key, values)), grow(output, (0, 1)), up, down)


def _alike(layers: list[Layer]) -> list[Layer]:
    """Return the layers with as many hidden units each, idle ones among them."""
    most = max(layer.up.shape[1] for layer in layers)
    return [
        layer._replace(
            up=np.pad(layer.up, ((0, 0), (0, most - layer.up.shape[1]))),
            down=np.pad(layer.down, ((0, most - layer.down.shape[0]), (0, 0))),
        )
        for layer in layers
    ]


SHORTCUTS: Mapping[str, Callable[[int, int], Hand]] = MappingProxyType(
    {"counter": counter, "memory": memory, "dihedral": dihedral, "gridworld": gridworld}
)
