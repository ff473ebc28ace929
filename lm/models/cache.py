"""The cache of a transformer: keys and values in parts, to which parts are added as a text grows.

cache = layout.empty(batch_size=8, length=192, room=0)   # what is read first makes the first part
cache = layout.grow(cache, room=64, copies=4)            # every row goes on four times and shares what was read

A full part is never written again, nor copied for the rows that share it: new tokens go into the last part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from lm.mesh import platform
from lm.models.attention import Context, Past, cache_mask
from lm.models.masks import open_groups
from lm.strict import ConfigError
from lm.types import Array, Cache, Params


@dataclass(frozen=True)
class Layout:
    """How keys and values [n, B, K, S, h] are kept: the layers n of each group that a loop runs over, and types.

    `dtype` is that of what is kept, `operands` that of the operands of matrix products.
    """

    groups: tuple[int, ...]
    kv_heads: int
    head_width: int
    dtype: str
    operands: str

    def empty(self, batch_size: int, length: int, room: int, groups: bool) -> Cache:
        """Return a cache of `length` slots, `room` of them open, and that keeps the groups of tokens or does not."""
        kept = ("segments", "positions", "groups") if groups else ("segments", "positions")
        return Cache(
            layers=tuple((self._part(n, batch_size, room),) if room else () for n in self.groups),
            tokens={name: jnp.zeros((batch_size, length), jnp.int32) for name in kept},
            index=jnp.zeros((), jnp.int32),
        )

    def grow(self, cache: Cache, room: int, copies: int = 1) -> Cache:
        """Return the full cache with a new part, and with `copies` rows for each."""
        tokens = {name: jnp.repeat(x_BS, copies, axis=0) for name, x_BS in cache.tokens.items()}
        rows = len(tokens["segments"])
        layers = zip(cache.layers, self.groups, strict=True)
        read = cache.layers[-1][-1][0][0, 0, 0, 0, 0]
        return Cache(tuple((*parts, self._part(n, rows, room, read)) for parts, n in layers), tokens, cache.index)

    def write(self, cache: Cache, written: Any, tokens: dict[str, Array], features_BQD: Array) -> Cache:
        """Write the new keys and values, and what is known of the new tokens, at the cache's index."""
        index = cache.index + tokens["segments"].shape[1]
        tokens = jax.tree.map(lambda old, new: _put(old, new, (0, cache.index)), cache.tokens, tokens)
        written = jax.tree.map(lambda new: new.astype(self.dtype), written)
        if not cache.layers[0]:
            return Cache(tuple((new,) for new in written), tokens, index)
        full = sum(part[0].shape[3] for part in cache.layers[0][:-1])
        # The place to write depends, by nothing, on the last value read: only then does XLA write in place. Without
        # it the cache is copied twice a token.
        at = cache.index - full + (features_BQD[0, 0, 0] < -jnp.inf)
        last = jax.tree.map(
            lambda old, new: _put(old, new, (0, 0, 0, at, 0)), tuple(parts[-1] for parts in cache.layers), written
        )
        layers = tuple((*parts[:-1], part) for parts, part in zip(cache.layers, last, strict=True))
        return Cache(layers, tokens, index)

    def _part(self, layers: int, rows: int, slots: int, read: Array | None = None) -> tuple[Array, Array]:
        # Behind the barrier the empty part is no constant: XLA would fold what attention makes of it, for minutes.
        # It depends, by nothing, on the last value read: else it stands there while the text before it is read.
        filling = 0 if read is None else (read < -jnp.inf).astype(self.dtype)
        empty = jnp.full((layers, rows, self.kv_heads, slots, self.head_width), filling, self.dtype)
        return jax.lax.optimization_barrier((empty, empty))

    def ready(self, params: Params) -> Params:
        """Return the parameters with the blocks group by group, each kernel in the type of its products.

        Behind the barrier, so that none of it is done again in every turn of a loop.
        """

        def group(start: int, stop: int) -> Any:
            def cast(path: Any, leaf: Array) -> Array:
                is_kernel = jax.tree_util.keystr(path[-1:], simple=True) == "kernel"
                return leaf[start:stop].astype(self.operands) if is_kernel else leaf[start:stop]

            return jax.tree_util.tree_map_with_path(cast, params["blocks"])

        ends = [sum(self.groups[: i + 1]) for i in range(len(self.groups))]
        blocks = tuple(group(stop - n, stop) for stop, n in zip(ends, self.groups, strict=True))
        return jax.lax.optimization_barrier({**params, "blocks": blocks})


def look_back(context: Context, cache: Cache, window: int | None) -> tuple[Context, dict[str, Array]]:
    """Return the context of new tokens that also see the cached ones, and what to remember of the new ones."""
    ids_BQ = context.positions.reshape(*context.positions.shape[:2], -1)[..., 0]
    segments_BQ = jnp.ones_like(ids_BQ) if context.segments is None else context.segments
    tokens = {"segments": segments_BQ, "positions": ids_BQ}
    if "groups" in cache.tokens:
        tokens["groups"] = jnp.zeros_like(ids_BQ) if context.groups is None else context.groups
    elif context.groups is not None:
        raise ConfigError("tokens have groups, which this cache does not keep: it must be made with groups=True")
    context = context._replace(segments=segments_BQ)
    slots = sum(part[0].shape[3] for part in cache.layers[0])
    if not slots:
        return context, tokens
    seen = {name: cached_BS[:, :slots] for name, cached_BS in cache.tokens.items()}
    allowed = cache_mask(segments_BQ, seen["segments"], cache.index, window)
    if "groups" in tokens:
        groups_BT = jnp.concatenate([seen["groups"], tokens["groups"]], axis=1)
        allowed = allowed & open_groups(tokens["groups"], groups_BT)
    positions_BT = jnp.concatenate([seen["positions"], ids_BQ], axis=1)
    return context._replace(past=Past(allowed, positions_BT)), tokens


def through_layers(
    block: Callable[..., Any], groups: tuple[Params, ...], x_MD: Array, cache: Cache, context: Context
) -> tuple[Array, Any]:
    """Run the blocks over the cached layers, group by group; return x and what each group must remember."""
    written = []
    for params, parts in zip(groups, cache.layers, strict=True):
        x_MD, new = jax.lax.scan(
            lambda x, layer: block({"params": layer[0]}, x, layer[1], context), x_MD, (params, parts)
        )
        written.append(new)
    return x_MD, tuple(written)


def _put(old: Array, new: Array, at: tuple[Any, ...]) -> Array:
    if old.dtype != jnp.bfloat16 or platform() != "cpu":
        return jax.lax.dynamic_update_slice(old, new, at)
    # XLA for CPU widens a whole array of bfloat16 to write a slot of it, but none of integers.
    old, new = (jax.lax.bitcast_convert_type(x, jnp.uint16) for x in (old, new))
    return jax.lax.bitcast_convert_type(jax.lax.dynamic_update_slice(old, new, at), jnp.bfloat16)
