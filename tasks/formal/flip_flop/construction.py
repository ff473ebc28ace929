"""Weights by hand: a two-layer, one-head transformer that never glitches on flip-flop strings.

    net, params = construct(FlipFlop(length=64))

Liu et al. 2023, the realisability proposition. Layer 1 attends to itself, or one back where a write stands there,
and so flags a write and its bit; layer 2 attends to the latest flag, which is the bit of the latest write.
"""

from __future__ import annotations

import math

import numpy as np

from lm.models import build
from lm.types import Net, Params
from tasks.construct import Layer, hand_config, hand_params
from tasks.formal.flip_flop.language import WRITE, ZERO, FlipFlop

# Residual coordinates: is a write, is the bit 1, the constant 1, place / length, flag, answer.
IS_WRITE, IS_ONE, ONE, PLACE, FLAG, ANSWER = range(6)


def construct(task: FlipFlop, reach: float = 1.5) -> tuple[Net, Params]:
    """Return the transformer and its weights; a write outdoes the next `reach` places, and fewer than 1 must fail."""
    length = task.length
    sharpness = 4 * length * math.log(100 * length)

    embedding = np.zeros((task.vocabulary, 6))
    embedding[WRITE, IS_WRITE] = embedding[ZERO + 1, IS_ONE] = 1
    embedding[:, ONE] = 1
    positions = np.zeros((length, 6))
    positions[:, PLACE] = np.arange(length) / length

    flag = _attend(sharpness, {IS_WRITE: reach / length, PLACE: 1}, read=IS_WRITE, write=FLAG)
    answer = _attend(sharpness, {FLAG: 1, PLACE: 1}, read=IS_ONE, write=ANSWER)

    head = np.zeros((6, task.vocabulary))
    head[ONE] = -1
    head[ONE, [ZERO, ZERO + 1]] = 0.5, 0
    head[ANSWER, ZERO + 1] = 1

    layers = [flag, answer]
    return build(hand_config(embedding, positions, layers)), hand_params(embedding, positions, layers, head)


def _attend(sharpness: float, scores: dict[int, float], read: int, write: int) -> Layer:
    """Return a block that copies coordinate `read` of the place with the highest score to coordinate `write`."""
    query, key, value, output = np.zeros((4, 6, 1, 1))
    query[ONE] = sharpness
    for coordinate, weight in scores.items():
        key[coordinate] = weight
    value[read] = output[write] = 1
    return Layer(query, key, value, output.reshape(1, 1, 6), up=np.zeros((6, 1)), down=np.zeros((1, 6)))
