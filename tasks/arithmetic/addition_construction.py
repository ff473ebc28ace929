"""Weights by hand: a one-layer, two-head transformer that adds numbers of any length from coupled position ids.

    net, params = construct(Addition(longest_test=100, max_position=102))

Ours, after the existence theorem of Cho et al. 2024 (section 5). A residual row holds the value of its digit, a
flag for `$`, the constant 1, and the binary codes of its id p and of p + 1. Head 1 looks for the id p + 1 and head 2
for the id p; both see the first `$` as strongly as a match, so that m matches share the softmax in m + 1 equal
parts. From '=' or a digit e of the sum, head 1 finds the next two digits and their sum T, head 2 the sum S of the
two digits that e came from, which tells the carry: S - e is -1 or 0 without, 9 or 10 with one. So
y = T + (S - e + 1/2) / 10 is within 1/20 of T plus the carry, and triangular bumps read off the digit.
"""

from __future__ import annotations

import numpy as np

from lm.models import build
from lm.types import Net, Params
from tasks.arithmetic.addition import END, ZERO, Addition
from tasks.construct import Layer, hand_config, hand_params

# Residual coordinates: what a token is, what the heads find, logits; from CODES on, the codes of p and of p + 1.
VALUE, BEGIN, ONE, NEXT_SUM, OWN_SUM, OWN_SHARE, DIGITS, STOP, CODES = 0, 1, 2, 3, 4, 5, 6, 16, 17


def construct(task: Addition, sharpness: float = 20.0) -> tuple[Net, Params]:
    """Return the transformer and its weights; with `sharpness` 0 the heads see everything alike, and it must fail."""
    bits = int(task.max_position + 1).bit_length()
    width = CODES + 2 * bits

    embedding = np.zeros((task.vocabulary, width))
    embedding[ZERO : ZERO + 10, VALUE] = np.arange(10)
    embedding[END, BEGIN] = 1
    embedding[:, ONE] = 1

    ids = np.arange(1, task.max_position + 2)
    codes = np.where(ids[:, None] >> np.arange(bits) & 1, 1.0, -1.0)
    positions = np.zeros((task.max_position + 1, width))  # id 0 has no code
    positions[1:, CODES:] = np.concatenate([codes[:-1], codes[1:]], axis=1)

    head = np.zeros((width, task.vocabulary))
    head[ONE] = -1
    head[ONE, [*range(ZERO, ZERO + 10), END]] = 0
    head[DIGITS : DIGITS + 10, ZERO : ZERO + 10] = np.eye(10)
    head[STOP, END] = 1

    layers = [Layer(*_attention(width, bits, sharpness), *_read_off(width))]
    return build(hand_config(embedding, positions, layers)), hand_params(embedding, positions, layers, head)


def _attention(width: int, bits: int, sharpness: float) -> tuple[np.ndarray, ...]:
    own, following = slice(CODES, CODES + bits), slice(CODES + bits, width)
    query, key, value = np.zeros((3, width, 2, bits + 1))
    query[following, 0, :bits] = query[own, 1, :bits] = sharpness * np.eye(bits)
    query[ONE, :, bits] = sharpness
    key[own, :, :bits] = np.eye(bits)[:, None]
    key[BEGIN, :, bits] = bits
    value[VALUE, :, 0] = value[BEGIN, :, 1] = 1
    output = np.zeros((2, bits + 1, width))
    output[0, 0, NEXT_SUM] = output[1, 0, OWN_SUM] = output[1, 1, OWN_SHARE] = 1
    return query, key, value, output


def _read_off(width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the feed-forward kernels: bumps of y around 0..19 to digit logits, and the end after the top digit."""
    up = np.zeros((width, 23))
    up[NEXT_SUM, :22] = 3  # T is in three parts, with the `$`
    up[OWN_SUM, :22] = 4 / 10  # S + e is in four parts
    up[VALUE, :22] = -2 / 10
    up[ONE, :22] = 0.5 / 10 - np.arange(-1, 21)
    up[OWN_SHARE, 22] = 12  # the share of `$` is 1/2 at the top digit, at most 1/3 elsewhere
    up[ONE, 22] = -4.5
    down = np.zeros((23, width))
    for total in range(20):
        down[total : total + 3, DIGITS + total % 10] += [1, -2, 1]
    down[22, STOP] = 4
    return up, down
