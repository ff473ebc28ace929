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
from lm.models.reader import read
from lm.types import Array, Params
from tasks.formal.dyck.brackets import BRACKETS, Dyck


def by_hand(task: Dyck) -> tuple[ReaderConfig, Params]:
    """Return a reader of pairs with uniform attention that always knows the bracket to close.

    A bracket adds 3 ** depth times the direction of its kind, its partner takes that away: the top of the stack
    outweighs all below it.
    """
    kinds, depth = task.kinds, task.depth
    width = 2 + 2 * kinds * depth
    config = ReaderConfig(vocabulary=task.vocabulary, width=width)
    value, head = np.zeros((width, width)), np.zeros((width, task.vocabulary))
    for kind, level in product(range(kinds), range(depth)):
        for closes, sign in ((0, 1.0), (1, -1.0)):
            row = 1 + (kind + kinds * closes) * depth + level
            # Opposite entries keep every value centred.
            value[row, 2 * kind], value[row, 2 * kind + 1] = sign * 3.0**level, -sign * 3.0**level
    value[0, -2], value[0, -1] = 1.0, -1.0  # START, in a direction of its own
    for kind in range(kinds):
        head[2 * kind, BRACKETS + kinds + kind], head[2 * kind + 1, BRACKETS + kinds + kind] = 10.0, -10.0
    zero = {"kernel": np.zeros((1, width, width))}
    blocks = {
        "query": zero, "key": zero, "value": {"kernel": value[None]}, "output": {"kernel": np.eye(width)[None]},
        "feedforward": {"up": zero, "down": zero},
    }  # fmt: skip
    params = {"blocks": blocks, "head": {"kernel": head}}
    return config, jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), params)


def canonical(task: Dyck) -> Array:
    """Return as features START, up and down with the first kind, then with the second, [T, F]."""
    up = np.arange(1, task.depth + 1)
    levels = np.concatenate([up, up[::-1]] * min(task.kinds, 2))
    kinds = np.repeat(np.arange(min(task.kinds, 2)), 2 * task.depth)
    closes = np.tile(np.repeat([0, task.kinds], task.depth), min(task.kinds, 2))
    return task.read_all(jnp.asarray(BRACKETS + kinds + closes), jnp.asarray(levels))


def violation(task: Dyck, config: ReaderConfig, params: Params) -> float:
    """Return by how much brackets and their partners fail to cancel, over what must stay: 0 is perfect balance.

    For one layer that reads brackets with their depths. The mean over closing brackets, as queries, of max ||pair|| /
    min ||what is still open||, as in the authors' measure. Attention weights are exp(score) without the mask, as
    partners behind the query count too.
    """
    kinds, depth = task.kinds, task.depth
    tokens, levels = np.divmod(np.arange(2 * kinds * depth), depth)
    features_SF = task.read_all(jnp.asarray(BRACKETS + tokens), jnp.asarray(levels + 1))
    weights_SS, values_SD = _unmasked(config, params, features_SF)
    place = np.arange(1, len(features_SF)).reshape(2, kinds, depth)  # [opens or closes, kind, level]
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


def _unmasked(config: ReaderConfig, params: Params, features_SF: Array) -> tuple[np.ndarray, np.ndarray]:
    """Return exp(score) of every token for every other, [S, S], each row up to a factor, and centred values [S, D]."""
    count = len(features_SF)
    # Behind all tokens stands the query, one in each row of the batch: the last place sees every one of them.
    all_SSF = jnp.broadcast_to(features_SF, (count, *features_SF.shape))
    _, (weights_NBLS, values_NBLD) = read(config, params, jnp.concatenate([all_SSF, features_SF[:, None]], axis=1))
    return np.asarray(weights_NBLS[-1, :, -1, :-1]), np.asarray(values_NBLD[-1, 0, :-1])


def attention(task: Dyck, config: ReaderConfig, params: Params) -> np.ndarray:
    """Return the attention of the last layer on the canonical string, [T, T]."""
    _, (weights_NBLS, _) = read(config, params, canonical(task)[None])
    return np.asarray(weights_NBLS[-1, 0])


def variation(maps: list[np.ndarray]) -> float:
    """Return the mean over pairs of attention maps of their squared Frobenius distance.

    The first row, which sees one token, is the same in all.
    """
    pairs = [(a, b) for i, a in enumerate(maps) for b in maps[i + 1 :]]
    return float(np.mean([np.square(a - b).sum() for a, b in pairs]))


def closing_accuracy(task: Dyck, logits_BLV: Array, targets_BL: Array, closes_BL: Array, sure: float) -> float:
    """Return the share of closing brackets whose probability is more than `sure` of that of all closing ones."""
    closing_BLK = jax.nn.softmax(logits_BLV[..., BRACKETS + task.kinds : BRACKETS + 2 * task.kinds])
    kinds_BL = jnp.clip(targets_BL - BRACKETS - task.kinds, 0, task.kinds - 1)
    right_BL = jnp.take_along_axis(closing_BLK, kinds_BL[..., None], axis=-1)[..., 0] > sure
    return float(jnp.sum(right_BL & closes_BL) / jnp.sum(closes_BL))
