"""Matrix products by platform: what type their operands have, and how a CPU is asked for them.

y_MN = product(x_MK, w_KN, jnp.bfloat16)  # operands rounded to bfloat16, sums in float32, the result in the type of x

XLA for CPU has fast kernels where the sum runs along the rows of the left operand, in float32, and then bfloat16
operands are twice as fast as float32 ones. A kernel's gradient x.T @ g is not such a product: both operands are
widened. So what would be read across its rows is written anew along them first.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from lm.mesh import platform
from lm.types import Array, DType


def product(x_MK: Array, w_KN: Array, operands: DType) -> Array:
    """Return x @ w, [M, N], in the type of x; both are rounded to the type of `operands` first, gradients likewise.

    On CPU it has no forward-mode derivative: jnp.matmul is the plain form.
    """
    if platform() == "cpu":  # float32 outside, so that autodiff finds the types of the gradients
        return _on_cpu(x_MK.astype(jnp.float32), w_KN.astype(jnp.float32), operands).astype(x_MK.dtype)
    return jnp.matmul(x_MK.astype(operands), w_KN.astype(operands), preferred_element_type=x_MK.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _on_cpu(x_MK: Array, w_KN: Array, operands: DType) -> Array:
    return _forward(x_MK, w_KN, operands)[0]


def _forward(x_MK: Array, w_KN: Array, operands: DType) -> tuple[Array, tuple[Array, Array]]:
    x_MK, w_KN = x_MK.astype(operands), w_KN.astype(operands)
    return times(x_MK, w_KN), (x_MK, w_KN)


def _backward(operands: DType, kept: tuple[Array, Array], g_MN: Array) -> tuple[Array, Array]:
    (x_MK, w_KN), g_MN = kept, g_MN.astype(operands)
    return by_left(g_MN, w_KN), by_right(x_MK, g_MN)


_on_cpu.defvjp(_forward, _backward)


def times(x_MK: Array, w_KN: Array) -> Array:
    """Return x @ w, [M, N], summed in float32."""
    return _dot(x_MK, w_KN, 1, 0)


def by_left(g_MN: Array, w_KN: Array) -> Array:
    """Return what a gradient g by a product is by its left operand: g @ w.T, [M, K], summed in float32.

    There may be several leading axes in place of M.
    """
    return _dot(g_MN, w_KN, g_MN.ndim - 1, 1)


def by_right(x_MK: Array, g_MN: Array) -> Array:
    """Return what a gradient g by a product is by its right operand: x.T @ g, [K, N], summed in float32.

    There may be several leading axes in place of M.
    """
    x_MK, g_MN = (x.reshape(-1, x.shape[-1]) for x in (x_MK, g_MN))
    narrow = x_MK.shape[1] <= g_MN.shape[1]
    if platform() != "cpu" or x_MK.shape[0] % 2 or (x_MK.dtype == jnp.float32 and narrow):
        return _dot(x_MK, g_MN, 0, 0)
    if narrow:
        return _dot(_across(x_MK), g_MN, 1, 0)
    return _across(_dot(_across(g_MN), x_MK, 1, 0))


def in_rows(x_MD: Array, w_DF: Array, bias_F: Array | None, *, operands: DType | None = None) -> Array:
    """Return rows x @ w + bias, [M, F], in the type of x; without `operands` by the plain product in that type."""
    y_MF = x_MD @ w_DF.astype(x_MD.dtype) if operands is None else product(x_MD, w_DF, operands)
    return y_MF if bias_F is None else y_MF + bias_F[None]


def into_heads(x_MD: Array, w_DF: Array, bias_F: Array | None, *, batch: int, heads: int, operands: DType) -> Array:
    """Return rows x @ w + bias, [M, H h], made head by head, [B, H, L, h], as kernels for TPU read them.

    What reorders them here and around a kernel cancels in the compiler, forwards and backwards; rows would be copied.
    """
    x_BLD = x_MD.astype(operands).reshape(batch, -1, x_MD.shape[1])
    w_DHh = w_DF.astype(operands).reshape(w_DF.shape[0], heads, -1)  # in this order, or its gradient is padded
    y_BHLh = jnp.einsum("bld,dhk->bhlk", x_BLD, w_DHh, preferred_element_type=x_MD.dtype)
    if bias_F is not None:
        y_BHLh = y_BHLh + bias_F.reshape(1, heads, 1, -1)
    return y_BHLh.swapaxes(1, 2).reshape(x_MD.shape[0], -1)


def out_of_heads(x_MF: Array, w_FD: Array, bias_D: Array | None, *, batch: int, heads: int, operands: DType) -> Array:
    """Return rows x @ w + bias, [M, D], of rows [M, H h] that a kernel made head by head, [B, H, L, h]."""
    w_HhD = w_FD.astype(operands).reshape(heads, -1, w_FD.shape[1])
    x_BHLh = x_MF.astype(operands).reshape(batch, -1, *w_HhD.shape[:2]).swapaxes(1, 2)
    y_BLD = jnp.einsum("bhlk,hkd->bld", x_BHLh, w_HhD, preferred_element_type=x_MF.dtype)
    y_MD = y_BLD.reshape(x_MF.shape[0], -1)
    return y_MD if bias_D is None else y_MD + bias_D[None]


def _dot(x: Array, y: Array, along_x: int, along_y: int) -> Array:
    return jax.lax.dot_general(x, y, (((along_x,), (along_y,)), ((), ())), preferred_element_type=jnp.float32)


def _across(x_MK: Array) -> Array:
    """Return x.T as an array of its own, made of halves so that XLA takes no product of it for one of x."""
    rows, columns = x_MK.shape
    parts = 2 if rows % 2 == 0 else 1
    return x_MK.reshape(parts, rows // parts, columns).transpose(2, 0, 1).reshape(columns, rows)
