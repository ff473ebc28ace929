"""The small parts that models share: embedding, norms, feed-forward, initialisers and the choice of precision.

Every layer works on matrices [M, D] with M = B * L rows, the shape that matrix products like best, and keeps its
parameters in float32 whatever it computes in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm.mesh import platform, spread
from lm.products import in_rows
from lm.strict import require_choice
from lm.types import Array, DType

Initialiser = Callable[..., Array]
Linear = Callable[[Array, Array, Array | None], Array]
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "exact_gelu": partial(jax.nn.gelu, approximate=False),
}
GATED: dict[str, Callable[[Array], Array]] = {  # Shazeer 2020
    "swiglu": jax.nn.silu,
    "geglu": jax.nn.gelu,
    "reglu": jax.nn.relu,
}
REMAT = ("none", "dots", "attention", "full")
SAVED = "attention"  # under this name attention marks its output
INITIALISATIONS = ("scaled", "lecun", "t5")

fan_in_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def compute_dtype(name: str, field: str = "model.dtype") -> str:
    """Return the name of the type to compute in: "auto" is float32 on CPU and bfloat16 on accelerators."""
    require_choice(field, name, ("auto", "float32", "bfloat16"))
    if name != "auto":
        return name
    return "float32" if platform() == "cpu" else "bfloat16"


def unrolled(depth: int) -> bool:
    """Say whether repeated blocks are best unrolled: on CPU a scanned loop costs a quarter of the step."""
    return platform() == "cpu" and depth <= 8


def stacked(block: type[nn.Module], depth: int, unroll: bool, in_axes: Any = 0) -> Callable[..., nn.Module]:
    """Return a maker of `depth` blocks as one module, whose parameters have a leading depth axis.

    The module is called as a block is, on a carry and on inputs with `in_axes`.
    """
    return nn.scan(
        block,
        variable_axes={"params": 0, "intermediates": 0, "edits": 0},  # the last two: lm/observe.py
        split_rngs={"params": True, "dropout": True},
        in_axes=in_axes,
        length=depth,
        unroll=depth if unroll else 1,
    )


def rematerialised(block: type[nn.Module], remat: str, prevent_cse: bool) -> type[nn.Module]:
    """Return the block, of which the backward pass keeps what `remat` names and computes the rest again.

    none keeps all; dots the outputs of projections and of attention; attention its output alone; full nothing.
    """
    attention = jax.checkpoint_policies.save_only_these_names(SAVED)
    dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    policies = {
        "dots": jax.checkpoint_policies.save_from_both_policies(dots, attention),
        "attention": attention,
        "full": jax.checkpoint_policies.nothing_saveable,
    }
    return block if remat == "none" else nn.remat(block, prevent_cse=prevent_cse, policy=policies[remat])


class Initialisers(NamedTuple):
    """Initialisers by role; `residual` is for the projections that write to the residual stream."""

    embedding: Initialiser
    query: Initialiser
    kernel: Initialiser
    residual: Initialiser


def initialisers(name: str, *, depth: int, width: int, head_width: int) -> Initialisers:
    """Return the initialisers of a named scheme.

    scaled: N(0, 0.02), residual ones over sqrt(2 depth) (Radford et al. 2019). lecun: N(0, 1 / fan in).
    t5: N(0, 1) embeddings, N(0, 1 / fan in) kernels, queries smaller by sqrt(head width) because the scores
    are not divided by it (Raffel et al. 2020).
    """
    require_choice("model.initialisation", name, INITIALISATIONS)
    normal = nn.initializers.normal
    if name == "scaled":
        return Initialisers(normal(0.02), normal(0.02), normal(0.02), normal(0.02 * (2 * depth) ** -0.5))
    if name == "lecun":
        return Initialisers(normal(width**-0.5), fan_in_normal, fan_in_normal, fan_in_normal)
    return Initialisers(normal(1.0), normal((width * head_width) ** -0.5), fan_in_normal, fan_in_normal)


class Embedding(nn.Module):
    """A table [rows, width]. An id outside the table reads NaN, so that a wrong vocabulary shows in the loss."""

    rows: int
    width: int
    dtype: DType = jnp.float32
    table_init: Initialiser = nn.initializers.normal(0.02)

    def setup(self) -> None:
        self.table = self.param("table", self.table_init, (self.rows, self.width))

    def __call__(self, ids: Array) -> Array:
        if platform() != "tpu":
            return jnp.take(self.table, ids, axis=0).astype(self.dtype)
        return spread(partial(narrow_rows, self.rows), self.table.astype(self.dtype), ids)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def narrow_rows(count: int, table_VD: Array, ids: Array) -> Array:
    """Return rows of a table of `count` that is kept in few bits; their gradients are summed in float32."""
    return jnp.take(table_VD, ids, axis=0)


def _narrow_forward(count: int, table_VD: Array, ids: Array) -> tuple[Array, Array]:
    return jnp.take(table_VD, ids, axis=0), ids


def _narrow_backward(count: int, ids: Array, g: Array) -> tuple[Array, None]:
    wide = jax.ShapeDtypeStruct((count, g.shape[-1]), jnp.float32)
    (by_table,) = jax.linear_transpose(lambda table: jnp.take(table, ids, axis=0), wide)(g.astype(jnp.float32))
    return by_table.astype(g.dtype), None


narrow_rows.defvjp(_narrow_forward, _narrow_backward)


class Projection(nn.Module):
    """A linear map of rows [M, D] to [M, features] with parameters `kernel` and, on demand, `bias`."""

    features: int
    use_bias: bool = False
    dtype: DType = jnp.float32
    kernel_init: Initialiser = fan_in_normal
    bias_init: Initialiser = nn.initializers.zeros
    linear: Linear = in_rows  # (rows, kernel, bias) -> rows

    @nn.compact
    def __call__(self, x_MD: Array) -> Array:
        kernel_DF = self.param("kernel", self.kernel_init, (x_MD.shape[-1], self.features))
        bias_F = self.param("bias", self.bias_init, (self.features,)).astype(self.dtype) if self.use_bias else None
        return self.linear(x_MD.astype(self.dtype), kernel_DF, bias_F)


class Here(nn.Module):
    """What it is given, under a name by which lm/observe.py sees and edits it."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return x


