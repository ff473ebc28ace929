"""A recurrent convolution that is a learning algorithm: Gaussian elimination (Goel et al. 2022, arXiv 2209.00735).

Two nets on a grid of cells. The first stores every example that gradient descent shows it, one a row. The second is
one small ReLU net, the same at every cell and every tick, that reads a cell, the one above and the one to the left:

    memory_RC, _ = memorise(points_MD, labels_M)                        # signs, by one pass of SGD
    answer = predict(compile_rule(), *decode(recall(memory_RC, test_D)))  # the bit of the parity of test_D

Rows of its grid are packets that fall, the test vector last, into d slots that are empty at first; slot j keeps the
first packet that reaches it with bit j set, and is added to every later one (bits 0 and 1; sums modulo 2). So the label
that leaves the lowest row last is the parity of the test vector. Letters: M examples, R = M + 1 rows of memory,
D bits, C = D + 1 columns, K channels of a cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lm.types import Array, Params

RATE = 1 / 3  # of the descent that memorises: an example is stored as a third of itself
CHANNELS = (
    "bit",  # of the packet that is here
    "packet",  # is here
    "stored",  # bit of the slot
    "full",  # the slot of this diagonal cell
    "store",  # command that goes right with a packet
    "add",  # likewise
    "go",  # this column falls
    "diagonal",  # slot j at column j
    "slot",  # row of slots
)
XOR, AND_NOT = (0, 1, 1, 0), (0, 0, 1, 0)  # truth tables over (00, 01, 10, 11)

# Layers of the rule: units by name, each the AND of wires, "!" negates. A wire is a unit of the layer below or one of
# the SUMS of units of which at most one is 1.
HERE = ("slot", "diagonal", "above.packet", "above.go")
LAYERS: Sequence[Mapping[str, Sequence[str]]] = (
    {
        "meet 00": (*HERE, "!above.bit", "!full"),
        "meet 01": (*HERE, "!above.bit", "full"),
        "meet 10": (*HERE, "above.bit", "!full"),
        "meet 11": (*HERE, "above.bit", "full"),
        "store on": ("slot", "!diagonal", "left.store"),
        "add on": ("slot", "!diagonal", "left.add"),
        "falls": ("above.bit", "above.go"),
        "packet falls": ("above.packet", "above.go"),
        "stays": ("bit", "!go"),
        "packet stays": ("packet", "!go"),
        "halt": ("!go", "!left.go"),
        "stored": ("stored",),
        "full": ("full",),
        "diagonal": ("diagonal",),
        "slot": ("slot",),
    },
    {
        "mix 00": ("to add", "!to store", "!falls", "!stored"),
        "mix 01": ("to add", "!to store", "!falls", "stored"),
        "mix 10": ("to add", "!to store", "falls", "!stored"),
        "mix 11": ("to add", "!to store", "falls", "stored"),
        "through": ("falls", "!to add", "!to store"),
        "stays": ("stays",),
        "kept": ("stored", "!to store"),
        "put": ("falls", "to store"),
        "old full": ("full", "!begin"),
        "begin": ("begin",),
        "packet stays": ("packet stays",),
        "packet falls": ("packet falls", "!packet stays"),
        "store": ("to store",),
        "add": ("to add",),
        "go": ("!halt",),
        "diagonal": ("diagonal",),
        "slot": ("slot",),
    },
    {
        "stays": ("stays",),
        "arrives": ("fallen", "!stays"),
        "packet": ("some packet",),
        "stored": ("new stored",),
        "full": ("new full",),
        **{name: (name,) for name in ("store", "add", "go", "diagonal", "slot")},
    },
)


def sums(update: Sequence[int], store: Sequence[int]) -> list[dict[str, dict[str, float]]]:
    """Return the wires into each layer, and into the channels, that are weighted sums of the units below."""
    cases = ("00", "01", "10", "11")
    begin = {f"meet {case}": float(on) for case, on in zip(cases, store, strict=True)}
    return [
        {},
        {"begin": begin, "to store": begin | {"store on": 1.0}, "to add": {"meet 11": 1.0, "add on": 1.0}},
        {
            "fallen": {f"mix {case}": float(on) for case, on in zip(cases, update, strict=True)} | {"through": 1.0},
            "some packet": {"packet stays": 1.0, "packet falls": 1.0},
            "new stored": {"kept": 1.0, "put": 1.0},
            "new full": {"old full": 1.0, "begin": 1.0},
        },
        {"bit": {"stays": 1.0, "arrives": 1.0}},
    ]


def compile_rule(update: Sequence[int] = XOR, store: Sequence[int] = AND_NOT) -> Params:
    """Return the weights of the rule, (kernel, bias) of each layer; they know neither d nor m.

    `update` is what a stored bit does to a falling one, over (falling, stored); `store` is whether a packet stays in
    its slot, over (its bit, slot full). Only the right two tables make the rule a learner of parities.
    """
    below = [f"{place}{name}" for place in ("", "above.", "left.") for name in CHANNELS]
    channels = {name: (name,) for name in CHANNELS}
    weights = []
    for units, wires in zip((*LAYERS, channels), sums(update, store), strict=True):
        kernel, bias = np.zeros((len(below), len(units)), np.float32), np.zeros(len(units), np.float32)
        for column, wires_in in enumerate(units.values()):
            bias[column] = 1 - sum(not wire.startswith("!") for wire in wires_in)
            for wire in wires_in:
                name, sign = wire.removeprefix("!"), -1 if wire.startswith("!") else 1
                for unit, weight in wires.get(name, {name: 1.0}).items():
                    kernel[below.index(unit), column] += sign * weight
        weights.append((jnp.asarray(kernel), jnp.asarray(bias)))
        below = list(units)
    return tuple(weights)


def tick(weights: Params, grid_RCK: Array) -> Array:
    """Return the grid after one tick: the same ReLU net at every cell; what goes, goes down and to the right."""
    above_RCK = jnp.pad(grid_RCK, ((1, 0), (0, 0), (0, 0)))[:-1]
    left_RCK = jnp.pad(grid_RCK, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    left_RCK = left_RCK.at[:, 0, CHANNELS.index("go")].set(1.0)  # the edge lets the first column fall
    x = jnp.concatenate([grid_RCK, above_RCK, left_RCK], axis=-1)
    for kernel, bias in weights:
        x = jax.nn.relu(x @ kernel + bias[None, None])
    return x


def lay_out(test_D: Array, points_MD: Array, labels_M: Array) -> Array:
    """Return the grid of bits [1 + M + D, C, K] before the first tick; example 0 lies lowest and falls first."""
    (count, width), names = points_MD.shape, CHANNELS.index
    examples_MC = jnp.concatenate([points_MD, labels_M[:, None]], axis=1)[::-1]
    packets = jnp.concatenate([jnp.pad(test_D, (0, 1))[None], examples_MC])
    grid_RCK = jnp.zeros((1 + count + width, width + 1, len(CHANNELS)))
    grid_RCK = grid_RCK.at[: count + 1, :, names("bit")].set(packets.astype(jnp.float32))
    grid_RCK = grid_RCK.at[: count + 1, :, names("packet")].set(1.0)
    grid_RCK = grid_RCK.at[count + 1 :, :, names("slot")].set(1.0)
    return grid_RCK.at[count + 1 :, :, names("diagonal")].set(jnp.eye(width, width + 1))


def settle(weights: Params, grid_RCK: Array, ticks: int) -> tuple[Array, Array]:
    """Return the grid after so many ticks, and the bit that left the lowest row of the last column last."""

    def body(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        grid, answer = carry
        bit, packet, go = (grid[-1, -1, CHANNELS.index(name)] for name in ("bit", "packet", "go"))
        return tick(weights, grid), jnp.where(packet * go > 0.5, bit, answer)

    return jax.lax.fori_loop(0, ticks, body, (grid_RCK, jnp.float32(0)))


def predict(weights: Params, test_D: Array, points_MD: Array, labels_M: Array) -> Array:
    """Return the parity bit of a test vector after the M + 2 D + 4 ticks in which everything falls through."""
    count, width = points_MD.shape
    return settle(weights, lay_out(test_D, points_MD, labels_M), count + 2 * width + 4)[1]


# The memory: the only part that is trained.


def plateau(x: Array) -> Array:
    """Return 0 for |x| up to 1/12 and 1 from 1/6 on; flat at 0 and at a stored third, so that no gradient passes."""
    size = jax.nn.relu(x) + jax.nn.relu(-x)
    return jax.nn.relu(12 * size - 1) - jax.nn.relu(12 * size - 2)


def recall(memory_RC: Array, point_D: Array) -> Array:
    """Return what the memory shows of a point: W diag(z) with z = (x, 1)."""
    return memory_RC * jnp.append(point_D, 1.0)[None]


def output(memory_RC: Array, point_D: Array) -> Array:
    """Return the net's output while it memorises: the sum of what it shows in its first empty row, which is 0."""
    shown_RC = recall(memory_RC, point_D)
    full_RC = plateau(shown_RC)
    above_RC = jnp.pad(full_RC, ((1, 0), (0, 0)), constant_values=1.0)[:-1]
    first_RC = jax.nn.relu(above_RC - full_RC)
    return jnp.sum(jax.nn.relu(shown_RC + 2 * first_RC - 1) - jax.nn.relu(2 * first_RC - 1))


