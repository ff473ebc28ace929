"""Attention for CPU: queries go in blocks that read only the keys they may see, half the work, and it stays in cache.

Scores stand keys first, [B, K, S, Q]: the softmax then runs over whole rows at once, and every product of both passes
sums along the rows of its left operand, as those do that are fast (lm/products.py). Letters: h width of one head,
G query heads that share a key/value head, Q the queries of a block, of all G heads.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lm.models.masks import blocks, visible
from lm.types import Array, DType

BLOCK = 64
MASKED = -1e30


class How(NamedTuple):
    """What is no array."""

    scale: float
    operands: DType  # of all products; their sums are float32
    window: int | None = None
    block: int = BLOCK


class Tokens(NamedTuple):
    """What is known of each token, [B, L]."""

    segments: Array | None = None
    groups: Array | None = None


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(how: How, q_BHLh: Array, k_BKLh: Array, v_BKLh: Array, tokens: Tokens) -> Array:
    """Attend to the visible tokens, [B, H, L, h] in the type of q. It has no forward-mode derivative."""
    return _forward(how, q_BHLh, k_BKLh, v_BKLh, tokens)[0]


def _forward(how: How, q_BHLh: Array, k_BKLh: Array, v_BKLh: Array, tokens: Tokens) -> tuple[Array, Any]:
    batch, heads, length, width = q_BHLh.shape
    grouped = (batch, k_BKLh.shape[1], heads // k_BKLh.shape[1], length, width)
    q_BKGLh = (q_BHLh * how.scale).astype(how.operands).reshape(grouped)
    k_BKLh, v_BKLh = k_BKLh.astype(how.operands), v_BKLh.astype(how.operands)
    v_BKhL, parts = v_BKLh.swapaxes(2, 3), []
    for rows, seen in blocks(length, how.block, how.window):
        weights_BKSQ = _weigh(how, _cut(q_BKGLh, rows), k_BKLh, tokens, rows, seen)
        parts.append((_dot(v_BKhL[..., seen], weights_BKSQ, 3, 2), weights_BKSQ))
    out_BKhGL = _join([out for out, _ in parts], grouped)
    out_BHLh = jnp.moveaxis(out_BKhGL, 2, 4).reshape(q_BHLh.shape).astype(q_BHLh.dtype)
    return out_BHLh, (q_BKGLh, k_BKLh, v_BKLh, tokens, out_BKhGL, [weights for _, weights in parts])


def _backward(how: How, kept: Any, g_BHLh: Array) -> tuple[Array, Array, Array, None]:
    q_BKGLh, k_BKLh, v_BKLh, tokens, out_BKhGL, weights = kept
    g_BKGLh = g_BHLh.reshape(q_BKGLh.shape)
    g_BKhGL = jnp.moveaxis(g_BKGLh, 4, 2)
    # The gradient of a softmax is p (g - sum of p g), and that sum is the output times its own gradient.
    inner_BKGL1 = jnp.sum(g_BKhGL.astype(jnp.float32) * out_BKhGL, axis=2)[..., None]
    g_BKGLh, g_BKhGL = g_BKGLh.astype(how.operands), g_BKhGL.astype(how.operands)
    k_BKhL, parts = k_BKLh.swapaxes(2, 3), []
    by_k_BKLh, by_v_BKhL = jnp.zeros(k_BKLh.shape, jnp.float32), jnp.zeros(k_BKhL.shape, jnp.float32)
    for (rows, seen), weights_BKSQ in zip(blocks(g_BHLh.shape[2], how.block, how.window), weights, strict=True):
        inner_BK1Q = _cut(inner_BKGL1, rows).swapaxes(2, 3)
        by_weights_BKSQ = _dot(v_BKLh[:, :, seen], _cut(g_BKGLh, rows), 3, 3)
        by_scores_BKSQ = (weights_BKSQ.astype(jnp.float32) * (by_weights_BKSQ - inner_BK1Q)).astype(how.operands)
        g_BKhQ = g_BKhGL[..., rows].reshape(*g_BKhGL.shape[:3], -1)
        by_v_BKhL = by_v_BKhL.at[..., seen].add(_dot(g_BKhQ, weights_BKSQ, 3, 3))
        by_k_BKLh = by_k_BKLh.at[:, :, seen].add(_dot(by_scores_BKSQ, _cut(q_BKGLh, rows), 3, 2))
        parts.append(_dot(k_BKhL[..., seen], by_scores_BKSQ, 3, 2))
    by_q_BHLh = jnp.moveaxis(_join(parts, q_BKGLh.shape), 2, 4).reshape(g_BHLh.shape) * how.scale
    by_q, by_k, by_v = (x.astype(g_BHLh.dtype) for x in (by_q_BHLh, by_k_BKLh, by_v_BKhL.swapaxes(2, 3)))
    return by_q, by_k, by_v, None


attend.defvjp(_forward, _backward)


def _weigh(how: How, q_BKQh: Array, k_BKLh: Array, tokens: Tokens, rows: slice, seen: slice) -> Array:
    """Return the attention of one block of queries, [B, K, S, Q]."""
    scores_BKSQ = _dot(k_BKLh[:, :, seen], q_BKQh, 3, 3)
    allowed = visible(rows, seen, *tokens, how.window).swapaxes(2, 3)
    allowed = jnp.tile(allowed, (1, 1, 1, q_BKQh.shape[2] // allowed.shape[3]))
    weights_BKSQ = jax.nn.softmax(jnp.where(allowed, scores_BKSQ, MASKED), axis=2)
    return weights_BKSQ.astype(how.operands)


def _cut(x_BKGLh: Array, rows: slice) -> Array:
    """Return a block of queries, [B, K, Q, h]."""
    batch, heads, _, _, width = x_BKGLh.shape
    return x_BKGLh[:, :, :, rows].reshape(batch, heads, -1, width)


def _join(parts: list[Array], grouped: tuple[int, ...]) -> Array:
    """Return the blocks [B, K, h, Q] as one, [B, K, h, G, L]."""
    batch, heads, groups, _, width = grouped
    return jnp.concatenate([part.reshape(batch, heads, width, groups, -1) for part in parts], axis=4)


def _dot(x: Array, y: Array, along_x: int, along_y: int) -> Array:
    """Return a product for every one of the first two axes, summed in float32 along one axis of each."""
    axes = (((along_x,), (along_y,)), ((0, 1), (0, 1)))
    return jax.lax.dot_general(x, y, axes, preferred_element_type=jnp.float32)
