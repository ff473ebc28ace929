"""Which attention layers read brackets at every length: the balance condition, its weights by hand, its measure.

Wen et al. 2023 (arXiv 2312.01429). A bracket and its partner must cancel in what attention sums, whatever it looks
like otherwise: uniform attention is enough, and attention maps say little.
"""

from __future__ import annotations

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import ReaderConfig
from lm.models.reader import attention_of
from lm.types import Array, Params
from tasks.formal.dyck import BRACKETS, START, Dyck


def by_hand(task: Dyck) -> tuple[ReaderConfig, Params]:
    """Return a reader with uniform attention that always knows the bracket to close.

    A bracket adds 3 ** depth times the direction of its kind, its partner takes that away: the top of the stack
    outweighs all below it.
    """
    kinds, depth = task.kinds, task.depth
    config = ReaderConfig(vocabulary=task.vocabulary, width=2 * kinds + 2)
    width = config.width
    embedding, head = np.zeros((config.vocabulary, width)), np.zeros((width, config.vocabulary))
    for kind, level in product(range(kinds), range(depth)):
        for closes, sign in ((0, 1.0), (1, -1.0)):
            row = task.outputs + (kind + kinds * closes) * depth + level
            # Opposite entries keep every value centred.
            embedding[row, 2 * kind], embedding[row, 2 * kind + 1] = sign * 3.0**level, -sign * 3.0**level
    embedding[START, -2], embedding[START, -1] = 1.0, -1.0  # START, in a direction of its own
    for kind in range(kinds):
        head[2 * kind, BRACKETS + kinds + kind], head[2 * kind + 1, BRACKETS + kinds + kind] = 10.0, -10.0
    zero, one = np.zeros((width, width)), np.eye(width)
    params = {
        "embedding": {"table": embedding},
        "query": {"kernel": zero}, "key": {"kernel": zero}, "value": {"kernel": one}, "output": {"kernel": one},
        "feedforward": {"up": {"kernel": zero}, "down": {"kernel": zero}},
        "head": {"kernel": head},
    }  # fmt: skip
    return config, jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), params)


def canonical(task: Dyck) -> tuple[Array, Array]:
    """Return the tokens and depths of up and down with the first kind, then with the second."""
    up = np.arange(1, task.depth + 1)
    levels = np.concatenate([up, up[::-1]] * min(task.kinds, 2))
    kinds = np.repeat(np.arange(min(task.kinds, 2)), 2 * task.depth)
    closes = np.tile(np.repeat([0, task.kinds], task.depth), min(task.kinds, 2))
    return jnp.asarray(BRACKETS + kinds + closes), jnp.asarray(levels)


def violation(task: Dyck, config: ReaderConfig, params: Params) -> float:
    """Return by how much brackets and their partners fail to cancel, over what must stay: 0 is perfect balance.

    The mean over closing brackets, as queries, of max ||pair|| / min ||what is still open||, as in the authors'
    measure. Attention weights are exp(score) without the mask, as partners behind the query count too.
    """
    kinds, depth = task.kinds, task.depth
    ids_S = np.array([START, *range(task.outputs, config.vocabulary)])
    weights_SS, values_SD = _unmasked(config, params, jnp.asarray(ids_S))
    place = np.arange(1, len(ids_S)).reshape(2, kinds, depth)  # [opens or closes, kind, level]
    ratios = []
    for kind, level in product(range(kinds), range(1, depth)):
        taken_SD = weights_SS[place[1, kind, level]][:, None] * values_SD
        pairs = taken_SD[place[0]] + taken_SD[place[1]]  # [kinds, depth, D]
        worst = np.linalg.norm(pairs, axis=-1).max()
        own = taken_SD[place[0, kind, level]] + taken_SD[place[1, kind, level]]
        left = [
            np.linalg.norm(taken_SD[0] + own + sum(taken_SD[place[0, k, d]] for d, k in enumerate(outer)))
            for outer in product(range(kinds), repeat=level)
        ]
        ratios.append(worst / min(left))
    return float(np.mean(ratios))


def _unmasked(config: ReaderConfig, params: Params, ids_S: Array) -> tuple[np.ndarray, np.ndarray]:
    """Return exp(score) of every id for every other, [S, S], each row up to a factor, and centred values [S, D]."""
    # Behind all ids stands the query: the last row sees every one of them.
    rows = []
    for query in ids_S:
        weights_BLS, values_BSD = attention_of(config, params, jnp.append(ids_S, query)[None])
        rows.append(np.asarray(weights_BLS[0, -1, :-1]))
    return np.stack(rows), np.asarray(values_BSD[0, :-1])


def variation(maps: list[Array]) -> float:
    """Return the mean over pairs of attention maps of their squared Frobenius distance."""
    pairs = [(a, b) for i, a in enumerate(maps) for b in maps[i + 1 :]]
    return float(np.mean([jnp.sum(jnp.square(a - b)) for a, b in pairs]))


def closing_accuracy(task: Dyck, logits_BLV: Array, targets_BL: Array, closes_BL: Array, sure: float) -> float:
    """Return the share of closing brackets whose probability is more than `sure` of that of all closing ones."""
    closing_BLK = jax.nn.softmax(logits_BLV[..., BRACKETS + task.kinds : BRACKETS + 2 * task.kinds])
    kinds_BL = jnp.clip(targets_BL - BRACKETS - task.kinds, 0, task.kinds - 1)
    right_BL = jnp.take_along_axis(closing_BLK, kinds_BL[..., None], axis=-1)[..., 0] > sure
    return float(jnp.sum(right_BL & closes_BL) / jnp.sum(closes_BL))
