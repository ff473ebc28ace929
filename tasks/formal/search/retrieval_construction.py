"""Weights by hand that follow a chain of look-ups: one layer to join each value to its key, then one a hop.

    net, params = construct(Retrieval(symbols=8, hops=3))

Musat 2025, the induction circuit: the first layer tells every value which key stands before it, and each later one
attends from the last symbol found to the value behind that key. `doubled` is the faster way without a causal mask.
"""

from __future__ import annotations

import numpy as np

from lm.models import build
from lm.types import Net, Params
from tasks.construct import Layer, hand_config, hand_params
from tasks.formal.search.retrieval import Retrieval

SHARPNESS = 100.0  # a score this much below the highest has a share of exp(-100)


def construct(task: Retrieval) -> tuple[Net, Params]:
    """Return a transformer of `hops` + 1 layers and its weights, right at every place that is asked."""
    symbols, hops, length = task.symbols, task.hops, task.max_length
    # Residual coordinates: the token, the one before it, what each hop found, the answer, the place; one-hot all.
    names = ["token", "before", *range(1, hops + 1), "answer"]
    at = {name: slice(i * symbols, (i + 1) * symbols) for i, name in enumerate(names)}
    at["place"] = slice(len(names) * symbols, len(names) * symbols + length)
    width, head = at["place"].stop, length

    embedding = np.zeros((symbols, width))
    embedding[:, at["token"]] = np.eye(symbols)
    positions = np.zeros((length, width))
    positions[:, at["place"]] = np.eye(length)

    def copy(name: str | int) -> tuple[np.ndarray, np.ndarray]:
        """Return the value and output kernels that copy the token attended to."""
        value, output = np.zeros((width, 1, head)), np.zeros((1, head, width))
        value[at["token"], 0, :symbols] = output[0, :symbols, at[name]] = np.eye(symbols)
        return value, output

    def before() -> Layer:
        query, key = np.zeros((2, width, 1, head))
        query[at["place"], 0] = SHARPNESS * np.eye(length)
        key[at["place"], 0] = np.eye(length, k=1)  # a place answers to the next one
        return Layer(query, key, *copy("before"), np.zeros((width, hops * symbols)), np.zeros((hops * symbols, width)))

    def hop(number: int) -> Layer:
        query, key = np.zeros((2, width, 1, head))
        query[at["token" if number == 1 else number - 1], 0, :symbols] = SHARPNESS * np.eye(symbols)
        key[at["before"], 0, :symbols] = np.eye(symbols)
        query[at["place"], 0, symbols] = SHARPNESS  # every place looks for values,
        key[at["place"], 0, symbols][1 : 2 * symbols : 2] = 1  # which stand at odd places
        up, down = np.zeros((width, hops * symbols)), np.zeros((hops * symbols, width))
        if number == hops:
            for asked in range(1, hops + 1):  # a place lets through what the hop that it is asked for found
                hidden = slice((asked - 1) * symbols, asked * symbols)
                up[at[asked], hidden] = down[hidden, at["answer"]] = np.eye(symbols)
                up[at["place"], hidden] = -1
                up[at["place"].start + task.place(asked), hidden] = 0
        return Layer(query, key, *copy(number), up, down)

    layers = [before(), *map(hop, range(1, hops + 1))]
    head_DV = np.zeros((width, symbols))
    head_DV[at["answer"]] = np.eye(symbols)
    return build(hand_config(embedding, positions, layers)), hand_params(embedding, positions, layers, head_DV)


def doubled(successor_V: np.ndarray, layers: int) -> np.ndarray:
    """Return the symbols 2 ** layers hops behind every symbol, by as many layers of attention without a mask.

    Each pair attends from its value to the pair with that key and takes its value: value := value of the value.
    """
    keys_VV = np.eye(len(successor_V))
    values_VV = keys_VV[successor_V]
    for _ in range(layers):
        weights_VV = np.exp(SHARPNESS * (values_VV @ keys_VV.T - 1))
        values_VV = weights_VV / weights_VV.sum(axis=1, keepdims=True) @ values_VV
    return values_VV.argmax(axis=1)