class Weights(nn.Module):
    """The parameters of a linear map, handed out to be applied where and when they are wanted."""

    features: int
    use_bias: bool = False
    kernel_init: Initialiser = fan_in_normal
    bias_init: Initialiser = nn.initializers.zeros

    @nn.compact
    def __call__(self, width: int) -> tuple[Array, Array | None]:
        kernel_DF = self.param("kernel", self.kernel_init, (width, self.features))
        return kernel_DF, self.param("bias", self.bias_init, (self.features,)) if self.use_bias else None


class Norm(nn.Module):
    """Root-mean-square norm with a scale ("rms"), or layer norm with scale and bias ("layer"), in float32."""

    kind: str = "rms"
    epsilon: float = 1e-6
    dtype: DType = jnp.float32
    plain: bool = False  # may be differentiated forwards

    @nn.compact
    def __call__(self, x_MD: Array) -> Array:  # or x [B, L, D]
        width = x_MD.shape[-1]
        scale_D = self.param("scale", nn.initializers.ones, (width,))
        bias_D = self.param("bias", nn.initializers.zeros, (width,)) if self.kind == "layer" else None
        norm = partial(_norm, self.epsilon)
        y_MD = norm(x_MD, scale_D, bias_D) if self.plain else again(norm, (x_MD,), scale_D, bias_D)
        return y_MD.astype(self.dtype)


def _norm(epsilon: float, x_MD: Array, scale_D: Array, bias_D: Array | None) -> Array:
    row, y_MD = (None,) * (x_MD.ndim - 1), x_MD.astype(jnp.float32)
    if bias_D is not None:
        y_MD = y_MD - y_MD.mean(axis=-1, keepdims=True)
    y_MD = y_MD * jax.lax.rsqrt(jnp.square(y_MD).mean(axis=-1, keepdims=True) + epsilon) * scale_D[row]
    return y_MD if bias_D is None else y_MD + bias_D[row]


class FeedForward(nn.Module):
    """Two projections around an activation; swiglu, geglu and reglu multiply `up` by an activated `gate`."""

    hidden: int
    activation: str = "gelu"
    use_bias: bool = False
    dtype: DType = jnp.float32
    kernel_init: Initialiser = fan_in_normal
    residual_init: Initialiser = fan_in_normal
    operands: DType | None = None  # of all products; None: as dtype, by the plain product

    @nn.compact
    def __call__(self, x_MD: Array) -> Array:
        linear = partial(in_rows, operands=self.operands)
        names = ("gate", "up") if self.activation in GATED else ("up",)
        shape = (self.hidden, self.use_bias, self.dtype, self.kernel_init)
        *gate, up_MF = (Projection(*shape, linear=linear, name=name)(x_MD) for name in names)

        def down(up_MF: Array, kernel_FD: Array, bias_D: Array | None) -> Array:
            rows, activated = (*gate, up_MF), partial(_activated, self.activation, linear)
            plain = self.operands is None
            return activated(*rows, kernel_FD, bias_D) if plain else again(activated, rows, kernel_FD, bias_D)

        shape = (x_MD.shape[-1], self.use_bias, self.dtype, self.residual_init)
        return Projection(*shape, linear=down, name="down")(up_MF)


def _activated(activation: str, linear: Linear, *given: Any) -> Array:
    """Return what a linear map makes of activated rows; gate, up, kernel and bias are given, or all but the gate."""
    *gate, up_MF, kernel_FD, bias_D = given
    hidden_MF = GATED[activation](gate[0]) * up_MF if gate else ACTIVATIONS[activation](up_MF)
    return linear(hidden_MF, kernel_FD, bias_D)


def again(function: Callable[..., Array], rows: tuple[Array, ...], *weights: Any) -> Array:
    """Return function(*rows, *weights), rows [M, N] in float32 or narrower, and keep nothing of it for the gradient.

    The backward pass computes it again from its arguments. Only CPU needs to be told so: other compilers fuse it, or
    heed `jax.checkpoint`. It then has no forward-mode derivative.
    """
    return _again(function, rows, weights) if platform() == "cpu" else function(*rows, *weights)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _again(function: Callable[..., Array], rows: tuple[Array, ...], weights: tuple[Any, ...]) -> Array:
    return function(*rows, *weights)


def _again_forward(function: Callable[..., Array], rows: Any, weights: Any) -> tuple[Array, tuple[Any, Any]]:
    return function(*rows, *weights), (rows, weights)


def _again_backward(function: Callable[..., Array], kept: tuple[Any, Any], g_MN: Array) -> tuple[Any, Any]:
    rows, weights = kept
    # XLA for CPU drops the barriers of jax.checkpoint and keeps what both passes compute. What hangs on the gradient
    # is computed by the backward pass alone.
    rows = tuple(x + 0 * g_MN[..., :1].astype(x.dtype) for x in rows)
    return jax.vjp(lambda rows, weights: function(*rows, *weights), rows, weights)[1](g_MN)


_again.defvjp(_again_forward, _again_backward)
