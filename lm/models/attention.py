"""Causal attention: a plain form, forms by platform, a form over a cache, and the layer that uses them.

`causal_attention` chooses between all but the cached, which agree forward and backward. Letters: h width of one head,
Q new tokens, G query heads that share a key/value head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lm.config import Tempered
from lm.mesh import device_kind, gather_tokens, platform
from lm.models import blocked, fused
from lm.models.layers import SAVED, Here, Initialiser, Projection, fan_in_normal
from lm.models.masks import blocks, same_segment, visible
from lm.models.positions import Tables, rotate
from lm.products import in_rows, into_heads, out_of_heads
from lm.strict import require_choice
from lm.types import Array, DType

FORMS = MappingProxyType({"cpu": "blocked", "gpu": "cudnn", "tpu": "splash"})

# (slice of the queries, slice of the keys) -> what is added to their scores, [B, H, Q, S], or nothing
Bias = Callable[[slice, slice], Array | None]
KeysValues = tuple[Array, Array]
LayerCache = tuple[KeysValues, ...]  # parts of the slots; a part of fewer rows is shared by rows that follow each other


class Past(NamedTuple):
    """How tokens see T keys, not all of which are their own: allowed [B, 1, Q, T], positions [B, T].

    With a cache they are those of the S cached tokens, then of the new ones; without, of all devices that divide the
    length between them.
    """

    allowed: Array
    positions: Array


class Context(NamedTuple):
    """What all layers share in one call: positions [B, L] or [B, L, A], segments and groups [B, L] or None."""

    positions: Array
    segments: Array | None = None
    groups: Array | None = None
    rotation: tuple[Array, Array] | None = None
    tables: Tables = None
    past: Past | None = None


def causal_attention(
    q_BHLh: Array,
    k_BKLh: Array,
    v_BKLh: Array,
    *,
    scale: float,
    segments_BL: Array | None = None,
    groups_BL: Array | None = None,
    bias: Bias | None = None,
    window: int | None = None,
    form: str = "auto",
    operands: DType | None = None,
) -> Array:
    """Attend to earlier tokens of the same segment, [B, H, L, h], in the form that suits the platform or a named one.

    With groups, only to those of the same group or of group 0. With a `window`, only to the last tokens of that
    number, the query's own included. A form is used where it takes the problem, else the plain one:

    blocked  on CPU; L of two blocks or more; the operands of its products are of the type `operands` (None: of q)
    splash   on TPU; no bias, no groups, L a multiple of 128
    cudnn    on GPU; no bias, no groups, L even, h a multiple of 8 up to 128, bfloat16 or float16
    """
    form = attention_form(form)
    masked: dict[str, Any] = {"scale": scale, "segments_BL": segments_BL, "window": window}
    fusible = bias is None and groups_BL is None
    if form == "splash" and fusible and fused.takes_splash(q_BHLh):
        return fused.splash_attention(q_BHLh, k_BKLh, v_BKLh, **masked)
    if form == "cudnn" and fusible and fused.takes_cudnn(q_BHLh):
        out_BHLh = fused.cudnn_attention(q_BHLh, k_BKLh, v_BKLh, **masked)
    else:
        masked |= {"groups_BL": groups_BL, "bias": bias}
        if form == "blocked" and q_BHLh.shape[2] >= 2 * blocked.BLOCK:
            out_BHLh = blocked_attention(q_BHLh, k_BKLh, v_BKLh, **masked, operands=operands)
        else:
            out_BHLh = plain_attention(q_BHLh, k_BKLh, v_BKLh, **masked)
    return checkpoint_name(out_BHLh, SAVED)


def attention_form(name: str) -> str:
    """Return the form of attention that a configuration names, "auto" being that of the device."""
    require_choice("model.attention", name, ("auto", "plain", *FORMS.values()))
    if name != "auto":
        return name
    return FORMS[platform()] if fused.has_kernels(device_kind()) else "plain"


def plain_attention(q_BHLh, k_BKLh, v_BKLh, **how) -> Array:
    """Attend with all scores at once."""
    everything = slice(0, q_BHLh.shape[2])
    return _attend_block(q_BHLh, k_BKLh, v_BKLh, everything, everything, **how)


def blocked_attention(
    q_BHLh, k_BKLh, v_BKLh, *, block: int = blocked.BLOCK, operands: DType | None = None, **how
) -> Array:
    """Attend in blocks of queries."""
    if how.get("bias") is None:
        tokens = blocked.Tokens(how.get("segments_BL"), how.get("groups_BL"))
        settings = blocked.How(how["scale"], jnp.dtype(operands or q_BHLh.dtype), how.get("window"), block)
        return blocked.attend(settings, q_BHLh, k_BKLh, v_BKLh, tokens)
    # The gradient of the bias is the bias's own matter: what follows leaves it to JAX.
    parts = blocks(q_BHLh.shape[2], block, how.get("window"))
    return jnp.concatenate([_attend_block(q_BHLh, k_BKLh, v_BKLh, *part, **how) for part in parts], axis=2)


def _attend_block(q_BHLh, k_BKLh, v_BKLh, rows: slice, seen: slice, **how) -> Array:
    """Attend from one block of queries to all keys that one of them may see."""
    return _weighted_sum(_weigh_block(q_BHLh, k_BKLh, rows, seen, **how), v_BKLh[:, :, seen])


def _weigh_block(
    q_BHLh, k_BKLh, rows: slice, seen: slice, *, scale, segments_BL=None, groups_BL=None, bias=None, window=None
) -> Array:
    """Return the attention of one block of queries to the keys that one of them may see, [B, H, Q, S]."""
    scores_BHQS = _scores(q_BHLh[:, :, rows], k_BKLh[:, :, seen], scale)
    return _softmax(scores_BHQS, visible(rows, seen, segments_BL, groups_BL, window), bias and bias(rows, seen))


def attention_weights(q_BHLh, k_BKLh, **how) -> Array:
    """Return the attention of each token to each, [B, H, L, L] in float32."""
    everything = slice(0, q_BHLh.shape[2])
    return _weigh_block(q_BHLh, k_BKLh, everything, everything, **how)


def cached_attention(
    q_BHQh: Array,
    k_BKQh: Array,
    v_BKQh: Array,
    cache: LayerCache,
    *,
    scale: float,
    allowed_B1QT: Array,
    bias_BHQT: Array | None = None,
) -> Array:
    """Attend from new tokens to the cached keys, part by part, and to their own, [B, H, Q, h].

    The cache is read as it was before these tokens, so that the caller can write it in place afterwards. Rows that
    share a part of it are rows M of one product, as the query heads of a key/value head are.
    """
    batch, heads, count, width = q_BHQh.shape
    parts = (*cache, (k_BKQh, v_BKQh))
    q_BKMh = (q_BHQh * scale).reshape(batch, k_BKQh.shape[1], -1, width)
    scores_BKMT = jnp.concatenate([_by_part("bkmh,bksh->bkms", q_BKMh, k_bKSh) for k_bKSh, _ in parts], axis=-1)
    weights_BHQT = _softmax(scores_BKMT.reshape(batch, heads, count, -1), allowed_B1QT, bias_BHQT)
    weights_BKMT, out_BKMh, start = weights_BHQT.reshape(scores_BKMT.shape), jnp.zeros(q_BKMh.shape), 0
    for _, v_bKSh in parts:
        stop = start + v_bKSh.shape[2]
        out_BKMh += _by_part("bkms,bksh->bkmh", weights_BKMT[..., start:stop], v_bKSh)
        start = stop
    return out_BKMh.astype(q_BHQh.dtype).reshape(q_BHQh.shape)


def _by_part(equation: str, x_BKMz: Array, part_bKSh: Array) -> Array:
    """Multiply rows by a part of the cache that B / b of them share, in the type of the part, summed in float32."""
    batch, heads, count, size = x_BKMz.shape
    rows = len(part_bKSh)
    x_bKMz = x_BKMz.reshape(rows, batch // rows, heads, count, size).swapaxes(1, 2).reshape(rows, heads, -1, size)
    x_bKMz = x_bKMz.astype(part_bKSh.dtype)
    if x_bKMz.shape[2] == 1 and part_bKSh.dtype == jnp.bfloat16 and platform() == "cpu":
        x_bKMz = jnp.repeat(x_bKMz, 2, axis=2)  # XLA would widen the part to multiply it by a single row
    y_bKMz = jnp.einsum(equation, x_bKMz, part_bKSh, preferred_element_type=jnp.float32)[:, :, : batch // rows * count]
    return y_bKMz.reshape(rows, heads, batch // rows, count, -1).swapaxes(1, 2).reshape(batch, heads, count, -1)


def cache_mask(segments_BQ: Array, cached_BS: Array, index: Array, window: int | None = None) -> Array:
    """Return which of the cached keys, then of their own, new tokens see: [B, 1, Q, S + Q]."""
    slots_S, slots_Q = jnp.arange(cached_BS.shape[1]), index + jnp.arange(segments_BQ.shape[1])
    causal_QQ = jnp.tri(segments_BQ.shape[1], dtype=bool)
    old_B1QS = same_segment(segments_BQ, cached_BS) & (slots_S < index)[None, None, None]
    new_B1QQ = same_segment(segments_BQ, segments_BQ) & causal_QQ[None, None]
    allowed_B1QT = jnp.concatenate([old_B1QS, new_B1QQ], axis=-1)
    if window is None:
        return allowed_B1QT
    near_QT = jnp.concatenate([slots_S, slots_Q])[None] > slots_Q[:, None] - window
    return allowed_B1QT & near_QT[None, None]


def _scores(q_BHQh: Array, k_BKSh: Array, scale: float) -> Array:
    batch, heads, count, width = q_BHQh.shape
    kv_heads, slots = k_BKSh.shape[1:3]
    q_BKGQh = q_BHQh.reshape(batch, kv_heads, heads // kv_heads, count, width)
    scores = jnp.einsum("bkgqh,bksh->bkgqs", q_BKGQh * scale, k_BKSh, preferred_element_type=jnp.float32)
    return scores.reshape(batch, heads, count, slots)


def _softmax(scores_BHQS: Array, allowed: Array, bias_BHQS: Array | None) -> Array:
    if bias_BHQS is not None:
        scores_BHQS = scores_BHQS + bias_BHQS
    return jax.nn.softmax(jnp.where(allowed, scores_BHQS, blocked.MASKED))


def _weighted_sum(weights_BHQS: Array, v_BKSh: Array) -> Array:
    batch, heads, count, slots = weights_BHQS.shape
    kv_heads, width = v_BKSh.shape[1], v_BKSh.shape[3]
    weights = weights_BHQS.astype(v_BKSh.dtype).reshape(batch, kv_heads, heads // kv_heads, count, slots)
    return jnp.einsum("bkgqs,bksh->bkgqh", weights, v_BKSh).reshape(batch, heads, count, width)


class Temper(nn.Module):
    """What the scores of queries at positions [B, L] or [B, L, A] are multiplied by, [B, 1, L, 1]."""

    config: Tempered

    @nn.compact
    def __call__(self, positions: Array) -> Array:
        visible_BL = positions.reshape(*positions.shape[:2], -1)[..., 0] + 1.0
        if self.config.length is not None:
            factor_BL = jnp.log(visible_BL + 1) / math.log(self.config.length)
        else:
            factor_BL = 1 + self.param("tau", nn.initializers.normal(0.02), ()) * jnp.log(visible_BL)
        return factor_BL[:, None, :, None]


class Attention(nn.Module):
    """Multi-head causal attention on rows [M, D], M = B * L, with grouped key/value heads.

    `score_bias` (tables, query positions, key positions) -> [B, H, Q, S] or None is a position scheme's third hook.
    Returns the output rows and, where there is a cache, the keys and values [B, K, Q, h] to write into it.
    """

    heads: int
    kv_heads: int
    head_width: int
    scale: float
    use_bias: bool = False
    qkv_bias: bool | None = None  # None: as use_bias
    window: int | None = None  # with a cache, `Past.allowed` says what is seen
    tempered: Tempered | None = None
    dtype: DType = jnp.float32
    query_init: Initialiser = fan_in_normal
    kernel_init: Initialiser = fan_in_normal
    residual_init: Initialiser = fan_in_normal
    score_bias: Callable[[Tables, Array, Array], Array | None] | None = None
    form: str = "auto"
    operands: DType | None = None  # of all products; None: as dtype, by the plain product

    @nn.compact
    def __call__(
        self, x_MD: Array, context: Context, cache: LayerCache | None = None
    ) -> tuple[Array, KeysValues | None]:
        positions, past = context.positions, context.past
        batch, length = positions.shape[:2]

        use_bias = self.use_bias if self.qkv_bias is None else self.qkv_bias

        def project(name: str, heads: int, init: Initialiser) -> Array:
            shape = (heads * self.head_width, use_bias, self.dtype, init)
            linear = self._linear(into_heads, batch, heads)
            y = Projection(*shape, linear=linear, name=name)(x_MD)
            return y.reshape(batch, length, heads, self.head_width)

        def bias(queries_BQ: Array, keys_BS: Array) -> Array | None:
            return None if self.score_bias is None else self.score_bias(context.tables, queries_BQ, keys_BS)

        def block_bias(queries: slice, keys: slice) -> Array | None:
            return bias(positions[:, queries], positions[:, keys])

        q_BHLh = rotate(project("query", self.heads, self.query_init), context.rotation).swapaxes(1, 2)
        if self.tempered is not None:
            q_BHLh = q_BHLh * Temper(self.tempered, name="temper")(positions).astype(q_BHLh.dtype)
        k_BKLh = rotate(project("key", self.kv_heads, self.kernel_init), context.rotation).swapaxes(1, 2)
        v_BKLh = project("value", self.kv_heads, self.kernel_init).swapaxes(1, 2)
        if past is None:
            how: dict[str, Any] = {
                "scale": self.scale,
                "segments_BL": context.segments,
                "groups_BL": context.groups,
                "bias": block_bias if self.score_bias else None,
                "window": self.window,
            }
            out_BHLh = causal_attention(q_BHLh, k_BKLh, v_BKLh, **how, form=self.form, operands=self.operands)
            if self.is_mutable_collection("intermediates") and not self.is_initializing():
                self.sow("intermediates", "weights", attention_weights(q_BHLh, k_BKLh, **how))
        elif cache is None:
            k_BKTh, v_BKTh = (gather_tokens(x, axis=2, heads=1) for x in (k_BKLh, v_BKLh))
            scores_BHLT = _scores(q_BHLh, k_BKTh, self.scale)
            weights_BHLT = _softmax(scores_BHLT, past.allowed, bias(positions, past.positions))
            out_BHLh = _weighted_sum(weights_BHLT, v_BKTh)
        else:
            out_BHLh = cached_attention(
                q_BHLh,
                k_BKLh,
                v_BKLh,
                cache,
                scale=self.scale,
                allowed_B1QT=past.allowed,
                bias_BHQT=bias(positions, past.positions),
            )
        out_MD = out_BHLh.swapaxes(1, 2).reshape(batch * length, self.heads * self.head_width)
        out_MD = Here(name="heads")(out_MD)
        shape = (x_MD.shape[-1], self.use_bias, self.dtype, self.residual_init)
        linear = self._linear(out_of_heads, batch, self.heads)
        out_MD = Projection(*shape, linear=linear, name="output")(out_MD)
        return out_MD, None if cache is None else (k_BKLh, v_BKLh)

    def _linear(self, by_heads: Callable[..., Array], batch: int, heads: int) -> Callable[..., Array]:
        """Return the linear map in the layout of heads on TPU, and in rows elsewhere: they suit CPU and cuDNN."""
        if self.operands is None or platform() != "tpu":
            return partial(in_rows, operands=self.operands)
        return partial(by_heads, batch=batch, heads=heads, operands=self.operands)
