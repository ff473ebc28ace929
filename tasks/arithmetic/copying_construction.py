"""Weights by hand: one head that copies strings of any length, forwards or backwards, from coupled position ids.

    net, params = construct(Copying(order="backwards"))

Ours. A residual row holds which digit its token is, a flag for `$`, the constant 1, and the binary codes of its id p
and of the id that its copy moves on to, p + 1 or p - 1. The head looks for that id among the digits asked; the
first `$` scores half way between a match and the nearest miss, so that it is found where the string has ended.
"""

from __future__ import annotations

import numpy as np

from lm.models import build
from lm.types import Net, Params
from tasks.arithmetic.copying import END, ZERO, Copying
from tasks.construct import Layer, hand_config, hand_params

# Residual coordinates: the digit or `$` that a token is, the one that the head finds, 1; then the codes of two ids.
TOKEN, FOUND, ONE, CODES = slice(0, 11), slice(11, 22), 22, 23


def construct(task: Copying, sharpness: float = 20.0) -> tuple[Net, Params]:
    """Return the transformer and its weights; with `sharpness` 0 the head sees everything alike, and it must fail."""
    bits = int(task.max_position + 1).bit_length()
    own, sought = slice(CODES, CODES + bits), slice(CODES + bits, CODES + 2 * bits)
    width, head_width = CODES + 2 * bits, max(bits + 1, 11)
    copied = [*range(ZERO, ZERO + 10), END]

    embedding = np.zeros((task.vocabulary, width))
    embedding[copied, TOKEN] = np.eye(11)
    embedding[:, ONE] = 1

    ids = np.arange(1, task.max_position + 1)
    positions = np.zeros((task.max_position + 1, width))  # id 0 has no code
    positions[1:, own] = _codes(ids, bits)
    positions[1:, sought] = _codes(ids + (1 if task.order == "forwards" else -1), bits)

    query, key, value = np.zeros((3, width, 1, head_width))
    query[sought, 0, :bits] = sharpness * np.eye(bits)
    query[ONE, 0, bits] = sharpness
    key[own, 0, :bits] = np.eye(bits)
    key[TOKEN, 0, bits][-1] = bits - 1  # a match scores `bits`, a miss at most bits - 2
    value[TOKEN, 0, :11] = np.eye(11)
    output = np.zeros((1, head_width, width))
    output[0, :11, FOUND] = np.eye(11)

    head = np.zeros((width, task.vocabulary))
    head[FOUND, copied] = np.eye(11)
    layers = [Layer(query, key, value, output, up=np.zeros((width, 1)), down=np.zeros((1, width)))]
    return build(hand_config(embedding, positions, layers)), hand_params(embedding, positions, layers, head)


def _codes(ids: np.ndarray, bits: int) -> np.ndarray:
    return np.where(ids[:, None] >> np.arange(bits) & 1, 1.0, -1.0)
