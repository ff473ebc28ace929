"""The parts that shortcuts to semiautomata are made of: named axes, hidden units, heads that count or look back.

The first token of every text says that it begins; every layer is one of lm/models/transformer.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from lm.config import TransformerConfig
from lm.models import build
from lm.types import Array, Batch, Params
from tasks.construct import Layer, hand_config, hand_params
from tasks.formal.automata.semiautomata import Semiautomaton

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


def _sum(*terms: Mapping[int, float]) -> dict[int, float]:
    """Return the sum of linear forms."""
    return {place: sum(term.get(place, 0.0) for term in terms) for term in terms for place in term}


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

        They are level within a quarter of every integer, so that rounding errors end here.
        """
        one = self.axes["one"].start
        gated = {} if gate is None else {one: -4.0 * (high - low + 2), gate: 4.0 * (high - low + 2)}
        self.add({one if gate is None else gate: 1.0}, {place: f(low) for place, f in outputs.items()})
        for c in range(low, high):
            rises = {place: 2 * (f(c + 1) - f(c)) for place, f in outputs.items()}
            if any(rises.values()):
                for bend, sign in ((c + 0.25, 1.0), (c + 0.75, -1.0)):
                    self.add(_sum(source, {one: -bend}, gated), {place: sign * rise for place, rise in rises.items()})

    def all(self, places: Sequence[int], target: int) -> None:
        """Add 1 to the axis `target` where all of these axes, each 0 or 1, are 1."""
        self.add(_sum({place: 1.0 for place in places}, {self.axes["one"].start: 1.0 - len(places)}), {target: 1.0})

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the kernels up [D, F] and down [F, D]."""
        return np.stack(self.up, axis=1), np.stack(self.down)


def counting(axes: Axes, tokens: int, value: str, total: str) -> list[np.ndarray]:
    """Return the kernels of a head that writes the sum of `value` so far, over `tokens`, to `total`.

    With a score of ln(tokens - t) on the first token and 0 on all others, each of these has weight 1 / tokens.
    """
    query, key, values = axes.zeros(), axes.zeros(), axes.zeros()
    query[axes["left"]], key[axes["first"]], values[axes[value]] = 1.0, 1.0, 1.0
    output = axes.zeros()
    output[axes[total]] = 1.0
    return [query, key, values, output]


def position_table(axes: Axes, longest: int) -> np.ndarray:
    """Return the table of positions 0..longest: ln of the symbols left, and the place itself."""
    table = axes.zeros(longest + 1)
    left = np.arange(longest, -1, -1)
    table[:, axes["left"]] = np.where(left > 0, np.log(np.maximum(left, 1)), NEVER)[:, None]
    table[:, axes["place"]] = np.arange(longest + 1)[:, None]
    return table


def one_head(kernels: list[np.ndarray], hidden: Hidden) -> Layer:
    """Return a layer with one head of width 1, of kernels that are vectors."""
    query, key, values, output = kernels
    return Layer(*(k[:, None, None] for k in (query, key, values)), output[None, None], *hidden.arrays())


def finish(automaton: Semiautomaton, embedding, positions, layers, head, prefix, longest) -> Hand:
    """Return the transformer of these tables, layers and head [D, Q]."""
    config = hand_config(embedding, positions, layers)
    padded = np.zeros((head.shape[0], embedding.shape[0]))
    padded[:, : automaton.states] = head[:, : automaton.states]
    return Hand(automaton, config, hand_params(embedding, positions, layers, padded), tuple(prefix), longest)


def embedding_table(axes: Axes, automaton: Semiautomaton) -> np.ndarray:
    """Return rows for the symbols and for the first token, with "one" in all and "first" in the last."""
    table = axes.zeros(max(automaton.symbols + 1, automaton.states))
    table[:, axes["one"]] = 1.0
    table[automaton.symbols, axes["first"]] = 1.0
    return table


def latest(axes: Axes, scores: list[tuple[str, float]], source: str, target: str, hidden: Hidden) -> Layer:
    """Return a layer whose one head copies `source` from the latest token with the highest scores to `target`."""
    size = axes[source].stop - axes[source].start
    query, key, values = (np.zeros((axes.width, 1, size)) for _ in range(3))
    output = np.zeros((1, size, axes.width))
    query[axes["one"], 0, 0] = 1.0
    key[axes["place"], 0, 0] = SHARP
    for name, score in scores:
        key[axes[name], 0, 0] = score
    values[axes[source], 0] = np.eye(size)
    output[0][:, axes[target]] = np.eye(size)
    return Layer(query, key, values, output, *hidden.arrays())


def padded(layer: Layer, heads: int, width: int) -> Layer:
    """Return a layer with idle heads and idle dimensions of a head."""

    def grow(kernel: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
        pad = [(0, 0)] * 3
        for axis, size in zip(axes, (heads, width), strict=True):
            pad[axis] = (0, size - kernel.shape[axis])
        return np.pad(kernel, pad)

    grown = {name: grow(getattr(layer, name), (1, 2)) for name in ("query", "key", "value")}
    return layer._replace(**grown, output=grow(layer.output, (0, 1)))


def alike(layers: list[Layer]) -> list[Layer]:
    """Return the layers with as many hidden units each, idle ones among them."""
    most = max(layer.up.shape[1] for layer in layers)
    return [
        layer._replace(
            up=np.pad(layer.up, ((0, 0), (0, most - layer.up.shape[1]))),
            down=np.pad(layer.down, ((0, most - layer.down.shape[0]), (0, 0))),
        )
        for layer in layers
    ]
