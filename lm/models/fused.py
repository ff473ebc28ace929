"""Attention as one kernel: Pallas splash attention on TPU and cuDNN's on GPU, and what each of them takes.

Neither holds scores or weights of all pairs of tokens. Letters: h width of one head.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp

from lm.mesh import over_heads
from lm.models.layers import SAVED
from lm.types import Array

LANES = 128  # numbers side by side in a TPU's vector; splash works on tiles of so many tokens
TILES = (512, 256, LANES)
# Their compiler knows no splash kernels; GPUs before Ampere, and those of other makers, have no cuDNN flash attention.
WITHOUT = re.compile(r"TPU v[23]$|T4|[KMP]\d0|[PV]100|Quadro|GTX|TITAN|RTX 20|AMD|gfx|Radeon")


def has_kernels(device_kind: str) -> bool:
    """Say whether a TPU or GPU of this name runs one of the two."""
    return WITHOUT.search(device_kind) is None


def takes_splash(q_BHLh: Array) -> bool:
    """Say whether splash attention takes queries of this shape."""
    return q_BHLh.shape[2] % LANES == 0


def takes_cudnn(q_BHLh: Array) -> bool:
    """Say whether every GPU since Ampere takes queries of this shape and type."""
    length, width = q_BHLh.shape[2:]
    return q_BHLh.dtype in (jnp.bfloat16, jnp.float16) and length % 2 == 0 and width % 8 == 0 and width <= 128


def splash_attention(
    q_BHLh: Array,
    k_BKLh: Array,
    v_BKLh: Array,
    *,
    scale: float,
    segments_BL: Array | None = None,
    window: int | None = None,
    interpret: bool = False,
) -> Array:
    """Attend by the Pallas kernels for TPU, which skip the tiles that nobody sees; `interpret` runs them anywhere."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length = q_BHLh.shape[2]
    tile = next(size for size in TILES if length % size == 0)
    # Tokens lie along the lanes: heads may not fill them, and where they do it is still what products around it like.
    layout = kernels.QKVLayout.SEQ_MINOR
    fields = [field.name for field in dataclasses.fields(kernels.BlockSizes)]
    sizes: Any = {name: tile for name in fields if name.startswith("block_")}
    sizes |= {name: layout for name in fields if name.endswith("_layout")}
    square = (length, length)
    mask = masks.CausalMask(square) if window is None else masks.LocalMask(square, (window - 1, 0), 0)

    def attend(q_BHLh: Array, k_BKLh: Array, v_BKLh: Array, segments_BL: Array | None) -> Array:
        kernel = kernels.make_splash_mha(
            masks.MultiHeadMask([mask] * q_BHLh.shape[1]),
            block_sizes=kernels.BlockSizes(**sizes),
            head_shards=1,
            q_seq_shards=1,
            residual_checkpoint_name=SAVED,
            interpret=interpret,
        )
        segments = None if segments_BL is None else kernels.SegmentIds(segments_BL, segments_BL)
        return jax.vmap(kernel)(q_BHLh, k_BKLh, v_BKLh, segments)

    return over_heads(attend, q_BHLh * scale, k_BKLh, v_BKLh, segments_BL)


def cudnn_attention(
    q_BHLh: Array,
    k_BKLh: Array,
    v_BKLh: Array,
    *,
    scale: float,
    segments_BL: Array | None = None,
    window: int | None = None,
) -> Array:
    """Attend by cuDNN's flash attention. Segments cost it a mask of all pairs of tokens, one for all heads."""

    def attend(q_BHLh: Array, k_BKLh: Array, v_BKLh: Array, segments_BL: Array | None) -> Array:
        mask = None if segments_BL is None else segments_BL[:, None, :, None] == segments_BL[:, None, None, :]
        out_BLHh = jax.nn.dot_product_attention(
            q_BHLh.swapaxes(1, 2),
            k_BKLh.swapaxes(1, 2),
            v_BKLh.swapaxes(1, 2),
            mask=mask,
            scale=scale,
            is_causal=True,
            local_window_size=None if window is None else (window - 1, 0),
            implementation="cudnn",
        )
        return out_BLHh.swapaxes(1, 2)

    return over_heads(attend, q_BHLh, k_BKLh, v_BKLh, segments_BL)