def memorise(points_MD: Array, labels_M: Array, rate: float = RATE) -> tuple[Array, Array]:
    """Return the memory [R, C] after one pass of SGD over the examples and a row of ones, and the outputs [R].

    Points and labels are signs; the loss is half the squared error, one example a step.
    """
    points_RD = jnp.concatenate([points_MD, jnp.ones((1, points_MD.shape[1]))])
    labels_R = jnp.append(labels_M, 1.0)

    def loss(memory_RC: Array, point_D: Array, label: Array) -> tuple[Array, Array]:
        told = output(memory_RC, point_D)
        return (told - label) ** 2 / 2, told

    def step(memory_RC: Array, example: tuple[Array, Array]) -> tuple[Array, Array]:
        gradient_RC, told = jax.grad(loss, has_aux=True)(memory_RC, *example)
        return memory_RC - rate * gradient_RC, told

    empty_RC = jnp.zeros((len(labels_R), points_MD.shape[1] + 1))
    return jax.lax.scan(step, empty_RC, (points_RD, labels_R))


def decode(shown_RC: Array) -> tuple[Array, Array, Array]:
    """Return the bits of test vector, points and labels that the memory shows, by signs of products alone."""
    test_C, labels_R = shown_RC[-1], shown_RC[:, -1]
    points_RC = shown_RC * test_C[None] * labels_R[:, None]
    return tuple((part < 0).astype(jnp.float32) for part in (test_C[:-1], points_RC[:-1, :-1], labels_R[:-1]))
